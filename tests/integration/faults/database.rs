//! The database out of reach, and two hundred at once at one that is not.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, join4};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use super::killed::{browser, log_out, sign_in};
use super::postgres::Postgres;
use super::proxy::{CUT, HANGING, OPEN, Proxy};
use super::{TOKEN_STATUS, parts, serve_beside, shared, unavailable};
use crate::program::{PASSWORD, Place, Server, pair, until};
use crate::realtime::{Wire, closed};
use crate::token_api::claims_of;

/// What is trusted of ended logins without the database, and so how long a JWT alone goes on.
const MAX_LAG: &str = "7s";

/// What a client has when the database goes.
struct Held<'a> {
    access: &'a str,
    refresh: &'a str,
    /// The access token of a login that is to be ended.
    ending: &'a str,
}

async fn is_valid(server: &Server, access: &str) -> bool {
    let answer = server.get_as(TOKEN_STATUS, access).await;
    assert_eq!(answer.status(), 200);
    let status: Value = answer.json().await.expect("JSON");
    status["data"]["valid"].as_bool().expect("true or false")
}

/// What needs the database is told so in time, from the first request on, and what does not goes on.
async fn waits(what: &str, server: &Server, held: &Held<'_>, form: RequestBuilder) {
    let limit = Duration::from_secs(2);
    let (refreshing, logging_in) = (
        server.refresh(held.refresh),
        server.token("admin", PASSWORD),
    );
    // An end that cannot be written down is no end, and is not told as one.
    let logout = log_out(server, held.ending);
    let [logout, form] =
        [logout, form].map(|request| async { request.send().await.expect("an answer") });
    join4(
        unavailable(what, limit, refreshing),
        unavailable(what, limit, logging_in),
        unavailable(what, limit, logout),
        unavailable(what, limit, form),
    )
    .await;
    assert!(is_valid(server, held.access).await, "{what}");
    until(Duration::from_secs(5), || async {
        parts(server).await["database"] == "unavailable"
    })
    .await;
}

/// What it knows of ended logins grows too old to be trusted, and not before its time.
async fn is_trusted_no_longer(what: &str, server: &Server, access: &str, since: Instant) {
    until(Duration::from_secs(10), || async {
        server.get_as(TOKEN_STATUS, access).await.status() == 503
    })
    .await;
    let after = since.elapsed().as_secs_f32();
    // What it knows is as old as the beginning of the last reading, which may have waited for the database.
    assert!((4.5..8.5).contains(&after), "{what}: after {after} s");
}

/// Everything goes on by itself, in time: answers the refresh token that is good from here on.
async fn goes_on(
    what: &str,
    given_back: Instant,
    server: &Server,
    access: &str,
    refresh: &str,
) -> String {
    until(Duration::from_secs(15), || async {
        server.get("/readyz").await.status() == 200
    })
    .await;
    assert!(is_valid(server, access).await, "{what}");
    assert_eq!(server.get("/dashboard").await.status(), 200, "{what}");
    let answer = server.refresh(refresh).await;
    assert_eq!(answer.status(), 200, "{what}");
    let refresh = pair(answer).await.1;
    let took = given_back.elapsed();
    assert!(took < Duration::from_secs(5), "{what}: {took:?}");
    refresh
}

/// By the process itself. `without_the_database…` does the same by the network.
#[actix_web::test]
async fn a_postgresql_that_is_stopped_hung_or_killed_is_missed_in_time_and_found_again() {
    let mut postgres = Postgres::start().await;
    let place = Arc::new(
        shared()
            .with("DATABASE_URL", &postgres.url())
            .with("GAPURA_REVOCATION_MAX_LAG", MAX_LAG),
    );
    let server = serve_beside(&place).await;
    let (access, mut refresh) = server.pair("admin", PASSWORD).await;
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    for what in ["INT", "KILL", "STOP"] {
        let (ending, token_of_ending) = server.pair("admin", PASSWORD).await;
        let (ended, token_of_ended) = server.pair("admin", PASSWORD).await;
        assert_eq!(log_out(&server, &ended).send().await.unwrap().status(), 200);
        let form = sign_in(&server, &browser()).await;
        let since = Instant::now();
        match what {
            "STOP" => postgres.signal(what),
            _ => postgres.stop(what).await,
        }
        let held = Held {
            access: &access,
            refresh: &refresh,
            ending: &ending,
        };
        waits(what, &server, &held, form).await;
        assert!(!is_valid(&server, &ended).await, "{what}");
        is_trusted_no_longer(what, &server, &access, since).await;
        match what {
            "STOP" => postgres.signal("CONT"),
            _ => postgres.return_().await,
        }
        refresh = goes_on(what, Instant::now(), &server, &access, &refresh).await;
        // Neither is the end undone that was answered, nor the one done that was not.
        assert!(is_valid(&server, &ending).await, "{what}");
        let answer = server.refresh(&token_of_ended).await;
        assert_eq!(answer.status(), 401, "{what}");
        let answer = server.refresh(&token_of_ending).await;
        assert_eq!(answer.status(), 200, "{what}");
    }
}

#[actix_web::test]
async fn without_the_database_nobody_is_logged_out_and_no_end_is_missed() {
    let place = shared();
    let address = place
        .settings
        .iter()
        .find(|(name, _)| name == "DATABASE_URL")
        .unwrap()
        .1
        .clone();
    let url = url::Url::parse(&address).unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let proxy = Proxy::before(target.clone()).await;
    let through = address.replace(&target, &format!("127.0.0.1:{}", proxy.port));
    // Commands reach the database all the same.
    let (dir, settings) = (TempDir::new().unwrap(), place.settings.clone());
    let elsewhere = Place { dir, settings };
    let place = place
        .with("DATABASE_URL", &through)
        .with("GAPURA_REVOCATION_MAX_LAG", MAX_LAG);
    let place = Arc::new(place);
    let server = serve_beside(&place).await;
    let (access, mut refresh) = server.pair("admin", PASSWORD).await;
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    for fault in [CUT, HANGING] {
        let (ending, token_of_ending) = server.pair("admin", PASSWORD).await;
        let (ended_elsewhere, _) = server.pair("admin", PASSWORD).await;
        let form = sign_in(&server, &browser()).await;
        let since = Instant::now();
        proxy.set(fault);
        let what = format!("{fault}");
        let held = Held {
            access: &access,
            refresh: &refresh,
            ending: &ending,
        };
        waits(&what, &server, &held, form).await;
        let id = claims_of(&ended_elsewhere)["sid"]
            .as_str()
            .unwrap()
            .to_owned();
        elsewhere.run(&["session", "revoke", &id]).done();
        is_trusted_no_longer(&what, &server, &access, since).await;
        let mut wire = Wire::open(&server.url, &[]).await;
        wire.authenticate(&access).await;
        assert_eq!(wire.hear().await, closed(1013, "unavailable"), "{what}");
        proxy.set(OPEN);
        let given_back = Instant::now();
        // Whatever it answers from here on, it knows of that end or that it does not know.
        until(Duration::from_secs(15), || async {
            let status = server.get_as(TOKEN_STATUS, &ended_elsewhere).await;
            let body = status.text().await.unwrap();
            assert!(!body.contains("\"valid\":true"), "{what}: {body}");
            body.contains("\"valid\":false")
        })
        .await;
        refresh = goes_on(&what, given_back, &server, &access, &refresh).await;
        let answer = server.refresh(&token_of_ending).await;
        assert_eq!(answer.status(), 200, "{what}");
    }
}

/// So many logins, and so many refreshes beside them.
const AT_ONCE: usize = 200;

#[actix_web::test]
async fn two_hundred_at_once_meet_no_locked_database() {
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let server = place.serve();
    // A login of its own for each refresh, so that each of them is a rotation.
    let mut held = Vec::new();
    while held.len() < AT_ONCE {
        let pairs = (0..10).map(|_| server.pair("admin", PASSWORD));
        let pairs = join_all(pairs).await.into_iter();
        held.extend(pairs.map(|(_, refresh)| refresh));
    }
    for _ in 0..3 {
        // Connections of its own: one of the round before may be closed just as it is used again.
        let http = reqwest::Client::new();
        let work = (0..2 * AT_ONCE).map(|number| {
            let (url, body) = match number % 2 {
                0 => ("token", json!({"username": "admin", "password": PASSWORD})),
                _ => ("refresh", json!({ "refresh_token": held[number / 2] })),
            };
            let request = http.post(format!("{}/api/v1/auth/{url}", server.url));
            let request = request.json(&body).send();
            actix_web::rt::spawn(async move { (number, request.await.expect("an answer")) })
        });
        let mut begun = 0;
        let mut given = HashSet::new();
        for one in work.collect::<Vec<_>>() {
            let (number, answer) = one.await.expect("an answer");
            let status = answer.status();
            if number % 2 == 0 {
                // More logins than may wait for a core are told to come back.
                assert!(status == 200 || status == 503, "{number}: {status}");
                begun += usize::from(status == 200);
            } else {
                assert_eq!(status, 200, "{number}");
                let (_, next) = pair(answer).await;
                assert_ne!(next, held[number / 2], "{number}");
                given.insert(next.clone());
                held[number / 2] = next;
            }
        }
        assert_eq!(given.len(), AT_ONCE, "rotations");
        // As many as may wait where there is one core.
        assert!(begun >= 16, "{begun} logins");
    }
    let log = server.err.text();
    assert!(!log.contains("locked"), "{log}");
}
