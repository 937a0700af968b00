//! Refresh tokens that PostgreSQL exchanges together, where something goes wrong in the middle.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Response;
use tokio::time::Instant;

use super::postgres::{Postgres, SomebodyElse};
use super::{TOKEN_STATUS, shared, timed};
use crate::metrics::measured;
use crate::program::{PASSWORD, Place, Server, pair, until};
use crate::token_api::claims_of;

/// A slow machine is given a little more.
const SOME: Duration = Duration::from_millis(400);
const TOLD_WITHIN: Duration = Duration::from_secs(2);
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Where tokens of any age are exchanged together: within a minute of their making they are counted
/// one by one elsewhere.
fn place() -> Place {
    shared().with("GAPURA_RATE_LIMITS", "off")
}

async fn log_in(server: &Server, times: usize) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for _ in 0..times {
        pairs.push(server.pair("admin", PASSWORD).await);
    }
    pairs
}

async fn present(server: &Server, pairs: &[(String, String)]) -> Vec<(Response, Duration)> {
    join_all(pairs.iter().map(|(_, token)| timed(server.refresh(token)))).await
}

/// 503 in time, with a word on when to come back.
fn told(answer: &(Response, Duration)) {
    let (answer, took) = answer;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(*took < TOLD_WITHIN + SOME, "{took:?}");
}

async fn all_go_on(server: &Server, pairs: &mut [(String, String)]) {
    for held in pairs {
        let answer = server.refresh(&held.1).await;
        assert_eq!(answer.status(), 200);
        *held = pair(answer).await;
    }
}

#[actix_web::test]
async fn while_postgresql_hangs_all_are_told_in_time_and_all_go_on_after_it() {
    let postgres = Postgres::start().await;
    let place = place()
        .with("DATABASE_URL", &postgres.url())
        .with("GAPURA_REVOCATION_MAX_LAG", "5s");
    let server = Arc::new(place.serve());
    let mut pairs = log_in(&server, 40).await;
    let access = server.pair("admin", PASSWORD).await.0;
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    let returned: Arc<std::sync::Mutex<Option<Instant>>> = Arc::default();
    for _ in 0..2 {
        *returned.lock().unwrap() = None;
        let enough = Arc::new(AtomicBool::new(false));
        let clients = pairs.drain(..).map(|held| {
            let (server, enough) = (Arc::clone(&server), Arc::clone(&enough));
            let returned = Arc::clone(&returned);
            actix_web::rt::spawn(async move {
                let (mut held, mut refused) = (held, 0);
                while !enough.load(Ordering::SeqCst) {
                    let asked = Instant::now();
                    let answer = timed(server.refresh(&held.1)).await;
                    if answer.0.status() == 200 {
                        held = pair(answer.0).await;
                    } else {
                        told(&answer);
                        refused += 1;
                        let back = *returned.lock().unwrap();
                        assert!(back.is_none_or(|back| asked < back + BACK_WITHIN));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                (held, refused)
            })
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        postgres.signal("STOP");
        let hung = Instant::now();
        assert_eq!(server.get_as(TOKEN_STATUS, &access).await.status(), 200);
        told(&timed(server.token("admin", PASSWORD)).await);
        // A session asks Redis, but who may not be told of an end is not let in.
        let stale = || async { server.get_as(TOKEN_STATUS, &access).await.status() == 503 };
        until(Duration::from_secs(8), stale).await;
        assert!(hung.elapsed() > Duration::from_secs(4));
        told(&timed(server.get("/dashboard")).await);
        tokio::time::sleep(Duration::from_secs(2)).await;
        postgres.signal("CONT");
        *returned.lock().unwrap() = Some(Instant::now());
        let is_ready = || async { server.get("/readyz").await.status() == 200 };
        let took = until(Duration::from_secs(15), is_ready).await;
        assert!(took < BACK_WITHIN, "{took:?}");
        assert_eq!(server.get_as(TOKEN_STATUS, &access).await.status(), 200);
        tokio::time::sleep(BACK_WITHIN + Duration::from_secs(1)).await;
        enough.store(true, Ordering::SeqCst);
        for client in clients {
            let (held, refused) = client.await.expect("a client that got on");
            assert!(refused > 0, "it met the outage");
            pairs.push(held);
        }
        all_go_on(&server, &mut pairs).await;
        assert_eq!(server.get("/dashboard").await.status(), 200);
    }
}

#[actix_web::test]
async fn a_login_that_somebody_else_holds_keeps_only_itself_waiting() {
    let place = place();
    let server = place.serve();
    let mut pairs = log_in(&server, 20).await;
    let mut somebody = SomebodyElse::in_database_of(&place);
    let held = claims_of(&pairs[7].0)["sid"].as_str().unwrap().to_owned();
    somebody.execute(&format!(
        "BEGIN; SELECT 1 FROM logins WHERE id = '{held}' FOR UPDATE"
    ));
    for _ in 0..3 {
        let answers = present(&server, &pairs).await;
        for (number, answer) in answers.into_iter().enumerate() {
            if number == 7 {
                told(&answer);
                continue;
            }
            let (answer, took) = answer;
            assert_eq!(answer.status(), 200);
            assert!(took < Duration::from_millis(1000), "{took:?}");
            pairs[number] = pair(answer).await;
        }
    }
    somebody.done();
    all_go_on(&server, &mut pairs).await;
}

/// Has the first thing that is asked of a table answered late, and the second not at all; returns the
/// answer to the request, and how long it took.
async fn late_and_then_not_at_all(
    place: &Place,
    table: &str,
    asked: impl Future<Output = Response> + 'static,
) -> (Response, Duration) {
    let mut first = SomebodyElse::in_database_of(place);
    let mut second = SomebodyElse::in_database_of(place);
    let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    first.execute(&lock);
    let asked = actix_web::rt::spawn(timed(asked));
    // What the server asks by itself may wait beside it.
    until(Duration::from_secs(3), || ready(first.waiting() > 0)).await;
    let waiting = first.waiting();
    let second = std::thread::spawn(move || {
        second.execute(&lock);
        second
    });
    until(Duration::from_secs(3), || ready(first.waiting() > waiting)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.done();
    let answer = asked.await.expect("an answer");
    second.join().expect("it had its turn").done();
    answer
}

#[actix_web::test]
async fn a_database_that_answers_late_and_then_not_at_all_keeps_nobody_waiting_twice() {
    let place = place();
    let server = Arc::new(place.serve());
    let old = log_in(&server, 1).await;
    let mut pairs = old.clone();
    all_go_on(&server, &mut pairs).await;
    let (access, used) = (pairs[0].0.clone(), old[0].1.clone());
    let asking = Arc::clone(&server);
    let refresh = async move { asking.refresh(&used).await };
    told(&late_and_then_not_at_all(&place, "rotating_tokens", refresh).await);
    let asking = Arc::clone(&server);
    let log_in = async move { asking.token("admin", PASSWORD).await };
    told(&late_and_then_not_at_all(&place, "users", log_in).await);
    let log_out = server
        .http
        .post(format!("{}/api/v1/auth/logout", server.url));
    let log_out = log_out.bearer_auth(access).send();
    let log_out = async move { log_out.await.expect("an answer") };
    told(&late_and_then_not_at_all(&place, "logins", log_out).await);
    // Nor was it done after all.
    all_go_on(&server, &mut pairs).await;
}

#[actix_web::test]
async fn what_was_answered_503_is_not_done_after_it() {
    let postgres = Postgres::start().await;
    let place = measured(place().with("DATABASE_URL", &postgres.url()))
        .with("GAPURA_REFRESH_GRACE", "0s")
        .with("GAPURA_REVOCATION_MAX_LAG", "1m");
    let server = place.serve();
    let mut pairs = log_in(&server, 10).await;
    let mut somebody = SomebodyElse::in_database_of(&place);
    for hangs in [false, true, false, true] {
        let outages = server.metric("gapura_database_outages_total").await;
        match hangs {
            true => postgres.signal("STOP"),
            false => somebody.lock("rotating_tokens"),
        }
        for answer in present(&server, &pairs).await {
            told(&answer);
        }
        match hangs {
            true => postgres.signal("CONT"),
            false => somebody.done(),
        }
        let counted = server.metric("gapura_database_outages_total").await - outages;
        assert!(counted >= 10.0, "{counted}");
        until(BACK_WITHIN, || ready(somebody.waiting() == 0)).await;
        for held in &mut pairs {
            let began = Instant::now();
            let answer = loop {
                let answer = server.refresh(&held.1).await;
                if answer.status() != 503 || began.elapsed() > BACK_WITHIN {
                    break answer;
                }
            };
            // In strict mode what was done would be a theft now.
            assert_eq!(answer.status(), 200, "it hung: {hangs}");
            *held = pair(answer).await;
        }
    }
}

#[actix_web::test]
async fn who_has_time_left_is_not_turned_away_with_those_who_have_little() {
    let place = place();
    let server = Arc::new(place.serve());
    let mut pairs = log_in(&server, 3).await;
    let mut somebody = SomebodyElse::in_database_of(&place);
    let ask = |pairs: &[(String, String)], number: usize| {
        let (server, token) = (Arc::clone(&server), pairs[number].1.clone());
        actix_web::rt::spawn(async move { timed(server.refresh(&token)).await })
    };
    for _ in 0..2 {
        somebody.lock("rotating_tokens");
        let began = Instant::now();
        let first = ask(&pairs, 0);
        until(Duration::from_secs(1), || ready(somebody.waiting() > 0)).await;
        tokio::time::sleep_until(began + Duration::from_millis(300)).await;
        let second = ask(&pairs, 1);
        tokio::time::sleep_until(began + Duration::from_millis(1300)).await;
        let third = ask(&pairs, 2);
        told(&first.await.expect("an answer"));
        told(&second.await.expect("an answer"));
        // The second could have waited until now.
        tokio::time::sleep_until(began + Duration::from_millis(1900)).await;
        somebody.done();
        let answer = third.await.expect("an answer").0;
        assert_eq!(answer.status(), 200);
        pairs[2] = pair(answer).await;
        all_go_on(&server, &mut pairs).await;
    }
}

/// As many successors of each login's tokens as it has been given, and one that is live.
fn whole(somebody: &mut SomebodyElse) {
    let split = somebody.number(
        "SELECT count(*) FROM (SELECT login_id FROM rotating_tokens WHERE superseded_at IS NULL
             GROUP BY login_id HAVING count(*) <> 1) AS split",
    );
    assert_eq!(split, 0);
    let dangling = somebody.number(
        "SELECT count(*) FROM rotating_tokens AS parent WHERE (successor_id IS NOT NULL) <>
             EXISTS (SELECT FROM rotating_tokens AS child WHERE child.parent_id = parent.id)",
    );
    assert_eq!(dangling, 0);
}

#[actix_web::test]
async fn killed_in_the_middle_of_a_batch_it_leaves_all_or_nothing_and_tokens_that_are_good() {
    let place = place();
    let mut somebody = None;
    let mut pairs = Vec::new();
    for round in 0..3 {
        let mut server = place.serve();
        if round == 0 {
            pairs = log_in(&server, 20).await;
        }
        let somebody = somebody.get_or_insert_with(|| SomebodyElse::in_database_of(&place));
        all_go_on(&server, &mut pairs).await;
        // Whoever adds tokens waits with the locks of its logins in hand.
        somebody.lock("rotating_tokens");
        let asking: Vec<_> = pairs
            .iter()
            .map(|(_, token)| {
                let request = server
                    .http
                    .post(format!("{}/api/v1/auth/refresh", server.url));
                let request = request.json(&serde_json::json!({ "refresh_token": token }));
                actix_web::rt::spawn(async move { request.send().await.is_err() })
            })
            .collect();
        until(Duration::from_secs(1), || ready(somebody.waiting() > 0)).await;
        server.signal("KILL");
        server.ended().await;
        for request in asking {
            assert!(request.await.expect("no panic"), "it was cut off");
        }
        somebody.done();
        let server = place.serve();
        let done = || ready(somebody.waiting() == 0);
        until(Duration::from_secs(5), done).await;
        all_go_on(&server, &mut pairs).await;
        whole(somebody);
    }
}

#[actix_web::test]
async fn a_node_that_is_stopped_with_locks_in_its_hands_keeps_others_waiting_for_seconds_only() {
    // Together or alone.
    for limits in ["off", "on"] {
        let place = shared()
            .with("GAPURA_RATE_LIMITS", limits)
            .with("GAPURA_PUBLIC_URL", "http://localhost");
        let (stopped, other) = (Arc::new(place.serve()), place.serve());
        let mut pairs = log_in(&other, 8).await;
        let mut somebody = SomebodyElse::in_database_of(&place);
        // On a slow machine all may have been given up before the node stands still: then once more.
        let mut tries = 0..5;
        let asking = loop {
            tries.next().expect("it holds locks when it is stopped");
            match limits {
                "off" => somebody.lock("rotating_tokens"),
                // A batch passes over such logins; who is exchanged alone waits for them.
                _ => somebody.execute("BEGIN; SELECT 1 FROM logins FOR UPDATE"),
            }
            let asking: Vec<_> = pairs
                .iter()
                .map(|(_, token)| {
                    let (stopped, token) = (Arc::clone(&stopped), token.clone());
                    actix_web::rt::spawn(async move { stopped.refresh(&token).await.status() })
                })
                .collect();
            let wait = if limits == "off" { 1 } else { 8 };
            until(Duration::from_millis(1400), || {
                ready(somebody.waiting() >= wait)
            })
            .await;
            stopped.signal("STOP");
            somebody.done();
            let since = Instant::now();
            let mut holds = || somebody.abandoned() > 0;
            while !holds() && since.elapsed() < Duration::from_secs(2) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if holds() {
                break asking;
            }
            stopped.signal("CONT");
            for request in asking {
                request.await.expect("an answer");
            }
            all_go_on(&other, &mut pairs).await;
        };
        let began = Instant::now();
        for held in &mut pairs {
            let answer = loop {
                let answer = timed(other.refresh(&held.1)).await;
                if answer.0.status() == 200 {
                    break answer.0;
                }
                told(&answer);
            };
            *held = pair(answer).await;
        }
        // The database ends a transaction that says nothing for five seconds.
        assert!(began.elapsed() < Duration::from_secs(6), "{limits}");
        stopped.signal("CONT");
        for request in asking {
            let status = request.await.expect("an answer");
            assert!(status == 200 || status == 503, "{limits}: {status}");
        }
        let went_on = async || stopped.refresh(&pairs[0].1).await;
        let began = Instant::now();
        let answer = loop {
            let answer = went_on().await;
            if answer.status() == 200 {
                break answer;
            }
            assert!(began.elapsed() < BACK_WITHIN, "{limits}");
        };
        pairs[0] = pair(answer).await;
        all_go_on(&other, &mut pairs).await;
        whole(&mut somebody);
    }
}
