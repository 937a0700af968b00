//! The two older dialects: other paths and names, and the rules of the token API.

use std::time::Duration;

use gapura::account::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};
use crate::token_api::claims_of;

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);

/// How each of the dialects logs in and refreshes.
const ENVELOPE: Dialect = Dialect {
    login: "/api/auth/login",
    name: "email",
    refresh: "/api/auth/refresh",
    token: "refresh_token",
};
const CAMEL: Dialect = Dialect {
    login: "/login",
    name: "username",
    refresh: "/refresh",
    token: "refreshToken",
};

#[derive(Clone, Copy)]
struct Dialect {
    login: &'static str,
    name: &'static str,
    refresh: &'static str,
    token: &'static str,
}

impl Dialect {
    async fn log_in(&self, app: &TestApp, name: &str, password: &str) -> Answer {
        let body = json!({self.name: name, "password": password});
        post(app, self.login, &body).await
    }

    async fn present(&self, app: &TestApp, token: &Value) -> Answer {
        post(app, self.refresh, &json!({self.token: token})).await
    }

    /// The refresh token of an answer.
    fn given(&self, answer: &Answer) -> Value {
        let body = answer.json();
        let data = body.get("data").unwrap_or(&body);
        data[self.token].clone()
    }

    /// Asserts the whole of an error.
    #[track_caller]
    fn refuses(&self, answer: &Answer, status: u16, code: &str) {
        let body = answer.json();
        assert_eq!(answer.status, status, "{body}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(!answer.headers.contains_key("set-cookie"), "{answer:?}");
        let challenged = answer.header("www-authenticate").starts_with("Bearer ");
        let needs_challenge = status == 401 || code == "insufficient_scope";
        assert_eq!(challenged, needs_challenge);
        assert_eq!(answer.headers.contains_key("retry-after"), status == 429);
        if self.login == CAMEL.login {
            assert_eq!(answer.header("content-type"), "application/problem+json");
            let mut expected = json!({
                "type": format!("urn:gapura:problem:{code}"),
                "title": body["title"],
                "status": status,
                "detail": body["detail"],
                "message": body["detail"],
                "code": code,
                "request_id": answer.header("x-request-id"),
            });
            if code == "validation_failed" {
                expected["errors"] = body["errors"].clone();
            }
            assert_eq!(body, expected);
            assert!(body["title"].is_string() && body["detail"].is_string());
        } else {
            assert_eq!(answer.header("content-type"), "application/json");
            let message = &body["error"]["message"];
            let error = json!({"code": code, "message": message});
            assert_eq!(body, json!({"success": false, "error": error}));
            assert!(message.as_str().is_some_and(|text| text.contains(' ')));
        }
    }

    /// Asserts that an error is about that field.
    #[track_caller]
    fn blames(&self, answer: &Answer, field: &str) {
        self.refuses(answer, 422, "validation_failed");
        let body = answer.json();
        if self.login == CAMEL.login {
            let fields: Vec<_> = body["errors"].as_object().unwrap().keys().collect();
            assert_eq!(fields, [field], "{body}");
        } else {
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.starts_with(&format!("{field}: ")), "{body}");
        }
    }
}

async fn ask(app: &TestApp, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = app.call(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

async fn post(app: &TestApp, path: &str, body: &Value) -> Answer {
    Answer::of(app.call(Method::POST, path).json(body)).await
}

/// A body as it is, under that content type.
async fn post_text(app: &TestApp, path: &str, kind: &str, body: &str) -> Answer {
    let request = app.call(Method::POST, path).header("content-type", kind);
    Answer::of(request.body(body.to_owned())).await
}

async fn by_bearer(app: &TestApp, method: Method, path: &str, token: &Value) -> Answer {
    let token = token.as_str().expect("a token");
    Answer::of(app.call(method, path).bearer_auth(token)).await
}

/// Whom a credential stands for, by the header that carries it.
async fn me(app: &TestApp, header: &str, value: &str) -> Answer {
    ask(app, Method::GET, "/api/v1/me", &[(header, value)]).await
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[actix_web::test]
async fn in_an_envelope_a_program_logs_in_calls_refreshes_and_logs_out() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let body = json!({"email": "Root@example.org", "password": TestApp::PASSWORD, "device_name": "Till 3"});
        let answer = post(&app, "/api/auth/login", &body).await.expect(200);
        assert!(!answer.headers.contains_key("set-cookie"));
        assert_eq!(answer.header("cache-control"), "no-store");
        let first = answer.json()["data"].clone();
        let id = claims_of(text(&first["jwt_token"]))["sub"].clone();
        assert_eq!(
            answer.json(),
            json!({"success": true, "data": {
                "user": {"id": id, "username": "root", "email": "root@example.org", "name": "root", "role": "admin"},
                "jwt_token": first["jwt_token"], "sanctum_token": first["sanctum_token"],
                "refresh_token": first["refresh_token"], "expires_in": 1800,
            }})
        );
        app.advance(SECOND);
        let answer = ENVELOPE.present(&app, &first["refresh_token"]).await;
        let answer = answer.expect(200);
        let second = answer.json()["data"].clone();
        assert_eq!(
            answer.json(),
            json!({"success": true, "data": {
                "jwt_token": second["jwt_token"], "refresh_token": second["refresh_token"], "expires_in": 1800,
            }})
        );
        assert_ne!(first["refresh_token"], second["refresh_token"]);

        // Listed as any other login, under the name that the device gave.
        let list = by_bearer(&app, Method::GET, "/api/v1/sessions", &second["jwt_token"]).await;
        let list = list.expect(200).json();
        let login = &list["data"][0];
        assert_eq!(
            (&login["device"], &login["kind"]),
            (&json!("Till 3"), &json!("api"))
        );

        let people = by_bearer(&app, Method::GET, "/api/users", &second["jwt_token"]).await;
        let people = people.expect(200).json();
        let user = |at: usize, name: &str| json!({"id": people["data"][at]["id"], "name": name, "email": format!("{name}@example.org")});
        assert_eq!(
            people,
            json!({"success": true, "data": [user(0, "ada"), user(1, "bob"), user(2, "root")]})
        );
        assert!(people["data"][0]["id"].is_string());

        let out = by_bearer(&app, Method::POST, "/api/auth/logout", &second["jwt_token"]);
        assert_eq!(out.await.expect(200).json(), json!({"success": true}));
        for access in [&first["jwt_token"], &second["jwt_token"]] {
            let answer = by_bearer(&app, Method::GET, "/api/users", access).await;
            ENVELOPE.refuses(&answer, 401, "token_revoked");
        }
        let answer = ENVELOPE.present(&app, &second["refresh_token"]).await;
        ENVELOPE.refuses(&answer, 401, "refresh_reused");
        let sanctum = [("x-sanctum-token", text(&first["sanctum_token"]))];
        let answer = ask(&app, Method::GET, "/api/users", &sanctum).await;
        ENVELOPE.refuses(&answer, 401, "token_revoked");
    }
}

#[actix_web::test]
async fn in_json_a_program_logs_in_calls_and_refreshes_without_a_cookie() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        for name in ["ada", "ADA@example.org"] {
            let answer = CAMEL.log_in(&app, name, TestApp::PASSWORD).await;
            let answer = answer.expect(200);
            assert!(!answer.headers.contains_key("set-cookie"));
            assert_eq!(answer.header("cache-control"), "no-store");
            assert_eq!(answer.header("content-type"), "application/json");
            let first = answer.json();
            let whole = |pair: &Value| json!({"token": pair["token"], "refreshToken": pair["refreshToken"], "expiresIn": 1800});
            assert_eq!(first, whole(&first));
            app.advance(SECOND);
            let answer = CAMEL.present(&app, &first["refreshToken"]).await;
            let second = answer.expect(200).json();
            assert_eq!(second, whole(&second));
            assert_ne!(first["refreshToken"], second["refreshToken"]);
            let me = by_bearer(&app, Method::GET, "/api/v1/me", &second["token"]).await;
            assert_eq!(me.expect(200).json()["data"]["username"], "ada");
            let out = by_bearer(&app, Method::POST, "/api/v1/auth/logout", &second["token"]);
            out.await.expect(200);
            let answer = CAMEL.present(&app, &second["refreshToken"]).await;
            CAMEL.refuses(&answer, 401, "refresh_reused");
        }
    }
}

#[actix_web::test]
async fn a_device_has_one_personal_token_that_ends_with_its_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let log_in = async |device: Option<&str>| {
            let mut body = json!({"email": "ada", "password": TestApp::PASSWORD});
            if let Some(device) = device {
                body["device_name"] = json!(device);
            }
            let answer = post(&app, "/api/auth/login", &body).await.expect(200);
            answer.json()["data"].clone()
        };
        let good = async |login: &Value| {
            let answer = me(&app, "x-sanctum-token", text(&login["sanctum_token"])).await;
            let is_good = answer.status == 200;
            match is_good {
                true => assert_eq!(answer.header("x-auth-method"), "personal-token"),
                false => assert_eq!(answer.expect(401).json()["code"], "token_revoked"),
            }
            is_good
        };
        // One that the person made under the same name is none of a login's business.
        let till = log_in(Some("Till")).await;
        let jwt = text(&till["jwt_token"]).to_owned();
        let made = app.call(Method::POST, "/api/v1/tokens").bearer_auth(&jwt);
        let made = Answer::of(made.json(&json!({"name": "Till"}))).await;
        let made = made.expect(201).json()["data"].clone();
        let nameless = [log_in(None).await, log_in(None).await];
        let other = log_in(Some("Till 2")).await;
        assert!(good(&till).await);
        let again = log_in(Some("Till")).await;
        assert!(!good(&till).await, "replaced");
        me(&app, "authorization", &format!("Bearer {jwt}"))
            .await
            .expect(200);
        for login in [&again, &other, &nameless[0], &nameless[1]] {
            assert!(good(login).await);
        }
        let own = format!("Bearer {}", text(&made["token"]));
        me(&app, "authorization", &own).await.expect(200);

        // Everything, and no longer than the login.
        let bearer = format!("Bearer {}", text(&again["jwt_token"]));
        let headers = [("authorization", bearer.as_str())];
        let list = ask(&app, Method::GET, "/api/v1/tokens", &headers).await;
        let list = list.expect(200).json();
        let (id, _) = text(&again["sanctum_token"]).split_once('|').unwrap();
        let listed = list["data"].as_array().unwrap();
        assert_eq!(listed.len(), 5);
        let entry = listed.iter().find(|token| token["id"] == id).unwrap();
        assert_eq!(entry["name"], "Till");
        assert_eq!(entry["scopes"], json!(["*"]));
        assert_eq!(entry["expires_at"], json!(app.now() + 30 * DAY));
        // It may do what a personal token may, and no more.
        let token = format!("Bearer {}", text(&again["sanctum_token"]));
        let make = app
            .call(Method::POST, "/api/v1/tokens")
            .header("authorization", &token);
        let answer =
            Answer::of(make.json(&json!({"name": "x", "current_password": TestApp::PASSWORD})));
        assert_eq!(answer.await.expect(403).json()["code"], "forbidden");
        let by_token = [("authorization", token.as_str())];
        let answer = ask(&app, Method::POST, "/api/auth/logout", &by_token).await;
        ENVELOPE.refuses(&answer, 403, "forbidden");

        ask(&app, Method::POST, "/api/auth/logout", &headers)
            .await
            .expect(200);
        assert!(!good(&again).await, "ended");
        assert!(good(&other).await);
        // What has ended is not shown as if it still were something.
        let path = "/api/v1/tokens";
        let list = by_bearer(&app, Method::GET, path, &other["jwt_token"]).await;
        let list = list.expect(200).json();
        assert_eq!(list["data"].as_array().unwrap().len(), 4);
        let recorded = "SELECT COUNT(*) AS number FROM audit_events WHERE kind = 'token_revoked'";
        assert_eq!(app.count(recorded.to_owned()).await, 1);
    }
}

#[actix_web::test]
async fn a_short_login_has_a_short_personal_token() {
    for (login, personal, lives) in [("2d", "365d", 2), ("30d", "1d", 1)] {
        let settings = [
            ("GAPURA_LOGIN_LIFETIME", login),
            ("GAPURA_REFRESH_TOKEN_LIFETIME", "1d"),
            ("GAPURA_PERSONAL_TOKEN_LIFETIME", personal),
        ];
        let app = TestApp::start_with(Backend::Embedded, &settings).await;
        let answer = ENVELOPE.log_in(&app, "ada", TestApp::PASSWORD).await;
        let token = answer.expect(200).json()["data"]["sanctum_token"].clone();
        let ends = app.now() + lives * DAY;
        let headers = [("x-sanctum-token", text(&token))];
        let list = ask(&app, Method::GET, "/api/v1/tokens", &headers).await;
        assert_eq!(
            list.expect(200).json()["data"][0]["expires_at"],
            json!(ends)
        );
        app.advance(lives * DAY - SECOND);
        me(&app, "x-sanctum-token", text(&token)).await.expect(200);
        app.advance(SECOND);
        me(&app, "x-sanctum-token", text(&token)).await.expect(401);
    }
}

#[actix_web::test]
async fn errors_are_told_in_the_manner_of_the_dialect() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let json = "application/json; charset=utf-8";
        for dialect in [ENVELOPE, CAMEL] {
            let Dialect {
                login,
                name,
                refresh,
                token,
            } = dialect;
            let answer = dialect.log_in(&app, "ada", "not the password").await;
            dialect.refuses(&answer, 401, "invalid_credentials");
            let unknown = dialect.log_in(&app, "nobody", "not the password").await;
            dialect.refuses(&unknown, 401, "invalid_credentials");
            for path in [login, refresh] {
                let answer = post_text(&app, path, json, "{").await;
                dialect.refuses(&answer, 400, "malformed_request");
                let answer = post_text(&app, path, json, "[]").await;
                dialect.blames(&answer, "body");
                let long = post_text(&app, path, json, &"x".repeat(65 * 1024)).await;
                dialect.refuses(&long, 413, "payload_too_large");
                // On /login what is sent says who is asked: a page, or this.
                for method in [Method::DELETE, Method::PUT] {
                    let answer = ask(&app, method, path, &[]).await.expect(405);
                    if path != CAMEL.login {
                        dialect.refuses(&answer, 405, "method_not_allowed");
                        assert_eq!(answer.header("allow"), "POST");
                    }
                }
            }
            for kind in ["text/plain", "application/x-www-form-urlencoded"] {
                let answer = post_text(&app, refresh, kind, "{}").await;
                dialect.refuses(&answer, 415, "unsupported_media_type");
            }
            for wrong in [json!(1), json!(""), json!("a\u{0}"), json!(null)] {
                let mut body = json!({name: "ada", "password": TestApp::PASSWORD});
                body[name] = wrong;
                dialect.blames(&post(&app, login, &body).await, name);
            }
            let answer = post(&app, login, &json!({name: "ada"})).await;
            dialect.blames(&answer, "password");
            for wrong in [json!(1), json!(""), json!([])] {
                let answer = post(&app, refresh, &json!({token: wrong})).await;
                dialect.blames(&answer, token);
            }
            let answer = post(&app, refresh, &json!({})).await;
            dialect.refuses(&answer, 401, "refresh_missing");
            let answer = dialect.present(&app, &json!("x")).await;
            dialect.refuses(&answer, 401, "refresh_invalid");
        }
        for path in [
            "/api/auth",
            "/api/auth/nothing",
            "/api/auth/login/",
            "/api/users/1",
        ] {
            let answer = ask(&app, Method::GET, path, &[]).await;
            ENVELOPE.refuses(&answer, 404, "not_found");
        }
        let answer = ask(&app, Method::GET, "/refresh/", &[]).await;
        CAMEL.refuses(&answer, 404, "not_found");
        // What only begins alike is told as before.
        for path in ["/api/authors", "/api/v1/nothing", "/api/usersx"] {
            let answer = ask(&app, Method::GET, path, &[]).await;
            CAMEL.refuses(&answer, 404, "not_found");
        }
        for path in ["/refreshments", "/login/x"] {
            let answer = ask(&app, Method::GET, path, &[]).await.expect(404);
            assert!(answer.body.contains("</html>"), "{path}");
        }
        for (method, path) in [
            (Method::POST, "/api/auth/logout"),
            (Method::GET, "/api/users"),
        ] {
            let answer = ask(&app, method.clone(), path, &[]).await;
            ENVELOPE.refuses(&answer, 401, "token_missing");
            let bad = [("authorization", "Bearer x")];
            let answer = ask(&app, method, path, &bad).await;
            ENVELOPE.refuses(&answer, 401, "token_invalid");
        }
        let bad = [("x-sanctum-token", "x")];
        let answer = ask(&app, Method::GET, "/api/users", &bad).await;
        ENVELOPE.refuses(&answer, 401, "token_invalid");
    }
}

#[actix_web::test]
async fn guesses_are_limited_and_recorded_whatever_the_dialect() {
    for backend in Backend::ALL {
        for (dialect, other) in [(ENVELOPE, CAMEL), (CAMEL, ENVELOPE)] {
            let app = TestApp::start(backend).await;
            for _ in 0..5 {
                let answer = dialect.log_in(&app, "ada", "not the password").await;
                dialect.refuses(&answer, 401, "invalid_credentials");
            }
            for dialect in [dialect, other] {
                let answer = dialect.log_in(&app, "ada", TestApp::PASSWORD).await;
                dialect.refuses(&answer, 429, "rate_limited");
                let wait: u64 = answer.header("retry-after").parse().expect("seconds");
                assert!((1..=60).contains(&wait));
            }
            let failed = "SELECT COUNT(*) AS number FROM audit_events WHERE kind = 'login_failed'";
            assert_eq!(app.count(failed.to_owned()).await, 5);
            // A disabled account says so to the right password only.
            let bob = app.add_user("eve", Role::User).await.id;
            let now = app.now();
            let disabled = app
                .app
                .db
                .write(move |conn| gapura::account::set_disabled(conn, &bob, Some(now)));
            disabled.await.expect("disabled");
            let answer = dialect.log_in(&app, "eve", TestApp::PASSWORD).await;
            dialect.refuses(&answer, 403, "account_disabled");
            let answer = dialect.log_in(&app, "eve", "not the password").await;
            dialect.refuses(&answer, 401, "invalid_credentials");
        }
    }
}

#[actix_web::test]
async fn rotation_is_the_same_in_every_dialect() {
    for backend in Backend::ALL {
        for dialect in [ENVELOPE, CAMEL] {
            let app = TestApp::start(backend).await;
            let answer = dialect.log_in(&app, "ada", TestApp::PASSWORD).await;
            let first = dialect.given(&answer.expect(200));
            let second = dialect.given(&dialect.present(&app, &first).await.expect(200));
            // Within the grace, and by whichever road: the same successor.
            for other in [ENVELOPE, CAMEL] {
                let answer = other.present(&app, &first).await.expect(200);
                assert_eq!(other.given(&answer), second);
            }
            let third = dialect.given(&dialect.present(&app, &second).await.expect(200));
            app.advance(GRACE);
            let answer = dialect.present(&app, &first).await;
            dialect.refuses(&answer, 401, "refresh_reused");
            let answer = dialect.present(&app, &third).await;
            dialect.refuses(&answer, 401, "refresh_reused");
            let theft =
                "SELECT COUNT(*) AS number FROM audit_events WHERE cause = 'theft'".to_owned();
            assert_eq!(app.count(theft).await, 1);

            let answer = dialect.log_in(&app, "ada", TestApp::PASSWORD).await;
            let mut token = dialect.given(&answer.expect(200));
            for _ in 0..30 {
                token = dialect.given(&dialect.present(&app, &token).await.expect(200));
            }
            let answer = dialect.present(&app, &token).await;
            dialect.refuses(&answer, 429, "rate_limited");
            app.advance(7 * DAY);
            let answer = dialect.present(&app, &token).await;
            dialect.refuses(&answer, 401, "refresh_expired");
        }
    }
}

#[actix_web::test]
async fn a_login_in_json_signs_no_browser_in_and_out_of_nothing() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let body = json!({"username": "bob", "password": TestApp::PASSWORD});
        for site in ["same-origin", "cross-site"] {
            // Whatever cookies come with it, a dead session's too: it sets none, and reads none.
            let request = ada.bare(Method::POST, "/login");
            let request = request.header("sec-fetch-site", site).json(&body);
            let answer = Answer::of(request).await.expect(200);
            assert!(!answer.headers.contains_key("set-cookie"), "{answer:?}");
            let token = answer.json()["refreshToken"].clone();
            let request = ada.bare(Method::POST, "/refresh");
            let request = request.header("sec-fetch-site", site);
            let answer = Answer::of(request.json(&json!({"refreshToken": token}))).await;
            assert!(!answer.expect(200).headers.contains_key("set-cookie"));
        }
        let page = ada.open("/dashboard").await.expect(200);
        assert!(page.body.contains("ada"));
        let gone = ada.copied();
        ada.log_out().await.expect(303);
        let answer = Answer::of(gone.bare(Method::POST, "/login").json(&body)).await;
        assert!(!answer.expect(200).headers.contains_key("set-cookie"));

        // What another site's form can send is the page's, and needs the form's token.
        for kind in [
            "application/x-www-form-urlencoded",
            "text/plain",
            "multipart/form-data",
        ] {
            let answer = post_text(&app, "/login", kind, &body.to_string()).await;
            assert!([403, 415].contains(&answer.status), "{kind}");
            assert!(answer.body.contains("</html>"), "{kind}");
            assert_eq!(answer.set_cookies("gapura_session").len(), 0);
        }
        // Content types that contradict each other are nobody's.
        let twice = app.call(Method::POST, "/login");
        let twice = twice
            .header("content-type", "application/json")
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = Answer::of(twice.body(body.to_string())).await;
        assert_eq!(answer.status, 415);
    }
}

#[actix_web::test]
async fn people_are_told_to_administrators_alone_and_in_pieces() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = ENVELOPE.log_in(&app, "ada", TestApp::PASSWORD).await;
        let ada = ada.expect(200).json()["data"].clone();
        let root = ENVELOPE.log_in(&app, "root", TestApp::PASSWORD).await;
        let root = root.expect(200).json()["data"].clone();
        let answer = by_bearer(&app, Method::GET, "/api/users", &ada["jwt_token"]).await;
        ENVELOPE.refuses(&answer, 403, "forbidden");
        let users = async |token: &Value, path: &str| {
            ask(&app, Method::GET, path, &[("x-sanctum-token", text(token))]).await
        };
        let answer = users(&ada["sanctum_token"], "/api/users").await;
        ENVELOPE.refuses(&answer, 403, "forbidden");
        let answer = users(&root["sanctum_token"], "/api/users")
            .await
            .expect(200);
        assert_eq!(answer.header("x-auth-method"), "personal-token");
        assert_eq!(answer.header("link"), "");
        let make = async |scope: &str| {
            let request = app.call(Method::POST, "/api/v1/tokens");
            let request = request.bearer_auth(text(&root["jwt_token"]));
            let body = json!({"name": scope, "scopes": [scope]});
            let answer = Answer::of(request.json(&body)).await.expect(201);
            answer.json()["data"]["token"].clone()
        };
        let answer = users(&make("verify").await, "/api/users").await;
        ENVELOPE.refuses(&answer, 403, "insufficient_scope");
        users(&make("users:read").await, "/api/users")
            .await
            .expect(200);
        // A token of another person beside a genuine, expired JWT.
        app.advance(Duration::from_secs(1800));
        let mixed = [
            (
                "authorization",
                &*format!("Bearer {}", text(&ada["jwt_token"])),
            ),
            ("x-sanctum-token", text(&root["sanctum_token"])),
        ];
        let answer = ask(&app, Method::GET, "/api/users", &mixed).await;
        ENVELOPE.refuses(&answer, 401, "token_mismatch");

        for number in 0..200 {
            app.add_user(&format!("person-{number:03}"), Role::User)
                .await;
        }
        let answer = users(&root["sanctum_token"], "/api/users")
            .await
            .expect(200);
        let first = answer.json()["data"].as_array().unwrap().len();
        let link = answer.header("link").to_owned();
        let next = link.strip_prefix('<').and_then(|link| link.split_once('>'));
        let (next, rest) = next.expect("the next piece");
        assert_eq!((first, rest), (200, "; rel=\"next\""));
        let answer = users(&root["sanctum_token"], next).await.expect(200);
        assert_eq!(answer.json()["data"].as_array().unwrap().len(), 3);
        assert_eq!(answer.header("link"), "");
    }
}

#[actix_web::test]
async fn pages_of_listed_origins_may_use_either_dialect() {
    let origin = "https://app.example.org";
    let settings = [("GAPURA_CORS_ORIGINS", origin)];
    let app = TestApp::start_with(Backend::Embedded, &settings).await;
    for path in [
        ENVELOPE.login,
        ENVELOPE.refresh,
        CAMEL.login,
        CAMEL.refresh,
        "/api/users",
    ] {
        for (asking, allowed) in [(origin, origin), ("https://evil.example", "")] {
            let headers = [
                ("origin", asking),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "content-type"),
            ];
            let answer = ask(&app, Method::OPTIONS, path, &headers).await;
            let told = answer.header("access-control-allow-origin");
            assert_eq!(told, allowed, "{path}");
            let request = app.call(Method::POST, path).header("origin", asking);
            let answer = Answer::of(request.json(&json!({}))).await;
            let told = answer.header("access-control-allow-origin");
            assert_eq!(told, allowed, "{path}");
        }
    }
    let page = app.call(Method::GET, "/login").header("origin", origin);
    let page = Answer::of(page).await.expect(200);
    assert_eq!(page.header("access-control-allow-origin"), "");
}
