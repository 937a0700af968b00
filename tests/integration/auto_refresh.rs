//! Tokens that renew themselves beside any request: which requests, with which refresh token, and
//! what never goes along.

use std::collections::HashSet;
use std::time::Duration;

use diesel::SqliteConnection;
use diesel::connection::{Connection, SimpleConnection};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::actors::Answer;
use crate::harness::{Backend, Nodes, TestApp};
use crate::token_api::{Pair, claims_of};

/// How often a race is run on one server.
const ROUNDS: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);

/// A program with its tokens, as it holds them.
#[derive(Clone)]
struct Program<'a> {
    app: &'a TestApp,
    access: String,
    refresh: String,
    by_cookie: bool,
}

impl<'a> Program<'a> {
    async fn log_in(app: &'a TestApp, name: &str) -> Self {
        Self::log_in_by(app, name, "body").await
    }

    /// Without a password to check.
    async fn begin(app: &'a TestApp, name: &str) -> Self {
        let Pair { access, refresh } = app.begin_login(name).await;
        Self {
            app,
            access,
            refresh,
            by_cookie: false,
        }
    }

    async fn log_in_by(app: &'a TestApp, name: &str, delivery: &str) -> Self {
        let body = json!({"username": name, "password": TestApp::PASSWORD, "refresh_token_delivery": delivery});
        let request = app.http.post(format!("{}/api/v1/auth/token", app.url));
        let answer = Answer::of(request.json(&body)).await.expect(200);
        let data = &answer.json()["data"];
        let by_cookie = delivery == "cookie";
        let refresh = if by_cookie {
            let line = answer.set_cookie("refresh_token");
            assert!(
                line.contains("HttpOnly") && line.contains("SameSite=Strict"),
                "{line}"
            );
            assert!(line.contains("Path=/api") && data.get("refresh_token").is_none());
            cookie_value(line)
        } else {
            data["refresh_token"].as_str().unwrap().to_owned()
        };
        Self {
            app,
            access: data["access_token"].as_str().unwrap().to_owned(),
            refresh,
            by_cookie,
        }
    }

    /// The same program, its requests reaching that node.
    fn at(&self, node: &'a TestApp) -> Self {
        Self {
            app: node,
            ..self.clone()
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .app
            .http
            .request(method, format!("{}{path}", self.app.url));
        let request = request.bearer_auth(&self.access);
        match self.by_cookie {
            true => request
                .header("cookie", format!("refresh_token={}", self.refresh))
                .header("sec-fetch-site", "same-origin"),
            false => request.header("x-refresh-token", &self.refresh),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// Takes over the tokens that came along.
    fn renew(&mut self, answer: &Answer) {
        assert_eq!(answer.header("x-token-refreshed"), "true");
        assert_eq!(answer.header("cache-control"), "no-store");
        self.access = answer.header("x-new-access-token").to_owned();
        self.refresh = match self.by_cookie {
            true => {
                assert_eq!(answer.header("x-new-refresh-token"), "");
                cookie_value(answer.set_cookie("refresh_token"))
            }
            false => answer.header("x-new-refresh-token").to_owned(),
        };
    }
}

fn cookie_value(line: &str) -> String {
    let (pair, _) = line.split_once(';').unwrap();
    pair.split_once('=').unwrap().1.to_owned()
}

#[track_caller]
fn nothing_came_along(answer: &Answer) {
    for name in [
        "x-token-refreshed",
        "x-new-access-token",
        "x-new-refresh-token",
        "set-cookie",
    ] {
        assert!(!answer.headers.contains_key(name), "{name}: {answer:?}");
    }
}

#[actix_web::test]
async fn a_token_near_its_end_or_past_it_is_renewed_beside_any_request() {
    for backend in Backend::ALL {
        for delivery in ["body", "cookie"] {
            let app = TestApp::start(backend).await;
            let mut ada = Program::log_in_by(&app, "ada", delivery).await;
            nothing_came_along(&ada.get("/api/v1/me").await.expect(200));
            app.advance(24 * MINUTE);
            nothing_came_along(&ada.get("/api/v1/me").await.expect(200));
            // Row 2: good, and within the threshold.
            app.advance(MINUTE);
            let answer = ada.get("/api/v1/sessions").await.expect(200);
            assert_eq!(answer.header("x-auth-method"), "jwt");
            ada.renew(&answer);
            nothing_came_along(&ada.get("/api/v1/me").await.expect(200));
            // Row 3: expired.
            app.advance(60 * MINUTE);
            let answer = ada.get("/api/v1/me").await.expect(200);
            assert_eq!(answer.json()["data"]["username"], "ada");
            ada.renew(&answer);
            nothing_came_along(&ada.get("/api/v1/me").await.expect(200));
            // A JWT alone never yields a refresh token.
            app.advance(60 * MINUTE);
            let me = app.http.get(format!("{}/api/v1/me", app.url));
            let answer = Answer::of(me.bearer_auth(&ada.access)).await.expect(401);
            assert_eq!(answer.json()["code"], "token_expired");
            nothing_came_along(&answer);
        }
    }
}

#[actix_web::test]
async fn fifty_at_once_in_the_window_are_one_rotation() {
    for place in Nodes::ALL {
        let nodes = Nodes::start(place, &[]).await;
        let app = nodes.first();
        for round in 0..nodes.rounds(ROUNDS) {
            // Near its end, and past it.
            let age = [26, 40][round % 2];
            let mut ada = Program::begin(app, "ada").await;
            let login = claims_of(&ada.access)["sid"].as_str().unwrap().to_owned();
            app.advance(age * MINUTE);
            let calls: Vec<_> = (0..50).map(|_| ada.at(nodes.next())).collect();
            let answers = join_all(calls.iter().map(|call| call.get("/api/v1/me"))).await;
            let refresh: HashSet<&str> = answers
                .iter()
                .map(|answer| {
                    assert_eq!(answer.status, 200);
                    assert_eq!(answer.header("x-token-refreshed"), "true");
                    assert_ne!(answer.header("x-new-access-token"), "");
                    answer.header("x-new-refresh-token")
                })
                .collect();
            assert_eq!(refresh.len(), 1, "one new refresh token in all: {place:?}");
            let rotations = format!(
                "SELECT MAX(counter) AS number FROM rotating_tokens WHERE login_id = '{login}'"
            );
            assert_eq!(app.count(rotations).await, 1, "{place:?}");
            ada.renew(&answers[7]);
            for node in &nodes.all {
                ada.at(node).get("/api/v1/me").await.expect(200);
            }
            let body = json!({ "refresh_token": ada.refresh });
            assert_eq!(
                app.post_json("/api/v1/auth/refresh", &body).await.status(),
                200
            );
        }
    }
}

#[actix_web::test]
async fn a_request_that_renews_waits_no_longer_than_any_other_for_a_database_that_is_busy() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Program::begin(&app, "ada").await;
    app.advance(25 * MINUTE);
    let file = app.installation.dir().join("data/gapura.db");
    let mut other = SqliteConnection::establish(&file.to_string_lossy()).expect("a database");
    other.batch_execute("BEGIN IMMEDIATE").expect("its turn");
    let began = Instant::now();
    // Several, since they wait for one another.
    join_all((0..3).map(|_| async {
        let change = ada.request(Method::PATCH, "/api/v1/me");
        let change = change.json(&json!({"name": "Ada"}));
        Answer::of(change).await.expect(503);
        assert!(began.elapsed() < Duration::from_secs(2));
    }))
    .await;
}

#[actix_web::test]
async fn nothing_goes_along_with_an_error_and_the_old_token_stays_good() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        for delivery in ["body", "cookie"] {
            let mut ada = Program::log_in_by(&app, "ada", delivery).await;
            app.advance(26 * MINUTE);
            for _ in 0..2 {
                let unknown = "/api/v1/sessions/00000000-0000-7000-8000-000000000000";
                let answer = Answer::of(ada.request(Method::DELETE, unknown))
                    .await
                    .expect(404);
                nothing_came_along(&answer);
                app.advance(Duration::from_secs(20));
            }
            let answer = ada.get("/api/v1/me").await.expect(200);
            ada.renew(&answer);
            ada.get("/api/v1/me").await.expect(200);
        }
    }
}

#[actix_web::test]
async fn a_refresh_token_of_another_login_is_not_taken() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (ada, bob) = (
            Program::log_in(&app, "ada").await,
            Program::log_in(&app, "bob").await,
        );
        let second = Program::log_in(&app, "ada").await;
        for other in [&bob, &second] {
            let mixed = Program {
                refresh: other.refresh.clone(),
                ..ada.clone()
            };
            app.advance(Duration::from_secs(26 * 60));
            // Good for itself: served without.
            let answer = mixed.get("/api/v1/me").await;
            if answer.status == 200 {
                assert_eq!(answer.json()["data"]["username"], "ada");
            } else {
                // Expired: the second credential has to be asked, and belongs to somebody else.
                assert_eq!(answer.json()["code"], "token_mismatch");
                assert_eq!(answer.status, 401);
            }
            nothing_came_along(&answer);
            let request = app
                .http
                .post(format!("{}/api/v1/auth/auto-refresh", app.url));
            let body = json!({ "refresh_token": other.refresh });
            let answer = Answer::of(request.bearer_auth(&ada.access).json(&body))
                .await
                .expect(401);
            assert_eq!(answer.json()["code"], "token_mismatch");
        }
        // Neither of them was touched.
        for other in [bob, second] {
            let body = json!({ "refresh_token": other.refresh });
            assert_eq!(
                app.post_json("/api/v1/auth/refresh", &body).await.status(),
                200
            );
        }
    }
}

#[actix_web::test]
async fn a_token_that_is_good_for_nothing_is_as_good_as_none() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Program::log_in(&app, "ada").await;
        let forged = Program {
            refresh: "A".repeat(64),
            ..ada.clone()
        };
        app.advance(26 * MINUTE);
        nothing_came_along(&forged.get("/api/v1/me").await.expect(200));
        app.advance(5 * MINUTE);
        let answer = forged.get("/api/v1/me").await.expect(401);
        assert_eq!(answer.json()["code"], "token_expired");
        // Sent by another site's page: the cookie does not count.
        let cookie = Program::log_in_by(&app, "ada", "cookie").await;
        app.advance(40 * MINUTE);
        let me = app
            .http
            .get(format!("{}/api/v1/me", app.url))
            .bearer_auth(&cookie.access);
        let me = me.header("cookie", format!("refresh_token={}", cookie.refresh));
        let answer = Answer::of(me.header("sec-fetch-site", "cross-site"))
            .await
            .expect(401);
        assert_eq!(answer.json()["code"], "token_expired");
        // A stolen one ends the login, also beside a token that is still good.
        let thief = Program::log_in(&app, "ada").await;
        app.advance(26 * MINUTE);
        let mut honest = thief.clone();
        let answer = honest.get("/api/v1/me").await.expect(200);
        honest.renew(&answer);
        app.advance(26 * MINUTE);
        let answer = honest.get("/api/v1/me").await.expect(200);
        honest.renew(&answer);
        let stale = Program {
            access: honest.access.clone(),
            ..thief
        };
        app.advance(26 * MINUTE);
        let answer = stale.get("/api/v1/me").await.expect(401);
        assert_eq!(answer.json()["code"], "refresh_reused");
        let answer = honest.get("/api/v1/me").await.expect(401);
        assert_eq!(answer.json()["code"], "token_revoked");
    }
}

#[actix_web::test]
async fn auto_refresh_gives_back_what_is_still_good() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Program::log_in(&app, "ada").await;
        let ask = async |access: &str, refresh: &str| {
            let request = app
                .http
                .post(format!("{}/api/v1/auth/auto-refresh", app.url));
            let body = json!({ "refresh_token": refresh });
            Answer::of(request.bearer_auth(access).json(&body)).await
        };
        app.advance(10 * MINUTE);
        let data = ask(&ada.access, &ada.refresh).await.expect(200).json()["data"].take();
        assert_eq!(data["refreshed"], json!(false));
        assert_eq!(
            (
                &data["access_token"],
                &data["refresh_token"],
                &data["expires_in"]
            ),
            (&json!(ada.access), &json!(ada.refresh), &json!(1200))
        );
        app.advance(16 * MINUTE);
        let data = ask(&ada.access, &ada.refresh).await.expect(200).json()["data"].take();
        assert_eq!(
            (&data["refreshed"], &data["expires_in"]),
            (&json!(true), &json!(1800))
        );
        assert_ne!(data["refresh_token"], Value::Null);
        assert_ne!(data["refresh_token"], json!(ada.refresh));
        // Without an access token it is a refresh, and so it is with one that is nobody's.
        for access in ["", "not.a.token"] {
            let again = ask(access, data["refresh_token"].as_str().unwrap())
                .await
                .expect(200);
            assert_eq!(again.json()["data"]["refreshed"], json!(true));
        }
    }
}

#[actix_web::test]
async fn logging_out_everywhere_ends_every_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (first, second) = (
            Program::log_in(&app, "ada").await,
            Program::log_in(&app, "ada").await,
        );
        let bob = Program::log_in(&app, "bob").await;
        let browser = crate::actors::Browser::new(&app, "ada").log_in().await;
        let answer = Answer::of(first.request(Method::POST, "/api/v1/auth/logout-all"))
            .await
            .expect(200);
        assert_eq!(answer.header("clear-site-data"), "\"cache\", \"storage\"");
        for program in [&first, &second] {
            let answer = program.get("/api/v1/me").await.expect(401);
            assert_eq!(answer.json()["code"], "token_revoked");
        }
        browser.poll().await.expect_over("logged_out");
        bob.get("/api/v1/me").await.expect(200);
    }
}

#[actix_web::test]
async fn who_ends_their_own_login_is_sent_no_pair_of_it() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        for delivery in ["body", "cookie"] {
            for all in [true, false] {
                let program = Program::log_in_by(&app, "ada", delivery).await;
                let logins = program.get("/api/v1/sessions").await.expect(200).json();
                let mut own = logins["data"].as_array().unwrap().iter();
                let own = own.find(|login| login["current"] == true).unwrap();
                let own = own["id"].as_str().unwrap().to_owned();
                // Within the threshold: any other answer would bring a new pair.
                app.advance(26 * MINUTE);
                let answer = match all {
                    true => program.request(Method::POST, "/api/v1/auth/logout-all"),
                    false => program.request(Method::DELETE, &format!("/api/v1/sessions/{own}")),
                };
                let answer = Answer::of(answer).await.expect(200);
                for name in [
                    "x-token-refreshed",
                    "x-new-access-token",
                    "x-new-refresh-token",
                ] {
                    assert!(!answer.headers.contains_key(name), "{name}: {answer:?}");
                }
                let cookies = answer.set_cookies("refresh_token");
                assert!(
                    cookies.iter().all(|line| line.contains("Max-Age=0")),
                    "{cookies:?}"
                );
            }
        }
    }
}
