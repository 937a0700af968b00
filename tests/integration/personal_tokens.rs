//! Personal tokens: who may make one, what it opens, and when it no longer does.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use futures_util::future::{join, join_all};
use gapura::account::{self, Role};
use gapura::audit::Actor;
use gapura::caller::scope::Scope;
use gapura::command::cleanup;
use gapura::db::AnyConnection;
use gapura::login::{self, Cause, Client};
use gapura::token::personal::{self, Draft, Token};
use reqwest::Method;
use serde_json::{Value, json};

use crate::actors::{Answer, Browser};
use crate::chromium::{Chromium, Setup, serve};
use crate::faults::postgres::SomebodyElse;
use crate::harness::{Backend, TestApp};
use crate::openapi::{ID, operations};
use crate::program::until;
use crate::session::dump;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

impl TestApp {
    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request).await
    }

    async fn by_bearer(&self, method: Method, path: &str, token: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.ask(method, path, &[("authorization", &bearer)]).await
    }

    async fn me_by(&self, token: &str) -> Answer {
        self.by_bearer(Method::GET, "/api/v1/me", token).await
    }

    pub async fn access_token(&self, name: &str) -> String {
        let body = json!({"username": name, "password": TestApp::PASSWORD});
        let answer = Answer::of(
            self.http
                .post(format!("{}/api/v1/auth/token", self.url))
                .json(&body),
        )
        .await;
        text_of(&answer.expect(200).json()["data"]["access_token"])
    }

    async fn ask_for_token(&self, access: &str, body: &Value) -> Answer {
        let request = self.http.post(format!("{}/api/v1/tokens", self.url));
        Answer::of(request.bearer_auth(access).json(body)).await
    }

    /// The `data` of a new token.
    pub async fn make_token(&self, access: &str, scopes: &[&str]) -> Value {
        let body = json!({"name": "a test", "scopes": scopes});
        let answer = self.ask_for_token(access, &body).await.expect(201);
        answer.json()["data"].clone()
    }

    async fn number(&self, query: &'static str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let read = self.app.db.read(move |conn| {
            let row: Row = match conn {
                AnyConnection::Sqlite(conn) => diesel::sql_query(query).get_result(conn)?,
                AnyConnection::Postgres(conn) => diesel::sql_query(query).get_result(conn)?,
            };
            Ok(row.number)
        });
        read.await.expect("the database answers")
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(code_of(answer), code, "{}", answer.body);
}

#[track_caller]
fn served(answer: &Answer, method: &str, name: &str) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("x-auth-method"), method);
    assert_eq!(answer.json()["data"]["username"], name);
}

#[actix_web::test]
async fn a_token_is_made_used_listed_and_revoked() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let access = app.access_token("ada").await;
        let wanted = json!({
            "name": " backup job ", "scopes": ["sessions:read", "profile:read", "sessions:read"], "expires_in_days": 30,
        });
        let answer = app.ask_for_token(&access, &wanted).await.expect(201);
        assert_eq!(answer.header("cache-control"), "no-store");
        let made = answer.json();
        let (id, token) = (
            text_of(&made["data"]["id"]),
            text_of(&made["data"]["token"]),
        );
        let shown = json!({
            "id": id, "name": "backup job", "scopes": ["profile:read", "sessions:read"],
            "created_at": app.now(), "expires_at": app.now() + 30 * DAY,
            "last_used_at": null, "last_used_ip": null,
        });
        let mut whole = shown.clone();
        whole["token"] = json!(token);
        let message = "The token was made. It is shown only this once.";
        assert_eq!(
            made,
            json!({"status": 201, "message": message, "data": whole})
        );
        let (start, rest) = token.split_once('|').expect("a bar");
        assert_eq!((start, &rest[..4], rest.len()), (id.as_str(), "gpr_", 50));

        served(&app.me_by(&token).await, "personal-token", "ada");
        let status = app
            .by_bearer(Method::GET, "/api/v1/auth/token-status", &token)
            .await;
        assert_eq!(
            status.json()["data"],
            json!({
                "valid": true, "needs_refresh": false, "time_until_expiry": 30 * 86_400,
                "expires_at": app.now() + 30 * DAY, "username": "ada", "role": "user",
            })
        );

        let bob = app.access_token("bob").await;
        let path = format!("/api/v1/tokens/{id}");
        refused(
            &app.by_bearer(Method::DELETE, &path, &bob).await,
            404,
            "not_found",
        );
        let list = app.by_bearer(Method::GET, "/api/v1/tokens", &bob).await;
        assert_eq!(list.json()["data"], json!([]));

        app.by_bearer(Method::DELETE, &path, &access)
            .await
            .expect(200);
        refused(&app.me_by(&token).await, 401, "token_revoked");
        let status = app
            .by_bearer(Method::GET, "/api/v1/auth/token-status", &token)
            .await;
        assert_eq!(status.json()["data"]["valid"], false);
        assert_eq!(status.json()["data"]["reason"], "token_revoked");
        refused(
            &app.by_bearer(Method::DELETE, &path, &access).await,
            404,
            "not_found",
        );
        let events = app
            .number("SELECT COUNT(*) AS number FROM audit_events WHERE kind IN ('token_created', 'token_revoked') AND detail = 'backup job'")
            .await;
        assert_eq!(events, 2);
    }
}

#[actix_web::test]
async fn the_list_comes_in_pieces_newest_first_and_without_secrets() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let access = app.access_token("ada").await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.insert(0, app.make_token(&access, &["*"]).await["id"].clone());
        }
        let first = app
            .by_bearer(Method::GET, "/api/v1/tokens?limit=2", &access)
            .await;
        let first = first.expect(200).json();
        assert!(first["data"][0].get("token").is_none());
        let next = text_of(&first["meta"]["next"]);
        let path = format!("/api/v1/tokens?limit=2&cursor={next}");
        let second = app.by_bearer(Method::GET, &path, &access).await.json();
        assert_eq!(second["meta"]["next"], Value::Null);
        let seen = [&first["data"], &second["data"]]
            .into_iter()
            .flat_map(|piece| piece.as_array().expect("a list"))
            .map(|token| token["id"].clone());
        assert_eq!(seen.collect::<Vec<_>>(), ids);
        let twice = "/api/v1/tokens?limit=1&limit=2";
        let twice = app.by_bearer(Method::GET, twice, &access).await;
        refused(&twice, 422, "validation_failed");
        let told = json!({"limit": ["This field is given twice."]});
        assert_eq!(twice.json()["errors"], told);
        let strange = "/api/v1/tokens?x=1&x=2";
        let strange = app.by_bearer(Method::GET, strange, &access).await;
        strange.expect(200);
    }
}

#[actix_web::test]
async fn a_wanted_token_is_checked_field_by_field() {
    let app = TestApp::start_with(
        Backend::Embedded,
        &[("GAPURA_PERSONAL_TOKEN_LIFETIME", "60d")],
    )
    .await;
    let access = app.access_token("ada").await;
    let long = "x".repeat(101);
    for (field, body) in [
        ("name", json!({})),
        ("name", json!({"name": "  "})),
        ("name", json!({"name": long})),
        ("name", json!({"name": "a\u{202e}b"})),
        ("name", json!({"name": 1})),
        ("scopes", json!({"name": "x", "scopes": []})),
        ("scopes", json!({"name": "x", "scopes": ["everything"]})),
        ("scopes", json!({"name": "x", "scopes": "*"})),
        (
            "expires_in_days",
            json!({"name": "x", "expires_in_days": 0}),
        ),
        (
            "expires_in_days",
            json!({"name": "x", "expires_in_days": 61}),
        ),
        (
            "expires_in_days",
            json!({"name": "x", "expires_in_days": -1}),
        ),
    ] {
        let answer = app.ask_for_token(&access, &body).await;
        refused(&answer, 422, "validation_failed");
        let errors = answer.json()["errors"].clone();
        let fields: Vec<_> = errors.as_object().expect("errors").keys().collect();
        assert_eq!(fields, [field], "{body}");
        let sentence = text_of(&errors[field][0]);
        assert!(
            !sentence.contains("tokens.") && !sentence.contains('%'),
            "{sentence}"
        );
    }
    // Without scopes it is all of them, without days the longest life.
    let made = app.ask_for_token(&access, &json!({"name": "x"})).await;
    let made = made.expect(201).json();
    assert_eq!(made["data"]["scopes"], json!(["*"]));
    assert_eq!(made["data"]["expires_at"], json!(app.now() + 60 * DAY));
}

#[actix_web::test]
async fn making_a_token_needs_a_password_given_lately_and_never_a_token() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let access = app.access_token("ada").await;
        let token = text_of(&app.make_token(&access, &["*"]).await["token"]);
        let body = json!({"name": "another"});
        refused(&app.ask_for_token(&token, &body).await, 403, "forbidden");
        let with_password = json!({"name": "another", "current_password": TestApp::PASSWORD});
        refused(
            &app.ask_for_token(&token, &with_password).await,
            403,
            "forbidden",
        );

        app.advance(10 * MINUTE);
        refused(
            &app.ask_for_token(&access, &body).await,
            403,
            "reauthentication_required",
        );
        let wrong = json!({"name": "another", "current_password": "not the password"});
        let answer = app.ask_for_token(&access, &wrong).await;
        refused(&answer, 422, "validation_failed");
        assert!(answer.json()["errors"]["current_password"].is_array());
        let made = app.ask_for_token(&access, &with_password).await;
        made.expect(201);
        let failed = "SELECT COUNT(*) AS number FROM audit_events WHERE kind = 'login_failed'";
        assert_eq!(app.number(failed).await, 1);
        let tokens = "SELECT COUNT(*) AS number FROM personal_tokens";
        assert_eq!(app.number(tokens).await, 2);
    }
}

#[actix_web::test]
async fn a_login_that_has_ended_makes_no_token() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let eve = app.add_user("eve", Role::User).await;
        let (now, client) = (app.now(), nobody());
        let draft = Draft::check("late", None, None, DAY).expect("a draft");
        let (token, _) = Token::new(&app.app.secrets, gapura::id::new(now), &eve.id, &draft, now);
        let created = app.app.db.write(move |conn| {
            let login = login::begin(conn, &eve, login::Kind::Api, &client, DAY, now)?;
            let login = login.expect("a login");
            login::end(conn, &login, Cause::Theft, None, now)?;
            personal::create(conn, &token, &login.id, &client)
        });
        assert!(!created.await.expect("an answer"));
    }
}

fn nobody() -> Client {
    Client {
        device: String::new(),
        ip: "192.0.2.1".to_owned(),
    }
}

#[actix_web::test]
async fn the_first_credential_that_answers_is_the_caller() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let access = app.access_token("ada").await;
        let token = text_of(&app.make_token(&access, &["*"]).await["token"]);
        let bob = app.access_token("bob").await;
        let bobs = text_of(&app.make_token(&bob, &["*"]).await["token"]);
        let me = async |headers: &[(&str, &str)]| app.ask(Method::GET, "/api/v1/me", headers).await;
        let bearer = |token: &str| format!("Bearer {token}");
        let (jwt, personal) = (bearer(&access), bearer(&token));
        const SANCTUM: &str = "x-sanctum-token";

        // 1: a good JWT is the only thing read.
        let one = me(&[("authorization", &jwt), (SANCTUM, &bobs)]).await;
        served(&one, "jwt", "ada");
        let one = me(&[("authorization", &jwt), (SANCTUM, "nonsense")]).await;
        served(&one, "jwt", "ada");
        // 4: as bearer.
        let four = me(&[("authorization", &personal), (SANCTUM, &bobs)]).await;
        served(&four, "personal-token", "ada");
        // 5: beside nothing, or beside what is no good JWT.
        served(&me(&[(SANCTUM, &token)]).await, "personal-token", "ada");
        let other = me(&[("x-personal-token", &token)]).await;
        served(&other, "personal-token", "ada");
        for bad in [
            "Bearer nonsense",
            "Basic YWRhOmFkYQ==",
            "Bearer a|b",
            "Bearer",
        ] {
            let five = me(&[("authorization", bad), (SANCTUM, &token)]).await;
            served(&five, "personal-token", "ada");
        }
        refused(&me(&[(SANCTUM, &access)]).await, 401, "token_invalid");
        refused(&me(&[(SANCTUM, "")]).await, 401, "token_invalid");
        let twice = me(&[(SANCTUM, &token), (SANCTUM, &bobs)]).await;
        refused(&twice, 401, "token_invalid");
        // 6: the session only where there is neither.
        let browser = Browser::new(&app, "bob").log_in().await;
        let cookie = browser.cookie_header();
        served(&me(&[("cookie", &cookie)]).await, "session", "bob");
        let five = me(&[("cookie", &cookie), (SANCTUM, &token)]).await;
        served(&five, "personal-token", "ada");
        let seven = me(&[("cookie", &cookie), (SANCTUM, "nonsense")]).await;
        refused(&seven, 401, "token_invalid");

        // A genuine JWT that is no longer good still says whose tokens may stand beside it.
        let out = app
            .by_bearer(Method::POST, "/api/v1/auth/logout", &access)
            .await;
        out.expect(200);
        let five = me(&[("authorization", &jwt), (SANCTUM, &token)]).await;
        served(&five, "personal-token", "ada");
        let mixed = me(&[("authorization", &jwt), (SANCTUM, &bobs)]).await;
        refused(&mixed, 401, "token_mismatch");
        app.advance(30 * MINUTE);
        let expired = bearer(&bob);
        refused(
            &me(&[("authorization", &expired)]).await,
            401,
            "token_expired",
        );
        let five = me(&[("authorization", &expired), (SANCTUM, &bobs)]).await;
        served(&five, "personal-token", "bob");
        let mixed = me(&[("authorization", &expired), (SANCTUM, &token)]).await;
        refused(&mixed, 401, "token_mismatch");
        // 7: the code of what was read first.
        let seven = me(&[("authorization", &expired), (SANCTUM, "nonsense")]).await;
        refused(&seven, 401, "token_expired");
        assert_eq!(
            seven.header("www-authenticate"),
            "Bearer realm=\"gapura\", error=\"invalid_token\""
        );
        // Of two personal tokens the same holds.
        app.advance(365 * DAY);
        let access = app.access_token("bob").await;
        let fresh = text_of(&app.make_token(&access, &["*"]).await["token"]);
        refused(
            &me(&[("authorization", &personal)]).await,
            401,
            "token_expired",
        );
        let mixed = me(&[("authorization", &personal), (SANCTUM, &fresh)]).await;
        refused(&mixed, 401, "token_mismatch");
        let old = bearer(&bobs);
        let five = me(&[("authorization", &old), (SANCTUM, &fresh)]).await;
        served(&five, "personal-token", "bob");
    }
}

#[actix_web::test]
async fn a_token_expires_to_the_millisecond() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let access = app.access_token("ada").await;
        let body = json!({"name": "x", "expires_in_days": 1});
        let made = app.ask_for_token(&access, &body).await.expect(201).json();
        let token = text_of(&made["data"]["token"]);
        app.advance(DAY - Duration::from_millis(1));
        served(&app.me_by(&token).await, "personal-token", "ada");
        app.advance(Duration::from_millis(1));
        refused(&app.me_by(&token).await, 401, "token_expired");
    }
}

#[actix_web::test]
async fn a_revoked_token_is_dead_at_once_here_and_within_a_second_elsewhere() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let other = TestApp::join(Arc::clone(&app.installation), Arc::clone(&app.clock), &[]).await;
        let access = app.access_token("ada").await;
        let made = app.make_token(&access, &["*"]).await;
        let token = text_of(&made["token"]);
        served(&app.me_by(&token).await, "personal-token", "ada");
        served(&other.me_by(&token).await, "personal-token", "ada");
        let path = format!("/api/v1/tokens/{}", text_of(&made["id"]));
        let gone = app.by_bearer(Method::DELETE, &path, &token).await;
        gone.expect(200);
        refused(&app.me_by(&token).await, 401, "token_revoked");
        app.advance(SECOND);
        refused(&other.me_by(&token).await, 401, "token_revoked");
    }
}

#[actix_web::test]
async fn all_tokens_of_a_person_are_revoked_together() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (ada, bob) = (app.access_token("ada").await, app.access_token("bob").await);
        let mine = [
            text_of(&app.make_token(&ada, &["*"]).await["token"]),
            text_of(&app.make_token(&ada, &["verify", "profile:read"]).await["token"]),
        ];
        let bobs = text_of(&app.make_token(&bob, &["*"]).await["token"]);
        for token in mine.iter().chain([&bobs]) {
            app.me_by(token).await.expect(200);
        }
        let now = app.now();
        let revoked = app.app.db.write(move |conn| {
            let ada = account::by_login_name(conn, "ada")?.expect("ada");
            personal::revoke_all_of(conn, &ada.id, Actor::person(&ada.id, &nobody()), now)
        });
        assert_eq!(revoked.await.expect("an answer"), 2);
        app.app.personal_tokens.forget();
        for token in &mine {
            refused(&app.me_by(token).await, 401, "token_revoked");
        }
        served(&app.me_by(&bobs).await, "personal-token", "bob");
    }
}

#[actix_web::test]
async fn a_token_waits_while_its_person_is_disabled() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let eve = app.add_user("eve", Role::User).await;
        let access = app.access_token("eve").await;
        let token = text_of(&app.make_token(&access, &["*"]).await["token"]);
        served(&app.me_by(&token).await, "personal-token", "eve");
        let disable = async |at| {
            let id = eve.id.clone();
            let set = app
                .app
                .db
                .write(move |conn| account::set_disabled(conn, &id, at));
            set.await.expect("an answer");
            app.advance(SECOND);
        };
        disable(Some(app.now())).await;
        refused(&app.me_by(&token).await, 401, "token_revoked");
        disable(None).await;
        served(&app.me_by(&token).await, "personal-token", "eve");
    }
}

#[actix_web::test]
async fn a_token_that_came_with_a_login_ends_with_it() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let eve = app.add_user("eve", Role::User).await;
        let (now, client) = (app.now(), nobody());
        let draft = Draft::check("app", None, None, DAY).expect("a draft");
        let (mut token, text) =
            Token::new(&app.app.secrets, gapura::id::new(now), &eve.id, &draft, now);
        let login = app.app.db.write(move |conn| {
            let login = login::begin(conn, &eve, login::Kind::Api, &client, 9 * DAY, now)?;
            let login = login.expect("a login");
            token.login_id = Some(login.id.clone());
            personal::create(conn, &token, &login.id, &client)?;
            Ok(login)
        });
        let login = login.await.expect("a login");
        served(&app.me_by(text.expose()).await, "personal-token", "eve");
        let ended = login.clone();
        let end = app
            .app
            .db
            .write(move |conn| login::end(conn, &ended, Cause::LoggedOut, None, now));
        assert!(end.await.expect("an answer"));
        app.app.announce(&login, Cause::LoggedOut);
        refused(&app.me_by(text.expose()).await, 401, "token_revoked");
        // And goes when the login is forgotten.
        app.advance(17 * DAY);
        let swept = cleanup::sweep(&app.app.db, &app.app.config, app.now()).await;
        assert_eq!(swept.expect("swept").logins, 1);
        let left = "SELECT COUNT(*) AS number FROM personal_tokens";
        assert_eq!(app.number(left).await, 0);
    }
}

#[actix_web::test]
async fn a_busy_token_notes_its_use_once_a_minute_on_however_many_nodes() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let other = TestApp::join(Arc::clone(&app.installation), Arc::clone(&app.clock), &[]).await;
        let access = app.access_token("ada").await;
        let made = app.make_token(&access, &["*"]).await;
        let token = text_of(&made["token"]);
        // The database itself counts the writes.
        let count = app.app.db.write(|conn| {
            let (start, end) = match conn {
                AnyConnection::Sqlite(_) => ("CREATE TRIGGER counting AFTER UPDATE ON personal_tokens BEGIN INSERT INTO writes VALUES (1); END", ""),
                AnyConnection::Postgres(_) => (
                    "CREATE FUNCTION counting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO writes VALUES (1); RETURN NULL; END $$;",
                    "CREATE TRIGGER counting AFTER UPDATE ON personal_tokens FOR EACH ROW EXECUTE FUNCTION counting()",
                ),
            };
            conn.batch_execute(&format!("CREATE TABLE writes (one INTEGER); {start}{end}"))
        });
        count.await.expect("a trigger");
        let writes = "SELECT COUNT(*) AS number FROM writes";
        let burst = async || {
            let requests = (0..200).map(|number| {
                let node = if number % 2 == 0 { &app } else { &other };
                node.me_by(&token)
            });
            for answer in join_all(requests).await {
                answer.expect(200);
            }
        };
        let settled = async |expected: i64| {
            for _ in 0..100 {
                if app.number(writes).await == expected {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Behind whatever is still on its way.
            for node in [&app, &other] {
                node.app.db.write(|_| Ok(())).await.expect("a turn");
            }
            assert_eq!(app.number(writes).await, expected);
        };
        burst().await;
        settled(1).await;
        app.advance(MINUTE - Duration::from_millis(1));
        burst().await;
        settled(1).await;
        let list = app.by_bearer(Method::GET, "/api/v1/tokens", &access).await;
        let list = list.json();
        let used = app.now() - (MINUTE - Duration::from_millis(1));
        assert_eq!(list["data"][0]["last_used_at"], json!(used));
        assert_eq!(list["data"][0]["last_used_ip"], "127.0.0.1");
        app.advance(Duration::from_millis(1));
        burst().await;
        settled(2).await;
    }
}

#[actix_web::test]
async fn a_use_that_cannot_be_noted_just_now_keeps_one_connection_and_is_noted_later() {
    let app = TestApp::start(Backend::Shared).await;
    let access = app.access_token("ada").await;
    let token = text_of(&app.make_token(&access, &["*"]).await["token"]);
    let [mut somebody, mut another] =
        [(); 2].map(|()| SomebodyElse::at(app.installation.database_url()));
    somebody.execute("BEGIN; SELECT 1 FROM personal_tokens FOR UPDATE");
    // All look it up before one of them has.
    another.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE");
    let uses = join_all((0..32).map(|_| app.me_by(&token)));
    let let_go = async {
        until(5 * SECOND, || ready(another.waiting() > 1)).await;
        another.done();
    };
    for answer in join(uses, let_go).await.0 {
        answer.expect(200);
    }
    until(5 * SECOND, || ready(another.waiting() > 0)).await;
    for _ in 0..10 {
        assert_eq!(another.waiting(), 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until(5 * SECOND, || ready(another.waiting() == 0)).await;
    let noted = "SELECT COUNT(last_used_at) AS number FROM personal_tokens";
    assert_eq!(app.number(noted).await, 0);
    somebody.done();
    until(5 * SECOND, || async { app.number(noted).await == 1 }).await;
}

#[actix_web::test]
async fn however_many_tokens_uses_that_cannot_be_noted_leave_connections_to_those_who_ask() {
    let app = TestApp::start(Backend::Shared).await;
    let access = app.access_token("ada").await;
    let mut tokens = Vec::new();
    for _ in 0..24 {
        tokens.push(text_of(&app.make_token(&access, &["*"]).await["token"]));
    }
    let mut somebody = SomebodyElse::at(app.installation.database_url());
    somebody.execute("BEGIN; SELECT 1 FROM personal_tokens FOR UPDATE");
    for token in &tokens {
        app.me_by(token).await.expect(200);
        assert!(somebody.waiting() <= 4);
    }
    until(5 * SECOND, || ready(somebody.waiting() == 4)).await;
    somebody.done();
    let noted = "SELECT COUNT(last_used_at) AS number FROM personal_tokens";
    until(10 * SECOND, || async { app.number(noted).await == 24 }).await;
}

#[actix_web::test]
async fn a_mistyped_token_costs_no_query_and_a_busy_one_a_query_a_second() {
    let app = TestApp::start(Backend::Shared).await;
    let access = app.access_token("ada").await;
    let token = text_of(&app.make_token(&access, &["*"]).await["token"]);
    served(&app.me_by(&token).await, "personal-token", "ada");
    app.installation.close_database();
    let mut typo = token.clone().into_bytes();
    typo[60] = if typo[60] == b'A' { b'B' } else { b'A' };
    let typo = String::from_utf8(typo).expect("text");
    let cut = &token[..token.len() - 1];
    for wrong in [typo.as_str(), cut, "1|gpr_x", "|", &token.to_lowercase()] {
        refused(&app.me_by(wrong).await, 401, "token_invalid");
        let header = [("x-sanctum-token", wrong)];
        let answer = app.ask(Method::GET, "/api/v1/auth/token-status", &header);
        refused(&answer.await, 401, "token_missing");
    }
    // What was looked up within the last second needs no database.
    let path = "/api/v1/auth/token-status";
    let status = app.by_bearer(Method::GET, path, &token).await.expect(200);
    assert_eq!(status.json()["data"]["valid"], true);
    app.advance(SECOND);
    let waits = app.by_bearer(Method::GET, path, &token).await;
    refused(&waits, 503, "unavailable");
}

#[actix_web::test]
async fn what_is_stored_of_a_token_cannot_be_used() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let access = app.access_token("ada").await;
        let made = app.make_token(&access, &["*"]).await;
        let token = text_of(&made["token"]);
        served(&app.me_by(&token).await, "personal-token", "ada");
        let dump = dump(&app).await;
        assert!(dump.contains(&text_of(&made["id"])), "the dump is one");
        let (_, secret) = token.split_once("gpr_").expect("a secret");
        for part in [
            token.as_str(),
            secret,
            &secret[..40],
            &secret[..20],
            &secret[20..40],
        ] {
            assert!(!dump.contains(part), "a part of the token is stored");
        }
        drop(ada);
    }
}

/// The code of an error, in whichever dialect it is told.
fn code_of(answer: &Answer) -> Value {
    let body = answer.json();
    let code = body.get("code").or_else(|| body["error"].get("code"));
    code.cloned().unwrap_or_default()
}

/// Every route of the API, as the document has them.
fn routes() -> Vec<(Method, String)> {
    let routes = operations().into_iter();
    let api = routes.filter(|(_, path, _)| path.starts_with("/api/"));
    api.map(|(method, path, _)| (method, path.replace("{id}", ID)))
        .collect()
}

/// Open to strangers, by what they carry in the body or say over the socket.
const BY_BODY: [&str; 10] = [
    "/api/v1/auth/token",
    "/api/v1/auth/refresh",
    "/api/v1/auth/auto-refresh",
    "/api/v1/auth/register",
    "/api/v1/auth/revoke",
    "/api/password-strength",
    "/api/auth/login",
    "/api/auth/refresh",
    "/api/v1/openapi.json",
    "/api/v1/ws",
];
/// A token may always ask about itself.
const ABOUT_ITSELF: &str = "/api/v1/auth/token-status";

#[actix_web::test]
async fn every_private_route_refuses_a_stranger_and_a_token_without_its_scope() {
    let app = TestApp::start(Backend::Embedded).await;
    let token = async |scopes: Vec<&str>| {
        // Of a login of its own: some of the routes end them all.
        let access = app.begin_login("root").await.access;
        let token = text_of(&app.make_token(&access, &scopes).await["token"]);
        // Looked up once, it is the first thing known of a request.
        app.me_by(&token).await;
        token
    };
    let every_other = |but: &str| {
        let names = Scope::ALL.iter().map(|scope| scope.name());
        names.filter(|name| *name != "*" && *name != but).collect()
    };
    let (verify, introspect) = (token(vec!["verify"]).await, token(vec!["introspect"]).await);
    let mut scoped = 0;
    for (method, path) in routes() {
        let ask = async |token: Option<&str>| {
            let url = format!("{}{path}", app.url);
            let mut request = app.http.request(method.clone(), url);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if method != Method::GET {
                request = request.json(&json!({}));
            }
            Answer::of(request).await
        };
        if BY_BODY.contains(&path.as_str()) {
            continue;
        }
        let bare = ask(None).await;
        assert_eq!(bare.status, 401, "{method} {path}: {}", bare.body);
        if path == ABOUT_ITSELF {
            continue;
        }
        let mut without = ask(Some(&verify)).await;
        if without.status != 403 {
            without = ask(Some(&introspect)).await;
        }
        assert_eq!(without.status, 403, "{method} {path}: {}", without.body);
        if code_of(&without) == "forbidden" {
            // No token may do this at all.
            assert_ne!(method, Method::GET, "{path}");
            let all = token(vec!["*"]).await;
            refused(&ask(Some(&all)).await, 403, "forbidden");
            continue;
        }
        refused(&without, 403, "insufficient_scope");
        let challenge = without.header("www-authenticate").to_owned();
        let start = "Bearer realm=\"gapura\", error=\"insufficient_scope\", scope=\"";
        let scope = challenge.strip_prefix(start).expect("a challenge");
        let scope = scope.strip_suffix('"').expect("a scope");
        assert!(Scope::named(scope).is_some(), "{challenge}");
        if let Some((_, right)) = scope.split_once(':') {
            let reads = method == Method::GET;
            assert_eq!(right == "read", reads, "{method} {path} asks {scope}");
        }
        let others = token(every_other(scope)).await;
        refused(&ask(Some(&others)).await, 403, "insufficient_scope");
        let just = token(vec![scope]).await;
        let answer = ask(Some(&just)).await;
        assert!(
            ![401, 403].contains(&answer.status),
            "{method} {path}: {}",
            answer.body
        );
        scoped += 1;
    }
    assert!(scoped >= 5, "{scoped} routes ask for a scope");
}

#[actix_web::test]
async fn old_tokens_are_swept_away() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let access = app.access_token("ada").await;
        for days in [1, 365] {
            let body = json!({"name": "x", "expires_in_days": days});
            app.ask_for_token(&access, &body).await.expect(201);
        }
        let revoked = app.make_token(&access, &["*"]).await;
        let path = format!("/api/v1/tokens/{}", text_of(&revoked["id"]));
        app.by_bearer(Method::DELETE, &path, &access)
            .await
            .expect(200);
        let sweep = async || {
            let swept = cleanup::sweep(&app.app.db, &app.app.config, app.now()).await;
            swept.expect("swept").tokens
        };
        app.advance(30 * DAY);
        assert_eq!(sweep().await, 0);
        app.advance(SECOND);
        assert_eq!(sweep().await, 1, "the revoked one");
        app.advance(DAY);
        assert_eq!(sweep().await, 1, "the expired one");
        let left = "SELECT COUNT(*) AS number FROM personal_tokens";
        assert_eq!(app.number(left).await, 1);
    }
}

// The page.

/// The value of a hidden field.
fn hidden(page: &str, name: &str) -> String {
    let start = format!("name=\"{name}\" value=\"");
    let (_, rest) = page.split_once(&start).expect("a field");
    rest.split('"').next().expect("a value").to_owned()
}

/// The new token on a page, if there is one.
fn shown(page: &str) -> Option<String> {
    let (_, rest) = page.split_once("id=\"new-token\"")?;
    let (_, rest) = rest.split_once("value=\"")?;
    Some(rest.split('"').next()?.replace("&#124;", "|"))
}

const PAGE: &str = "/dashboard/tokens";

#[actix_web::test]
async fn a_token_made_on_the_page_is_shown_once_and_never_again() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let page = ada.open(PAGE).await.expect(200).body;
        assert!(page.contains("No tokens yet") && shown(&page).is_none());
        assert!(!page.contains("users:read"), "of no use to ada");
        let id = hidden(&page, "id");
        let fields = [
            ("id", id.as_str()),
            ("name", "nightly <b>backup</b>"),
            ("scopes", "sessions:read"),
            ("scopes", "profile:read"),
            ("expires_in_days", "30"),
        ];
        // Two clicks on the button, and later a reload: one token, shown once.
        let (one, two) = tokio::join!(ada.post(PAGE, &fields), ada.post(PAGE, &fields));
        let (one, two) = (one.expect(200), two.expect(200));
        assert_eq!(one.header("cache-control"), "no-store");
        let texts: Vec<String> = [&one, &two]
            .iter()
            .filter_map(|answer| shown(&answer.body))
            .collect();
        let [text] = texts.as_slice() else {
            panic!("{} tokens were shown", texts.len());
        };
        served(&app.me_by(text).await, "personal-token", "ada");
        let again = ada.post(PAGE, &fields).await.expect(200);
        assert!(again.body.contains("already sent") && shown(&again.body).is_none());
        let secret = text.split_once('|').expect("a bar").1;
        let page = ada.open(PAGE).await.expect(200).body;
        assert!(!page.contains(secret), "never again");
        assert!(
            page.contains("nightly &#60;b&#62;backup&#60;/b&#62;"),
            "{page}"
        );
        assert!(page.contains("See your sessions") && page.contains("127.0.0.1"));
        let tokens = "SELECT COUNT(*) AS number FROM personal_tokens";
        assert_eq!(app.number(tokens).await, 1);

        let bob = Browser::new(&app, "bob").log_in().await;
        let revoke = format!("{PAGE}/{id}/revoke");
        bob.post(&revoke, &[]).await.expect_redirect(PAGE);
        app.me_by(text).await.expect(200);
        ada.post(&revoke, &[("csrf_token", "x")]).await.expect(403);
        ada.open(PAGE).await.expect(200);
        ada.post(&revoke, &[]).await.expect_redirect(PAGE);
        refused(&app.me_by(text).await, 401, "token_revoked");
        assert!(ada.open(PAGE).await.body.contains("No tokens yet"));
        let again = ada.post(PAGE, &fields).await.expect(200);
        assert!(shown(&again.body).is_none(), "nor after its end");
    }
}

#[actix_web::test]
async fn the_page_asks_for_the_password_in_between_and_then_goes_on() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let page = ada.open(PAGE).await.expect(200).body;
        let id = hidden(&page, "id");
        app.advance(10 * MINUTE);
        let mut fields = vec![
            ("id", id.as_str()),
            ("name", "ci"),
            ("scopes", "verify"),
            ("scopes", "profile:read"),
            ("expires_in_days", "7"),
        ];
        let asked = ada.post(PAGE, &fields).await.expect(403);
        assert!(asked.body.contains("Please confirm"), "{}", asked.body);
        for (name, value) in &fields {
            let field = format!("name=\"{name}\" value=\"{value}\"");
            assert!(asked.body.contains(&field), "{field} is kept");
        }
        assert!(!asked.body.contains("That is not your current password."));
        fields.push(("current_password", "not the password"));
        let wrong = ada.post(PAGE, &fields).await.expect(403);
        assert!(wrong.body.contains("That is not your current password."));
        assert!(!wrong.body.contains("not the password\""));
        fields.pop();
        fields.push(("current_password", TestApp::PASSWORD));
        let made = ada.post(PAGE, &fields).await.expect(200);
        let text = shown(&made.body).expect("a token");
        let list = app.by_bearer(Method::GET, "/api/v1/me", &text).await;
        served(&list, "personal-token", "ada");
        // The password counts for the next ten minutes, and the session goes on.
        let page = ada.open(PAGE).await.expect(200).body;
        let id = hidden(&page, "id");
        fields.pop();
        fields[0].1 = &id;
        let made = ada.post(PAGE, &fields).await.expect(200);
        assert!(shown(&made.body).is_some());
    }
}

#[actix_web::test]
async fn a_form_with_a_mistake_comes_back_with_what_was_typed() {
    let app = TestApp::start(Backend::Embedded).await;
    let root = Browser::new(&app, "root").log_in().await;
    let page = root.open(PAGE).await.expect(200).body;
    let id = hidden(&page, "id");
    let fields = [
        ("id", id.as_str()),
        ("name", "ci"),
        ("expires_in_days", "30"),
    ];
    let answer = root.post(PAGE, &fields).await.expect(422);
    assert!(answer.body.contains("Choose at least one thing it may do."));
    assert!(answer.body.contains("name=\"name\" value=\"ci\""));
    assert!(answer.body.contains("<option value=\"30\" selected>"));
    let fields = [
        ("id", id.as_str()),
        ("name", " "),
        ("scopes", "users:read"),
        ("expires_in_days", "366"),
    ];
    let answer = root.post(PAGE, &fields).await.expect(422);
    assert!(answer.body.contains("A name is required."));
    assert!(answer.body.contains("from 1 to 365"));
    assert!(answer.body.contains("value=\"users:read\" checked"));
    let tokens = "SELECT COUNT(*) AS number FROM personal_tokens";
    assert_eq!(app.number(tokens).await, 0);
}

#[actix_web::test]
async fn a_person_makes_a_token_and_copies_it() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    ada.go(PAGE).await;
    app.advance(10 * MINUTE);
    ada.write("#name", "laptop").await;
    ada.click("input[value='profile:read']").await;
    ada.click(".token-form button").await;
    ada.until("document.querySelector('#current_password') !== null")
        .await;
    ada.write("#current_password", TestApp::PASSWORD).await;
    ada.click("form.form button[type=submit]").await;
    ada.until("document.querySelector('#new-token') !== null && !document.querySelector('[data-copy]').hidden")
        .await;
    let token = text_of(
        &ada.evaluate("document.querySelector('#new-token').value")
            .await,
    );
    ada.click("[data-copy]").await;
    ada.until("document.querySelector('[data-copy]').textContent === 'Copied'")
        .await;
    let leave = json!({"permissions": ["clipboardReadWrite"], "origin": app.url});
    ada.devtools("Browser.grantPermissions", leave).await;
    let copied = ada.evaluate("navigator.clipboard.readText()").await;
    assert_eq!(copied, json!(token));
    served(&app.me_by(&token).await, "personal-token", "ada");
    ada.go(PAGE).await;
    let gone = ada
        .evaluate("document.querySelector('#new-token') === null")
        .await;
    assert_eq!(gone, true);
    ada.click(".token button").await;
    ada.until("document.querySelector('.empty') !== null").await;
    refused(&app.me_by(&token).await, 401, "token_revoked");
    ada.close().await;
}

#[actix_web::test]
async fn without_javascript_the_token_is_there_to_be_selected() {
    let app = serve(&[]).await;
    let setup = Setup {
        javascript: false,
        ..Setup::default()
    };
    let ada = Chromium::open_as(&app, setup).await;
    ada.log_in("ada").await;
    ada.go(PAGE).await;
    ada.write("#name", "laptop").await;
    ada.click("input[value='*']").await;
    ada.click(".token-form button").await;
    let field = "#new-token[readonly]";
    ada.until(&format!("document.querySelector('{field}') !== null"))
        .await;
    let token = text_of(
        &ada.evaluate("document.querySelector('#new-token').value")
            .await,
    );
    served(&app.me_by(&token).await, "personal-token", "ada");
    assert_eq!(
        ada.evaluate("document.querySelector('[data-copy]').hidden")
            .await,
        true
    );
    ada.close().await;
}
