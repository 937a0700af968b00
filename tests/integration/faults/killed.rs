//! `kill -9` at each step of a login, a rotation and a logout: nothing is half made, and everybody goes
//! on with what they hold.

use std::future::ready;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection};
use futures_util::future::{join, join_all};
use reqwest::{Client, RequestBuilder};
use serde_json::json;

use super::postgres::SomebodyElse;
use super::redis::Redis;
use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{PASSWORD, Place, Server, form_token, pair, until};

/// The database of a place, as somebody else sees it.
enum Database {
    Sqlite(SqliteConnection),
    Postgres(SomebodyElse),
}

impl Database {
    fn of(place: &Place, backend: Backend) -> Self {
        match backend {
            Backend::Shared => Self::Postgres(SomebodyElse::in_database_of(place)),
            Backend::Embedded => {
                let file = place.path("data/gapura.db").display().to_string();
                let mut conn = SqliteConnection::establish(&file).expect("it opens");
                let slow = "PRAGMA busy_timeout = 2000; CREATE VIEW IF NOT EXISTS slow AS
                    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000)
                    SELECT count(*) AS counted FROM n";
                conn.batch_execute(slow).expect("a view");
                Self::Sqlite(conn)
            }
        }
    }

    /// Whoever comes to `table` goes no further.
    fn stall(&mut self, table: &str) {
        match self {
            Self::Postgres(somebody) => somebody.lock(table),
            Self::Sqlite(conn) => {
                for event in ["INSERT", "UPDATE", "DELETE"] {
                    conn.batch_execute(&format!(
                        "CREATE TRIGGER slow_{event} BEFORE {event} ON {table}
                             BEGIN SELECT counted FROM slow; END"
                    ))
                    .expect("a trigger");
                }
            }
        }
    }

    async fn is_stalled(&mut self) {
        let limit = Duration::from_secs(5);
        match self {
            Self::Postgres(somebody) => {
                until(limit, || ready(somebody.waiting() > 0)).await;
            }
            Self::Sqlite(conn) => {
                // A transaction that goes on takes much less.
                let patient = "PRAGMA busy_timeout = 300; BEGIN IMMEDIATE; ROLLBACK";
                until(limit, || ready(conn.batch_execute(patient).is_err())).await;
            }
        }
    }

    async fn go_on(&mut self) {
        match self {
            Self::Postgres(somebody) => {
                somebody.done();
                let limit = Duration::from_secs(5);
                until(limit, || ready(somebody.waiting() == 0)).await;
            }
            Self::Sqlite(conn) => conn
                .batch_execute(
                    "PRAGMA busy_timeout = 2000; DROP TRIGGER slow_INSERT; DROP TRIGGER slow_UPDATE;
                     DROP TRIGGER slow_DELETE",
                )
                .expect("no trigger"),
        }
    }

    fn number(&mut self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        match self {
            Self::Postgres(somebody) => somebody.number(query),
            Self::Sqlite(conn) => {
                let row = diesel::sql_query(format!("SELECT ({query}) AS number"));
                row.get_result::<Row>(conn).expect("a number").number
            }
        }
    }

    /// Every login has its event, every one by API its token; an end its event and its line in the feed,
    /// and none has these without having ended; a line has one newest token.
    fn is_whole(&mut self, when: &str) {
        #[derive(QueryableByName)]
        struct Integrity {
            #[diesel(sql_type = Text)]
            integrity_check: String,
        }
        if let Self::Sqlite(conn) = self {
            let check = diesel::sql_query("PRAGMA integrity_check").get_result::<Integrity>(conn);
            assert_eq!(check.expect("an answer").integrity_check, "ok", "{when}");
        }
        let event = |kind: &str| {
            format!(
                "EXISTS (SELECT 1 FROM audit_events WHERE login_id = logins.id AND kind = '{kind}')"
            )
        };
        let (begun, ended) = (event("login"), event("login_ended"));
        let in_feed = "EXISTS (SELECT 1 FROM revocations WHERE subject = logins.id)";
        let has_token = "EXISTS (SELECT 1 FROM rotating_tokens WHERE login_id = logins.id)";
        for half in [
            format!("SELECT count(*) FROM logins WHERE NOT {begun}"),
            format!("SELECT count(*) FROM logins WHERE kind = 'api' AND NOT {has_token}"),
            format!("SELECT count(*) FROM logins WHERE (ended_at IS NOT NULL) <> {ended}"),
            format!("SELECT count(*) FROM logins WHERE (ended_at IS NOT NULL) <> {in_feed}"),
            "SELECT count(*) FROM audit_events WHERE kind = 'login'
                 AND NOT EXISTS (SELECT 1 FROM logins WHERE id = login_id)"
                .to_owned(),
            "SELECT count(*) FROM (SELECT login_id FROM rotating_tokens
                 WHERE superseded_at IS NULL GROUP BY login_id HAVING count(*) <> 1) AS split"
                .to_owned(),
        ] {
            assert_eq!(self.number(&half), 0, "{when}: {half}");
        }
    }
}

/// What is done when the process dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    LogIn,
    Rotate,
    LogOut,
    SignIn,
    Restore,
    SignOut,
}

/// Every table that the work comes to.
const STEPS: [(Work, &[&str]); 6] = [
    (Work::LogIn, &["logins", "rotating_tokens", "audit_events"]),
    (Work::Rotate, &["rotating_tokens"]),
    (Work::LogOut, &["logins", "revocations", "audit_events"]),
    (
        Work::SignIn,
        &["logins", "rotating_tokens", "audit_events", "keystore"],
    ),
    (
        Work::Restore,
        &["rotating_tokens", "audit_events", "keystore"],
    ),
    (
        Work::SignOut,
        &["logins", "revocations", "audit_events", "keystore"],
    ),
];

/// The form token of a page that this browser opens.
pub async fn form_token_at(browser: &Client, url: &str) -> String {
    let page = browser.get(url).send().await.expect("an answer");
    form_token(&page.text().await.expect("a page")).to_owned()
}

pub fn browser() -> Client {
    let browser = Client::builder().redirect(reqwest::redirect::Policy::none());
    browser.cookie_store(true).build().expect("a client")
}

pub async fn sign_in(server: &Server, browser: &Client) -> RequestBuilder {
    let url = format!("{}/login", server.url);
    let csrf = form_token_at(browser, &url).await;
    let fields = [
        ("login", "admin"),
        ("password", PASSWORD),
        ("remember", "1"),
        ("csrf_token", &csrf),
    ];
    browser.post(url).form(&fields)
}

/// Signs in, and gives the remember cookie as a browser that was opened again sends it.
pub async fn remembered(server: &Server, browser: &Client) -> String {
    let answer = sign_in(server, browser).await.send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 303);
    let mut cookies = answer.cookies();
    let cookie = cookies.find(|cookie| cookie.name().ends_with("remember"));
    let cookie = cookie.expect("a remember cookie");
    format!("{}={}", cookie.name(), cookie.value())
}

pub async fn is_in(server: &Server, browser: &Client) -> bool {
    let page = browser.get(format!("{}/dashboard", server.url)).send();
    let status = page.await.expect("an answer").status();
    assert!(status == 200 || status == 303, "{status}");
    status == 200
}

fn refresh(server: &Server, token: &str) -> RequestBuilder {
    let url = format!("{}/api/v1/auth/refresh", server.url);
    server
        .http
        .post(url)
        .json(&json!({ "refresh_token": token }))
}

pub fn log_out(server: &Server, access: &str) -> RequestBuilder {
    let url = format!("{}/api/v1/auth/logout", server.url);
    server.http.post(url).bearer_auth(access)
}

fn place(backend: Backend) -> Place {
    place_on(backend)
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_PUBLIC_URL", "http://localhost")
        .with("GAPURA_RATE_LIMITS", "off")
}

#[actix_web::test]
async fn killed_at_any_step_it_leaves_nothing_half_made() {
    for backend in Backend::ALL {
        let place = place(backend);
        let mut server = place.serve();
        let mut database = Database::of(&place, backend);
        for (work, tables) in STEPS {
            for table in tables {
                if backend == Backend::Shared && *table == "keystore" {
                    continue;
                }
                let when = format!("{backend:?}, {work:?}, {table}");
                let (access, token) = server.pair("admin", PASSWORD).await;
                let in_session = browser();
                let signed_in = sign_in(&server, &in_session).await.send().await;
                assert_eq!(signed_in.expect("an answer").status(), 303, "{when}");
                let dashboard = format!("{}/dashboard", server.url);
                let stranger = browser();
                let cookie = remembered(&server, &browser()).await;
                let restore = |server: &Server| {
                    let request = Client::new().get(format!("{}/dashboard", server.url));
                    request.header("cookie", &cookie)
                };
                let request = match work {
                    Work::LogIn => {
                        let url = format!("{}/api/v1/auth/token", server.url);
                        let body = json!({"username": "admin", "password": PASSWORD});
                        server.http.post(url).json(&body)
                    }
                    Work::Rotate => refresh(&server, &token),
                    Work::LogOut => log_out(&server, &access),
                    Work::SignIn => sign_in(&server, &stranger).await,
                    Work::Restore => restore(&server),
                    Work::SignOut => {
                        let csrf = form_token_at(&in_session, &dashboard).await;
                        let url = format!("{}/logout", server.url);
                        in_session.post(url).form(&[("csrf_token", csrf)])
                    }
                };
                // What the pages before leave to be written behind their answers is not meant.
                tokio::time::sleep(Duration::from_millis(100)).await;
                database.stall(table);
                let request = actix_web::rt::spawn(async move { request.send().await.is_err() });
                database.is_stalled().await;
                server.signal("KILL");
                server.ended().await;
                assert!(request.await.expect("no panic"), "{when}: cut off");
                database.go_on().await;
                server = place.serve();
                database.is_whole(&when);
                // Whoever was not told that they are out may be either, but all of it.
                let has_ended = server.get_as("/api/v1/me", &access).await.status() != 200;
                let answer = server.refresh(&token).await;
                assert_eq!(answer.status() != 200, has_ended, "{when}");
                assert!(!has_ended || work == Work::LogOut, "{when}");
                if !has_ended {
                    let (access, _) = pair(answer).await;
                    assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 200);
                    let answer = log_out(&server, &access).send().await;
                    assert_eq!(answer.expect("an answer").status(), 200, "{when}");
                }
                let inside = is_in(&server, &in_session).await;
                assert!(inside || work == Work::SignOut, "{when}");
                assert_eq!(is_in(&server, &in_session).await, inside, "{when}");
                if work == Work::SignIn {
                    let again = sign_in(&server, &stranger).await.send().await;
                    assert_eq!(again.expect("an answer").status(), 303, "{when}");
                    assert!(is_in(&server, &stranger).await, "{when}");
                }
                if work == Work::Restore {
                    let again = restore(&server).send().await.expect("an answer");
                    assert_eq!(again.status(), 200, "{when}");
                }
                database.is_whole(&when);
            }
        }
    }
}

/// Where the database knows, and Redis is not told any more.
#[actix_web::test]
async fn killed_before_redis_is_told_an_end_stands_and_a_login_is_whole() {
    let redis = Redis::start().await;
    let place = place(Backend::Shared).with("REDIS_URL", &redis.url());
    let mut server = place.serve();
    let mut database = Database::of(&place, Backend::Shared);
    let client = redis::Client::open(redis.url()).expect("an address");
    let mut somebody = client.get_connection().expect("a connection");
    for work in [Work::SignIn, Work::SignOut] {
        let person = browser();
        let mut request = sign_in(&server, &person).await;
        let mut written = "SELECT count(*) FROM logins";
        if work == Work::SignOut {
            assert_eq!(request.send().await.expect("an answer").status(), 303);
            let csrf = form_token_at(&person, &format!("{}/dashboard", server.url)).await;
            let url = format!("{}/logout", server.url);
            request = person.post(url).form(&[("csrf_token", csrf)]);
            written = "SELECT count(*) FROM logins WHERE ended_at IS NOT NULL";
        }
        let before = database.number(written);
        // Each asks Redis for a sign of life first, and then comes to the database.
        database.stall("logins");
        let request = actix_web::rt::spawn(async move { request.send().await.is_err() });
        database.is_stalled().await;
        let pause = redis::cmd("CLIENT")
            .arg(&["PAUSE", "5000", "WRITE"])
            .exec(&mut somebody);
        pause.expect("it takes no changes");
        database.go_on().await;
        until(Duration::from_secs(5), || {
            ready(database.number(written) > before)
        })
        .await;
        server.signal("KILL");
        server.ended().await;
        assert!(request.await.expect("no panic"), "{work:?}: cut off");
        let go_on = redis::cmd("CLIENT").arg("UNPAUSE").exec(&mut somebody);
        go_on.expect("it goes on");
        server = place.serve();
        database.is_whole(&format!("{work:?}"));
        assert!(!is_in(&server, &person).await, "{work:?}");
        let again = sign_in(&server, &person).await.send().await;
        assert_eq!(again.expect("an answer").status(), 303, "{work:?}");
        assert!(is_in(&server, &person).await, "{work:?}");
    }
}

/// Somebody who logs in and out for as long as there is a server; what they were told stays so.
#[derive(Default)]
struct Visitor {
    inside: Option<(String, String)>,
    /// Whether the end was answered.
    outside: Vec<(String, String, bool)>,
}

impl Visitor {
    /// False once the server is gone.
    async fn visit(&mut self, server: &Server) -> bool {
        let Some((access, token)) = self.inside.take() else {
            let url = format!("{}/api/v1/auth/token", server.url);
            let body = json!({"username": "admin", "password": PASSWORD});
            let Ok(answer) = server.http.post(url).json(&body).send().await else {
                return false;
            };
            // The queue of hashes is short.
            if answer.status() == 503 {
                return true;
            }
            assert_eq!(answer.status(), 200);
            let Ok(body) = answer.json::<serde_json::Value>().await else {
                return false;
            };
            let text = |name: &str| body["data"][name].as_str().expect("a token").to_owned();
            self.inside = Some((text("access_token"), text("refresh_token")));
            return true;
        };
        let answer = log_out(server, &access).send().await;
        let answered = answer.is_ok_and(|answer| answer.status() == 200);
        self.outside.push((access, token, answered));
        answered
    }

    async fn check(&mut self, server: &Server) {
        for (access, token, answered) in self.outside.drain(..) {
            let is_out = server.get_as("/api/v1/me", &access).await.status() == 401;
            assert!(is_out || !answered, "an end that was answered stands");
            let refused = server.refresh(&token).await.status() == 401;
            assert_eq!(is_out, refused, "all of a login has ended, or nothing");
        }
        if let Some((access, token)) = &mut self.inside {
            assert_eq!(server.get_as("/api/v1/me", access).await.status(), 200);
            let answer = server.refresh(token).await;
            assert_eq!(answer.status(), 200);
            (*access, *token) = pair(answer).await;
        }
    }
}

#[actix_web::test]
async fn killed_at_any_moment_what_was_answered_stands() {
    for backend in Backend::ALL {
        let place = place(backend);
        let mut server = place.serve();
        let mut database = Database::of(&place, backend);
        let mut visitors: Vec<_> = (0..4).map(|_| Visitor::default()).collect();
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(server.pair("admin", PASSWORD).await.1);
        }
        for round in 0..8_u32 {
            let done = std::cell::Cell::new(0);
            let visits = join_all(visitors.iter_mut().map(|visitor| async {
                while visitor.visit(&server).await {
                    done.set(done.get() + 1);
                }
            }));
            let rotations = join_all(held.iter_mut().map(|held| async {
                while let Ok(answer) = refresh(&server, held).send().await {
                    assert_eq!(answer.status(), 200);
                    let Ok(body) = answer.json::<serde_json::Value>().await else {
                        break;
                    };
                    let token = &body["data"]["refresh_token"];
                    *held = token.as_str().expect("a token").to_owned();
                }
            }));
            let killed = async {
                while done.get() < 6 + round {
                    tokio::task::yield_now().await;
                }
                server.signal("KILL");
            };
            join(join(visits, rotations), killed).await;
            server.ended().await;
            server = place.serve();
            for visitor in &mut visitors {
                visitor.check(&server).await;
            }
            for held in &mut held {
                let answer = server.refresh(held).await;
                assert_eq!(answer.status(), 200);
                *held = pair(answer).await.1;
            }
            database.is_whole(&format!("{backend:?}, round {round}"));
        }
    }
}
