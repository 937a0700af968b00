//! The token API over HTTP: logging in, refreshing, logging out, and everything that must not work.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use futures_util::future::{join, join_all};
use gapura::account::{self, Role};
use gapura::login::{self, Cause};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::actors::Browser;
use crate::harness::{Backend, Installation, Nodes, TestApp};
use crate::program::until;

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);
/// How often a race is run on one server.
const ROUNDS: usize = 150;
/// A token of this age is none of a burst: on PostgreSQL it is exchanged in one statement.
const SETTLED: Duration = Duration::from_secs(61);
const STRICT: &[(&str, &str)] = &[("GAPURA_REFRESH_GRACE", "0s")];

/// What a program holds.
#[derive(Clone, Debug)]
pub struct Pair {
    pub access: String,
    pub refresh: String,
}

impl Pair {
    fn of(body: &Value) -> Self {
        let text = |name: &str| body["data"][name].as_str().expect(name).to_owned();
        Self {
            access: text("access_token"),
            refresh: text("refresh_token"),
        }
    }
}

impl TestApp {
    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub async fn log_in(&self, name: &str) -> Pair {
        let body = json!({"username": name, "password": Self::PASSWORD, "device_name": "a test"});
        let answer = self.post_json("/api/v1/auth/token", &body).await;
        Pair::of(&good(answer).await)
    }

    /// A login whose password nobody had to check: for races that need many.
    pub async fn begin_login(&self, name: &str) -> Pair {
        let (now, name) = (self.now(), name.to_owned());
        let found = self
            .app
            .db
            .read(move |conn| gapura::account::by_login_name(conn, &name));
        let user = found.await.expect("the database answers").expect("a user");
        let client = login::Client {
            device: "a test".to_owned(),
            ip: "127.0.0.1".to_owned(),
        };
        let opened = gapura::token::open(&self.app, user, client, now, |_, _, _| Ok(()));
        let (pair, ()) = opened.await.expect("a login");
        Pair::of(&json!({"data": pair.out(true, now)}))
    }

    pub async fn present(&self, refresh: &str) -> Response {
        let body = json!({ "refresh_token": refresh });
        self.post_json("/api/v1/auth/refresh", &body).await
    }

    pub async fn refresh(&self, pair: &Pair) -> Pair {
        Pair::of(&good(self.present(&pair.refresh).await).await)
    }

    pub async fn me(&self, access: &str) -> Response {
        let request = self.call(Method::GET, "/api/v1/me").bearer_auth(access);
        request.send().await.expect("an answer")
    }

    async fn log_out(&self, access: &str) -> Response {
        let request = self.call(Method::POST, "/api/v1/auth/logout");
        request.bearer_auth(access).send().await.expect("an answer")
    }

    /// A number that only the database knows.
    pub async fn count(&self, query: String) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let read = self.app.db.read(move |conn| {
            let row: Row = match conn {
                gapura::db::AnyConnection::Sqlite(conn) => {
                    diesel::sql_query(query).get_result(conn)?
                }
                gapura::db::AnyConnection::Postgres(conn) => {
                    diesel::sql_query(query).get_result(conn)?
                }
            };
            Ok(row.number)
        });
        read.await.expect("the database answers")
    }

    async fn live_tokens(&self, pair: &Pair) -> i64 {
        let login = login_of(pair);
        let of_login = format!("WHERE login_id = '{login}' AND superseded_at IS NULL");
        self.count(format!(
            "SELECT COUNT(*) AS number FROM rotating_tokens {of_login}"
        ))
        .await
    }

    async fn counter(&self, pair: &Pair) -> i64 {
        let login = login_of(pair);
        self.count(format!(
            "SELECT MAX(counter) AS number FROM rotating_tokens WHERE login_id = '{login}'"
        ))
        .await
    }
}

pub fn claims_of(access: &str) -> Value {
    let body = access.split('.').nth(1).expect("three parts");
    let body = BASE64_URL_SAFE_NO_PAD.decode(body).expect("base64");
    serde_json::from_slice(&body).expect("JSON")
}

pub fn login_of(pair: &Pair) -> String {
    claims_of(&pair.access)["sid"]
        .as_str()
        .expect("sid")
        .to_owned()
}

pub async fn good(answer: Response) -> Value {
    let status = answer.status();
    let body = answer.text().await.expect("a body");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The whole of a problem: its shape is the same everywhere.
pub async fn refused(answer: Response, status: u16, code: &str) {
    assert_eq!(answer.status(), status);
    let header = |name: &str| {
        let value = answer.headers().get(name).expect(name);
        value.to_str().expect("text").to_owned()
    };
    assert_eq!(header("content-type"), "application/problem+json");
    assert_eq!(header("cache-control"), "no-store");
    if status == 401 {
        assert!(header("www-authenticate").starts_with("Bearer "));
    }
    let request_id = header("x-request-id");
    assert!(!answer.headers().contains_key("set-cookie"));
    let body: Value = answer.json().await.expect("JSON");
    let detail = body["detail"].as_str().expect("a sentence").to_owned();
    assert_eq!(
        body,
        json!({
            "type": format!("urn:gapura:problem:{code}"),
            "title": body["title"].as_str().expect("a title"),
            "status": status,
            "detail": detail,
            "message": detail,
            "code": code,
            "request_id": request_id,
        })
    );
}

impl Nodes {
    /// The access token of a login that ended on that node is dead there at once, and within a second
    /// on every other.
    async fn refuse(&self, ended_on: &TestApp, access: &str) {
        refused(ended_on.me(access).await, 401, "token_revoked").await;
        for node in &self.all {
            until(SECOND, || async { node.me(access).await.status() != 200 }).await;
            refused(node.me(access).await, 401, "token_revoked").await;
        }
    }

    /// The refresh token of a login that has ended is dead everywhere: the database is asked.
    async fn refuse_refresh(&self, refresh: &str) {
        for node in &self.all {
            refused(node.present(refresh).await, 401, "refresh_reused").await;
        }
    }
}

#[actix_web::test]
async fn a_program_logs_in_refreshes_and_logs_out() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let body = json!({"email": "ADA@example.org", "password": TestApp::PASSWORD});
        let answer = good(app.post_json("/api/v1/auth/token", &body).await).await;
        let first = Pair::of(&answer);
        let id = claims_of(&first.access)["sub"].clone();
        let user = json!({"id": id, "username": "ada", "email": "ada@example.org", "name": "ada", "role": "user"});
        let expected = |message: &str, pair: &Pair| {
            json!({"status": 200, "message": message, "data": {
                "access_token": pair.access, "refresh_token": pair.refresh, "token_type": "bearer",
                "expires_in": 1800, "refresh_expires_in": 7 * 86_400, "user": user,
            }})
        };
        assert_eq!(answer, expected("Logged in.", &first));

        app.advance(SECOND);
        let answer = good(app.present(&first.refresh).await).await;
        let second = Pair::of(&answer);
        assert_eq!(answer, expected("Refreshed.", &second));
        assert_ne!(first.refresh, second.refresh);
        let me = good(app.me(&second.access).await).await;
        assert_eq!(me["data"]["username"], "ada");

        let status = app.call(Method::GET, "/api/v1/auth/token-status");
        let status = status.bearer_auth(&second.access).send().await;
        let status = good(status.expect("an answer")).await;
        assert_eq!(status["data"]["valid"], true);
        assert_eq!(status["data"]["needs_refresh"], false);
        assert_eq!(status["data"]["time_until_expiry"], 1800);

        let ping = app.call(Method::POST, "/api/update-activity");
        good(
            ping.bearer_auth(&second.access)
                .send()
                .await
                .expect("an answer"),
        )
        .await;

        good(app.log_out(&second.access).await).await;
        for access in [&first.access, &second.access] {
            refused(app.me(access).await, 401, "token_revoked").await;
        }
        let status = app.call(Method::GET, "/api/v1/auth/token-status");
        let status = status.bearer_auth(&second.access).send().await;
        let status = good(status.expect("an answer")).await;
        assert_eq!(status["data"]["valid"], false);
        assert_eq!(status["data"]["reason"], "token_revoked");
        refused(app.present(&second.refresh).await, 401, "refresh_reused").await;
    }
}

/// What a wrong password is answered for `name`, but for what differs between any two answers, and
/// how long it took. Each comes from an address of its own, which has not failed before.
async fn refusal(app: &TestApp, name: &str, number: usize) -> (Vec<String>, Duration) {
    let body = json!({"username": name, "password": "not the password"});
    let address = format!("198.18.{}.{}", number / 250, number % 250);
    let request = app.call(Method::POST, "/api/v1/auth/token").json(&body);
    let request = request.header("x-forwarded-for", address);
    let began = Instant::now();
    let answer = request.send().await.expect("an answer");
    let took = began.elapsed();
    assert_eq!(answer.status(), 401);
    let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
    let request_id = header("x-request-id");
    let headers = answer.headers().iter();
    let mut said: Vec<String> = headers
        .filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()))
        .map(|header| format!("{header:?}"))
        .collect();
    said.sort();
    let body = answer.text().await.expect("a body");
    said.push(body.replace(&request_id, "the request id"));
    (said, took)
}

#[actix_web::test]
async fn a_wrong_password_is_told_in_the_same_words_and_the_same_time_whoever_it_is_for() {
    const EACH: usize = 200;
    const ATTEMPTS: usize = 3;
    for backend in Backend::ALL {
        let anywhere = [("GAPURA_TRUSTED_PROXIES", "127.0.0.1/32")];
        let app = TestApp::start_with(backend, &anywhere).await;
        let eve = app.add_user("eve", Role::User).await;
        let disabled = app
            .app
            .db
            .write(move |conn| account::set_disabled(conn, &eve.id, Some(eve.created_at)));
        disabled.await.expect("eve is disabled");
        let kinds = ["ada", "eve", "nobody"];
        let (first, _) = refusal(&app, "ada", 0).await;
        let mut numbers = 1..;
        // Where others use the cores, each takes several times as long, and by chance one kind longer
        // than another: hence the fifth, and another attempt. A hash that one kind is spared is missing
        // in each attempt, and is nearly all of the time however long that is.
        for attempt in 1..=ATTEMPTS {
            let mut took = kinds.map(|_| Vec::with_capacity(EACH));
            for turn in 0..kinds.len() * EACH {
                // Each comes first as often as the others.
                let kind = (turn + turn / kinds.len()) % kinds.len();
                let number = numbers.next().expect("no end");
                let (said, time) = refusal(&app, kinds[kind], number).await;
                assert_eq!(said, first, "{}", kinds[kind]);
                took[kind].push(time);
            }
            let medians = took.map(|mut took| {
                took.sort_unstable();
                took[EACH / 2]
            });
            println!("{backend:?}: {kinds:?} took {medians:?}");
            let (mut most, mut least) = (Duration::ZERO, Duration::MAX);
            for median in medians {
                (most, least) = (most.max(median), least.min(median));
            }
            if most - least <= Duration::from_millis(5).max(most / 5) {
                break;
            }
            assert!(attempt < ATTEMPTS, "{kinds:?} took {medians:?}");
        }
    }
}

#[actix_web::test]
async fn the_refresh_token_is_read_from_the_body_then_the_header_then_the_cookie() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (in_body, in_header, in_cookie) = (
            app.log_in("ada").await,
            app.log_in("bob").await,
            app.log_in("root").await,
        );
        let request = || app.call(Method::POST, "/api/v1/auth/refresh");
        let with_cookie =
            || request().header("cookie", format!("refresh_token={}", in_cookie.refresh));
        let with_header = || with_cookie().header("x-refresh-token", &in_header.refresh);
        let with_body = || with_header().json(&json!({"refresh_token": in_body.refresh}));
        for (request, name) in [(with_body(), "ada"), (with_header(), "bob")] {
            let body = good(request.send().await.expect("an answer")).await;
            assert_eq!(body["data"]["user"]["username"], name);
        }
        let foreign = with_cookie().header("sec-fetch-site", "cross-site");
        refused(foreign.send().await.expect("an answer"), 403, "csrf_failed").await;
        let answer = with_cookie().send().await.expect("an answer");
        let cookie = answer.headers()["set-cookie"]
            .to_str()
            .expect("text")
            .to_owned();
        for part in [
            "refresh_token=",
            "; HttpOnly",
            "; SameSite=Strict",
            "; Path=/api",
            "; Max-Age=604800",
        ] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let body = good(answer).await;
        assert_eq!(body["data"]["user"]["username"], "root");
        assert_eq!(body["data"].get("refresh_token"), None);
        refused(
            request().send().await.expect("an answer"),
            401,
            "refresh_missing",
        )
        .await;
    }
}

#[actix_web::test]
async fn twenty_presentations_at_once_all_succeed_and_leave_one_successor() {
    for place in Nodes::ALL {
        let nodes = Nodes::start(place, &[]).await;
        let app = nodes.first();
        let mut pair = app.log_in("ada").await;
        for round in 1..=nodes.rounds(ROUNDS) {
            // A login may be rotated thirty times a minute.
            app.advance(if round % 2 == 0 { 2 * SECOND } else { SETTLED });
            let presented = (0..20).map(|_| nodes.next().present(&pair.refresh));
            let mut given = HashSet::new();
            for answer in join_all(presented).await {
                given.insert(Pair::of(&good(answer).await).refresh);
            }
            assert_eq!(given.len(), 1, "{place:?}");
            assert_eq!(app.live_tokens(&pair).await, 1);
            assert_eq!(app.counter(&pair).await, round as i64);
            pair.refresh = given.into_iter().next().expect("one");
        }
    }
}

#[actix_web::test]
async fn of_many_logins_that_refresh_together_each_goes_on_alone() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let mut pairs = Vec::new();
        for number in 0..60 {
            let name = ["ada", "bob", "root"][number % 3];
            pairs.push((name, app.begin_login(name).await));
        }
        for round in 1..=3 {
            app.advance(SETTLED);
            // Each twice, so that some of the second come along with the first and some after it.
            let presented = pairs.iter().chain(&pairs);
            let presented = presented.map(|(_, pair)| app.present(&pair.refresh));
            let answers = join_all(presented).await;
            let mut after = Vec::new();
            for answer in answers {
                let answer = good(answer).await;
                let name = answer["data"]["user"]["username"].clone();
                after.push((name, Pair::of(&answer)));
            }
            let (first, second) = after.split_at(pairs.len());
            for (before, both) in pairs.iter_mut().zip(first.iter().zip(second)) {
                let (one, other) = both;
                assert_eq!(one.1.refresh, other.1.refresh);
                for (name, pair) in [one, other] {
                    assert_eq!(name, before.0);
                    assert_eq!(login_of(pair), login_of(&before.1));
                }
                assert_eq!(app.counter(&one.1).await, round);
                before.1 = Pair {
                    access: one.1.access.clone(),
                    refresh: one.1.refresh.clone(),
                };
            }
        }
    }
}

#[actix_web::test]
async fn nothing_minted_by_a_refresh_survives_a_logout_beside_it() {
    for place in Nodes::ALL {
        let nodes = Nodes::start(place, &[]).await;
        let app = nodes.first();
        let mut came_first = 0;
        for round in 0..nodes.rounds(2 * ROUNDS) {
            let pair = app.begin_login("ada").await;
            if round % 4 < 2 {
                app.advance(SETTLED);
            }
            let (one, other) = (nodes.next(), nodes.next());
            let (refreshed, logged_out, ended_on) = if round % 2 == 0 {
                let both = join(one.present(&pair.refresh), other.log_out(&pair.access));
                let (refreshed, out) = both.await;
                (refreshed, out, other)
            } else {
                let both = join(one.log_out(&pair.access), other.present(&pair.refresh));
                let (out, refreshed) = both.await;
                (refreshed, out, one)
            };
            good(logged_out).await;
            let minted = match refreshed.status().as_u16() {
                200 => Pair::of(&good(refreshed).await),
                _ => {
                    refused(refreshed, 401, "refresh_reused").await;
                    continue;
                }
            };
            came_first += 1;
            nodes.refuse(ended_on, &minted.access).await;
            nodes.refuse_refresh(&minted.refresh).await;
        }
        assert!(came_first > 0, "it never came before the logout");
    }
}

#[actix_web::test]
async fn in_strict_mode_fifty_at_once_give_one_success_and_end_the_login() {
    for place in Nodes::ALL {
        let nodes = Nodes::start(place, STRICT).await;
        let app = nodes.first();
        for round in 0..nodes.rounds(ROUNDS / 2) {
            let pair = app.begin_login("ada").await;
            if round % 2 == 0 {
                app.advance(SETTLED);
            }
            let answers = join_all((0..50).map(|_| nodes.next().present(&pair.refresh))).await;
            let mut minted = Vec::new();
            for answer in answers {
                if answer.status() == 200 {
                    minted.push(Pair::of(&good(answer).await));
                } else {
                    refused(answer, 401, "refresh_reused").await;
                }
            }
            assert_eq!(minted.len(), 1, "{place:?}");
            // Each node has told some of them of the theft, and so knows of it.
            for node in &nodes.all {
                refused(node.me(&minted[0].access).await, 401, "token_revoked").await;
            }
            nodes.refuse_refresh(&minted[0].refresh).await;
        }
    }
}

#[actix_web::test]
async fn in_strict_mode_the_first_of_three_rotations_in_a_second_is_theft_also_after_a_restart() {
    for place in Nodes::ALL {
        for restarted in [false, true] {
            let mut nodes = Nodes::start(place, STRICT).await;
            let mut held = Vec::new();
            for _ in 0..nodes.rounds(ROUNDS) {
                let first = nodes.first().begin_login("ada").await;
                let mut newest = first.clone();
                for _ in 0..3 {
                    nodes.first().advance(Duration::from_millis(300));
                    newest = nodes.next().refresh(&newest).await;
                }
                held.push((first, newest));
            }
            if restarted {
                nodes.restart(STRICT).await;
            }
            for (first, newest) in &held {
                let node = nodes.next();
                good(node.me(&newest.access).await).await;
                refused(node.present(&first.refresh).await, 401, "refresh_reused").await;
                nodes.refuse(node, &newest.access).await;
                nodes.refuse_refresh(&newest.refresh).await;
            }
        }
    }
}

#[actix_web::test]
async fn theft_kills_the_newest_token_and_the_access_tokens_at_once_and_is_recorded() {
    for place in Nodes::ALL {
        let nodes = Nodes::start(place, &[]).await;
        let app = nodes.first();
        let mut other_login = app.begin_login("ada").await;
        let mut login = String::new();
        for _ in 0..nodes.rounds(ROUNDS) {
            let first = app.begin_login("ada").await;
            let second = nodes.next().refresh(&first).await;
            app.advance(GRACE);
            let third = nodes.next().refresh(&second).await;
            // `third` is within its grace; that is no excuse.
            let node = nodes.next();
            refused(node.present(&first.refresh).await, 401, "refresh_reused").await;
            for pair in [&third, &second, &first] {
                nodes.refuse(node, &pair.access).await;
                nodes.refuse_refresh(&pair.refresh).await;
            }
            login = login_of(&first);
        }
        other_login = app.refresh(&other_login).await;
        good(app.me(&other_login.access).await).await;
        let ended = format!(
            "SELECT COUNT(*) AS number FROM logins WHERE id = '{login}' AND ended_cause = 'theft'"
        );
        assert_eq!(app.count(ended).await, 1);
        let recorded = format!(
            "SELECT COUNT(*) AS number FROM audit_events WHERE login_id = '{login}' AND kind = 'login_ended'"
        );
        assert_eq!(app.count(recorded).await, 1);
    }
}

#[actix_web::test]
async fn a_lost_answer_is_given_again_as_one_of_at_most_five_siblings() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let first = app.log_in("ada").await;
        let mut siblings = Vec::new();
        for _ in 0..7 {
            let given = app.refresh(&first).await;
            app.advance(GRACE - SECOND);
            assert_eq!(app.refresh(&first).await.refresh, given.refresh);
            siblings.push(given.refresh);
            app.advance(SECOND);
        }
        let distinct: HashSet<_> = siblings.iter().collect();
        assert_eq!(distinct.len(), 5, "{backend:?}");
        assert_eq!(siblings[4], siblings[6]);
        // The first to be used goes on, whichever it is.
        let winner = Pair {
            refresh: siblings[1].clone(),
            ..first.clone()
        };
        let next = app.refresh(&winner).await;
        refused(app.present(&siblings[4]).await, 401, "refresh_reused").await;
        refused(app.present(&next.refresh).await, 401, "refresh_reused").await;
    }
}

#[actix_web::test]
async fn the_newest_of_a_line_is_found_past_siblings_that_lost() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let start = app.now();
        let first = app.log_in("ada").await;
        let second = app.refresh(&first).await;
        let winner = app.refresh(&second).await;
        app.advance(GRACE);
        let latest = app.refresh(&second).await;
        assert_ne!(winner.refresh, latest.refresh);
        let newest = app.refresh(&winner).await;
        // Only under a clock set back is an ancestor of siblings still within its grace.
        app.clock.set(start);
        assert_eq!(app.refresh(&first).await.refresh, newest.refresh);
    }
}

#[actix_web::test]
async fn an_unused_refresh_token_expires_and_no_login_outlives_its_lifetime() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let unused = app.log_in("ada").await;
        app.advance(DAY * 7 - SECOND);
        let mut pair = app.refresh(&unused).await;
        app.advance(DAY * 7);
        refused(app.present(&pair.refresh).await, 401, "refresh_expired").await;

        pair = app.log_in("ada").await;
        for _ in 0..4 {
            app.advance(DAY * 7 - SECOND);
            pair = app.refresh(&pair).await;
        }
        app.advance(DAY + Duration::from_secs(4) - SECOND * 600);
        let body = good(app.present(&pair.refresh).await).await;
        // 29 days less ten minutes have gone by.
        assert_eq!(body["data"]["refresh_expires_in"], 86_400 + 600);
        pair = Pair::of(&body);
        app.advance(DAY);
        let body = good(app.present(&pair.refresh).await).await;
        assert_eq!(body["data"]["expires_in"], 600);
        assert_eq!(body["data"]["refresh_expires_in"], 600);
        pair = Pair::of(&body);
        app.advance(SECOND * 600);
        refused(app.me(&pair.access).await, 401, "token_expired").await;
        refused(app.present(&pair.refresh).await, 401, "refresh_expired").await;
    }
}

#[actix_web::test]
async fn forged_refresh_tokens_cost_no_query() {
    let app = TestApp::start(Backend::Shared).await;
    let pair = app.log_in("ada").await;
    app.installation.close_database();
    let mut flipped = pair.refresh.clone().into_bytes();
    flipped[40] = if flipped[40] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).expect("text");
    let forged = [
        "x".to_owned(),
        "A".repeat(64),
        flipped,
        pair.access.clone(),
        format!("{} ", pair.refresh),
    ];
    for forged in forged {
        refused(app.present(&forged).await, 401, "refresh_invalid").await;
    }
    refused_for_now(app.present(&pair.refresh).await).await;
}

async fn refused_for_now(answer: Response) {
    assert!(answer.headers().contains_key("retry-after"));
    refused(answer, 503, "unavailable").await;
}

#[actix_web::test]
async fn a_token_of_another_kind_is_nobodys() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let pair = app.log_in("ada").await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let remember = ada.cookie("gapura_remember").expect("a cookie");
        let session = ada.cookie("gapura_session").expect("a cookie");
        let made = app.call(Method::POST, "/api/v1/tokens");
        let made = made.bearer_auth(&pair.access).json(&json!({"name": "x"}));
        let made: Value = made.send().await.unwrap().json().await.unwrap();
        let personal = made["data"]["token"].as_str().expect("a token");
        for other in [&remember, &session, &pair.access, personal] {
            refused(app.present(other).await, 401, "refresh_invalid").await;
        }
        for other in [&remember, &session, &pair.refresh] {
            refused(app.me(other).await, 401, "token_invalid").await;
            let beside = app.call(Method::GET, "/api/v1/me");
            let beside = beside.header("x-sanctum-token", other.as_str()).send();
            refused(beside.await.unwrap(), 401, "token_invalid").await;
        }
        for cookie in ["gapura_remember", "gapura_session"] {
            for other in [&pair.refresh, &pair.access, personal] {
                let thief = Browser::new(&app, "ada");
                thief.plant(cookie, other);
                let answer = thief.open("/dashboard").await;
                answer.expect_redirect("/login?next=%2Fdashboard");
            }
        }
        // None of that has harmed anybody.
        app.refresh(&pair).await;
        ada.restart();
        ada.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn a_disabled_person_gets_nothing_more() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let eve = app.add_user("eve", Role::User).await;
        let pair = app.log_in("eve").await;
        let (now, id) = (app.now(), eve.id.clone());
        let disabled = app.app.db.write(move |conn| {
            gapura::account::set_disabled(conn, &id, Some(now))?;
            login::end_all_of(conn, &id, Cause::Revoked, None, None, now)
        });
        disabled.await.expect("disabled");
        refused(app.present(&pair.refresh).await, 401, "refresh_reused").await;
        // Who had already shown the right password is too late as well.
        let client = login::Client {
            device: String::new(),
            ip: String::new(),
        };
        let begun = app
            .app
            .db
            .write(move |conn| login::begin(conn, &eve, login::Kind::Api, &client, DAY, now));
        assert!(begun.await.expect("an answer").is_none());
    }
}

#[actix_web::test]
async fn a_logout_by_refresh_token_needs_the_same_login_as_the_expired_jwt_beside_it() {
    let app = TestApp::start(Backend::Embedded).await;
    let (ada, bob) = (app.log_in("ada").await, app.log_in("bob").await);
    app.advance(Duration::from_secs(1800));
    let with = |pair: &Pair, refresh: &str| {
        let request = app.call(Method::POST, "/api/v1/auth/logout");
        request
            .bearer_auth(&pair.access)
            .json(&json!({"refresh_token": refresh}))
            .send()
    };
    refused(app.log_out(&ada.access).await, 401, "token_expired").await;
    refused(
        with(&ada, &bob.refresh).await.expect("an answer"),
        401,
        "token_mismatch",
    )
    .await;
    let body = json!({"refresh_token": bob.refresh});
    good(with(&ada, &ada.refresh).await.expect("an answer")).await;
    good(app.post_json("/api/v1/auth/logout", &body).await).await;
    for pair in [ada, bob] {
        refused(app.present(&pair.refresh).await, 401, "refresh_reused").await;
    }
}

#[actix_web::test]
async fn an_end_is_known_on_every_node_within_a_second_with_and_without_redis() {
    for settings in [&[][..], &[("REDIS_URL", "")][..]] {
        let app = TestApp::start_with(Backend::Shared, settings).await;
        let (installation, clock) = (Arc::clone(&app.installation), Arc::clone(&app.clock));
        let other = TestApp::join(installation, clock, settings).await;
        let pair = app.log_in("ada").await;
        good(other.me(&pair.access).await).await;
        good(app.log_out(&pair.access).await).await;
        refused(app.me(&pair.access).await, 401, "token_revoked").await;
        let known = async {
            while other.me(&pair.access).await.status() == 200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SECOND, known)
            .await
            .expect("within a second");
        refused(other.me(&pair.access).await, 401, "token_revoked").await;
    }
}

/// The real program, on real time.
struct Process {
    child: std::process::Child,
    url: String,
}

impl Process {
    fn start(data_dir: &std::path::Path) -> Self {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_gapura"))
            .env("GAPURA_DATA_DIR", data_dir)
            .env("GAPURA_BIND", "127.0.0.1:0")
            .env("GAPURA_WORKERS", "2")
            .env("GAPURA_METRICS_BIND", "off")
            // More often than thirty times a minute is what this is about.
            .env("GAPURA_RATE_LIMITS", "off")
            .env("GAPURA_ADMIN_USERNAME", "root")
            .env("GAPURA_ADMIN_PASSWORD", TestApp::PASSWORD)
            .current_dir(data_dir)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        let mut said = String::new();
        let stdout = child.stdout.as_mut().expect("its output");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said)
            .expect("a line");
        let url = said
            .trim()
            .rsplit(' ')
            .next()
            .expect("an address")
            .to_owned();
        Self { child, url }
    }

    fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[actix_web::test]
async fn after_a_kill_at_any_moment_every_client_goes_on_with_what_it_holds() {
    let installation = Installation::new(Backend::Embedded);
    let dir = installation.dir();
    let http = reqwest::Client::new();
    let post =
        |url: &str, path: &str, body: Value| http.post(format!("{url}{path}")).json(&body).send();
    let mut process = Process::start(dir);
    let mut held = Vec::new();
    for _ in 0..8 {
        let body = json!({"username": "root", "password": TestApp::PASSWORD});
        let answer = post(&process.url, "/api/v1/auth/token", body)
            .await
            .expect("an answer");
        held.push(Pair::of(&good(answer).await).refresh);
    }
    for round in 0..20 {
        let (url, rotated) = (process.url.clone(), std::cell::Cell::new(0));
        let clients = join_all(held.iter_mut().map(|held| async {
            // Until the server is gone; what an answer that is cut off said is lost.
            while let Ok(answer) = post(
                &url,
                "/api/v1/auth/refresh",
                json!({"refresh_token": *held}),
            )
            .await
            {
                assert_eq!(answer.status(), 200);
                let Ok(body) = answer.json().await else { break };
                *held = Pair::of(&body).refresh;
                rotated.set(rotated.get() + 1);
            }
        }));
        let killed = async {
            while rotated.get() < 10 + round {
                tokio::task::yield_now().await;
            }
            process.kill();
        };
        join(clients, killed).await;
        process = Process::start(dir);
        for held in &mut held {
            let body = json!({"refresh_token": *held});
            let answer = post(&process.url, "/api/v1/auth/refresh", body)
                .await
                .expect("an answer");
            *held = Pair::of(&good(answer).await).refresh;
        }
    }
    process.kill();
    let file = dir.join("gapura.db");
    let mut conn = SqliteConnection::establish(file.to_str().expect("UTF-8")).expect("it opens");
    #[derive(QueryableByName)]
    struct Integrity {
        #[diesel(sql_type = diesel::sql_types::Text)]
        integrity_check: String,
    }
    let check = diesel::sql_query("PRAGMA integrity_check").get_result::<Integrity>(&mut conn);
    assert_eq!(check.expect("an answer").integrity_check, "ok");
}

#[actix_web::test]
async fn a_burst_of_guesses_does_not_outrun_its_count() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let guess = json!({"username": "ada", "password": "not the password at all"});
        let burst = (0..40).map(|_| app.post_json("/api/v1/auth/token", &guess));
        let answers = futures_util::future::join_all(burst).await;
        let guesses = answers
            .iter()
            .filter(|answer| answer.status() == 401)
            .count();
        assert_eq!(guesses, 5, "{backend:?}");
        let right = json!({"username": "ada", "password": TestApp::PASSWORD});
        assert_eq!(
            app.post_json("/api/v1/auth/token", &right).await.status(),
            429
        );
    }
}

#[actix_web::test]
async fn a_burst_of_names_does_not_outrun_the_count_of_its_address() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let guesses: Vec<Value> = (0..60)
            .map(|name| json!({"username": format!("nobody-{name}"), "password": "not the password"}))
            .collect();
        let burst = guesses
            .iter()
            .map(|guess| app.post_json("/api/v1/auth/token", guess));
        let answers = futures_util::future::join_all(burst).await;
        let heard = answers.iter().filter(|answer| answer.status() == 401);
        assert_eq!(heard.count(), 30, "{backend:?}");
    }
}

#[actix_web::test]
async fn a_dead_token_that_comes_again_and_again_is_recorded_once() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let pair = app.log_in("ada").await;
        good(app.log_out(&pair.access).await).await;
        for _ in 0..3 {
            refused(app.present(&pair.refresh).await, 401, "refresh_reused").await;
        }
        let recorded = "SELECT COUNT(*) AS number FROM audit_events WHERE kind = 'refresh_reused'";
        assert_eq!(app.count(recorded.to_owned()).await, 1);
    }
}
