//! What is measured, as Prometheus reads it from the listener that is for it alone.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use gapura::clock::{Clock, SystemClock};
use gapura::command::cleanup;
use gapura::metrics::Seen;
use gapura::metrics::http::count_ends;
use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use crate::actors::Browser;
use crate::faults::redis::Redis;
use crate::harness::{Backend, TestApp};
use crate::process::place_on;
use crate::program::{APP_KEY, PASSWORD, Place, Server, Told, after, pair, until};
use crate::readme::between;
use crate::realtime::Wire;

pub fn measured(place: Place) -> Place {
    place
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_METRICS_BIND", "127.0.0.1:0")
}

impl Server {
    /// Where the metrics are: printed a moment after the address by which a server counts as started.
    async fn metrics_url(&self) -> String {
        let url = || after(&self.out.text(), "Metrics are at ");
        until(Duration::from_secs(5), || async { url().is_some() }).await;
        url().expect("an address")
    }

    pub async fn metrics(&self) -> String {
        let answer = reqwest::get(self.metrics_url().await)
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.text().await.expect("text")
    }

    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let value = value_of(&text, series);
        value.unwrap_or_else(|| panic!("no {series} in {text}"))
    }

    /// Waits until it is so much; where it is not there yet, it is nothing.
    async fn counts(&self, series: &str, wanted: f64) {
        until(Duration::from_secs(10), || async {
            value_of(&self.metrics().await, series).unwrap_or(0.0) == wanted
        })
        .await;
    }
}

fn value_of(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series))?;
    Some(line.trim().parse().expect("a number"))
}

const LOGGED_OUT: &str = r#"gapura_login_duration_seconds_count{kind="api",cause="logged_out"}"#;

#[actix_web::test]
async fn what_was_done_is_what_the_metrics_count() {
    for backend in Backend::ALL {
        let place = measured(place_on(backend));
        let server = place.serve();
        for series in [
            r#"gapura_token_rotations_total{token="refresh",outcome="reused"}"#,
            r#"gapura_login_failures_total{reason="unknown_user"}"#,
            r#"gapura_logins_total{kind="api",outcome="ok"}"#,
        ] {
            assert_eq!(server.metric(series).await, 0.0, "{series}");
        }
        let (_, first) = server.pair("admin", PASSWORD).await;
        assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
        for name in ["admin", "nobody", "nobody"] {
            assert_eq!(server.token(name, "wrong").await.status(), 401);
        }
        let (access, next) = pair(server.refresh(&first).await).await;
        assert_eq!(server.refresh(&first).await.status(), 200);
        assert_eq!(server.refresh("forged").await.status(), 401);
        let url = format!("{}/api/v1/auth/logout", server.url);
        let left = server.http.post(url).bearer_auth(&access).send().await;
        assert_eq!(left.expect("an answer").status(), 200);
        assert_eq!(server.refresh(&next).await.status(), 401);

        // Ends are counted a moment later.
        server.counts(LOGGED_OUT, 1.0).await;
        let text = server.metrics().await;
        assert!(text.ends_with("# EOF\n"), "{text}");
        for (series, value) in [
            (r#"gapura_logins_total{kind="api",outcome="ok"}"#, 1),
            (r#"gapura_logins_total{kind="browser",outcome="ok"}"#, 1),
            (
                r#"gapura_logins_total{kind="api",outcome="invalid_credentials"}"#,
                3,
            ),
            (
                r#"gapura_login_failures_total{reason="invalid_credentials"}"#,
                1,
            ),
            (r#"gapura_login_failures_total{reason="unknown_user"}"#, 2),
            (
                r#"gapura_token_rotations_total{token="refresh",outcome="rotated"}"#,
                1,
            ),
            (
                r#"gapura_token_rotations_total{token="refresh",outcome="grace"}"#,
                1,
            ),
            (
                r#"gapura_token_rotations_total{token="refresh",outcome="forged"}"#,
                1,
            ),
            (
                r#"gapura_token_rotations_total{token="refresh",outcome="ended"}"#,
                1,
            ),
            (
                r#"gapura_token_rotations_total{token="refresh",outcome="reused"}"#,
                0,
            ),
            (r#"gapura_refresh_interval_seconds_count"#, 1),
            // The administrator's own, and five that were held against one.
            (r#"gapura_password_hash_wait_seconds_count"#, 6),
            (r#"gapura_password_hashes_waiting"#, 0),
            (r#"gapura_sockets"#, 0),
            (r#"gapura_database_outages_total"#, 0),
        ] {
            assert_eq!(
                server.metric(series).await,
                f64::from(value),
                "{backend:?}: {series}"
            );
        }
        for series in [
            r#"gapura_database_duration_seconds_count{operation="read"}"#,
            r#"gapura_database_duration_seconds_count{operation="write"}"#,
            r#"gapura_answers_total{class="2xx"}"#,
            r#"gapura_answers_total{class="4xx"}"#,
        ] {
            assert!(server.metric(series).await >= 1.0, "{backend:?}: {series}");
        }
        // Announcements of Redis know no database: other tests' ends are heard here, too.
        assert!(server.metric("gapura_ended_logins").await >= 1.0);
        let lag = server.metric("gapura_revocation_lag_seconds").await;
        assert!(lag < 3.0, "{lag}");
        assert_eq!(text.contains("gapura_redis"), backend == Backend::Shared);
        let grows_here = text.contains(r#"gapura_disk_free_bytes{of="database"}"#);
        assert_eq!(grows_here, backend == Backend::Embedded, "{text}");

        // Counted at the start, then now and then.
        drop(server);
        let server = place.serve();
        until(Duration::from_secs(5), || async {
            let text = server.metrics().await;
            text.contains(r#"gapura_live_logins{kind="browser"} 1"#)
                && text.contains(r#"gapura_live_logins{kind="api"} 0"#)
        })
        .await;
    }
}

/// How many logins ended, and how long they lasted in seconds, by kind and cause, as these nodes
/// counted them together.
fn ends(texts: &[String]) -> BTreeMap<String, (f64, f64)> {
    let mut all = BTreeMap::<String, (f64, f64)>::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        let Some(rest) = line.strip_prefix("gapura_login_duration_seconds_") else {
            continue;
        };
        let (series, value) = rest.rsplit_once(' ').expect("a value");
        let (what, labels) = series.split_once('{').expect("labels");
        let words: Vec<_> = labels.split('"').collect();
        let value: f64 = value.parse().expect("a number");
        let mut sums = |add: fn(&mut (f64, f64), f64)| {
            let of = format!("{} {}", words[1], words[3]);
            add(all.entry(of).or_default(), value);
        };
        match what {
            "count" => sums(|sums, value| sums.0 += value),
            "sum" => sums(|sums, value| sums.1 += value),
            _ => {}
        }
    }
    all
}

#[actix_web::test]
async fn every_end_of_a_login_is_counted_once_whoever_ended_it() {
    for backend in Backend::ALL {
        let place = measured(place_on(backend)).with("GAPURA_RATE_LIMITS", "off");
        let mut nodes = vec![place.serve()];
        if backend == Backend::Shared {
            nodes.push(place.serve());
        }
        let (first, last) = (&nodes[0], nodes.last().expect("a node"));
        // Told on both nodes at once that it is over.
        for _ in 0..5 {
            let (access, _) = first.pair("admin", PASSWORD).await;
            let leave = |node: &Server| {
                let request = node.http.post(format!("{}/api/v1/auth/logout", node.url));
                request.bearer_auth(&access).send()
            };
            let answers = join_all([first, last, first, last].map(leave)).await;
            // Who comes late may be told that it is over already.
            let statuses = answers
                .into_iter()
                .map(|answer| answer.expect("an answer").status());
            assert!(statuses.filter(StatusCode::is_success).count() >= 1);
        }
        assert_eq!(first.sign_in("admin", PASSWORD).await.status(), 303);
        // By commands.
        first.pair("admin", PASSWORD).await;
        let list = place.run(&["session", "list", "admin"]).done();
        let id = list.split(' ').next().expect("an id");
        place.run(&["session", "revoke", id]).done();
        place.run(&["session", "revoke", id]).done();
        last.pair("admin", PASSWORD).await;
        place.run(&["session", "revoke", "admin"]).done();
        let wanted = [
            ("api logged_out", 5.0),
            ("api revoked", 2.0),
            ("browser revoked", 1.0),
        ];
        let counted = || async {
            let mut texts = Vec::new();
            for node in &nodes {
                texts.push(node.metrics().await);
            }
            let ends = ends(&texts).into_iter();
            ends.map(|(of, (number, _))| (of, number))
                .collect::<Vec<_>>()
        };
        until(Duration::from_secs(15), || async {
            counted()
                .await
                .iter()
                .map(|(_, number)| number)
                .sum::<f64>()
                >= 8.0
        })
        .await;
        let counted = counted().await;
        let counted: Vec<_> = counted
            .iter()
            .map(|(of, number)| (&**of, *number))
            .collect();
        assert_eq!(counted, wanted, "{backend:?}");
    }
}

#[actix_web::test]
async fn logins_that_time_ended_are_counted_once_with_what_they_lasted() {
    for backend in Backend::ALL {
        let node = TestApp::start(backend).await;
        let other = TestApp::join(node.installation.clone(), node.clock.clone(), &[]).await;
        let _browser = Browser::new(&node, "ada").log_in().await;
        // Whoever logs in over a login that is remembered, too, ends that one.
        let twice = Browser::new(&node, "bob");
        twice.open("/login").await.expect(200);
        for _ in 0..2 {
            twice.send_login(&[("remember", "1")]).await.expect(303);
        }
        let token = json!({"username": "ada", "password": TestApp::PASSWORD});
        let answer = node.post_json("/api/v1/auth/token", &token).await;
        let (_, refresh) = pair(answer).await;
        let week = Duration::from_secs(7 * 86_400);
        node.advance(week + Duration::from_secs(60));
        // One by a client that comes too late, one found by both nodes.
        let late = json!({"refresh_token": refresh});
        assert_eq!(
            other
                .post_json("/api/v1/auth/refresh", &late)
                .await
                .status(),
            401
        );
        let now = node.now();
        let swept =
            join_all([&node, &other].map(|node| cleanup::end_overdue(&node.app, now))).await;
        assert!(swept.iter().all(Result::is_ok));
        for node in [&node, &other] {
            actix_web::rt::spawn(count_ends(node.app.clone()));
        }
        let counted = || {
            let seen = Seen::default();
            let text = |node: &TestApp| node.app.metrics.text(&seen).expect("text");
            ends(&[text(&node), text(&other)])
        };
        let number = || counted().values().map(|(number, _)| number).sum::<f64>();
        until(Duration::from_secs(10), || async { number() >= 4.0 }).await;
        let counted = counted();
        let kinds: Vec<_> = counted.keys().map(String::as_str).collect();
        assert_eq!(
            kinds,
            ["api unused", "browser idle", "browser logged_out"],
            "{backend:?}"
        );
        let (number, lasted) = counted["api unused"];
        assert_eq!((number, lasted.round()), (1.0, 604_860.0), "{backend:?}");
        assert_eq!(counted["browser logged_out"].0, 1.0, "{backend:?}");
        // Not until it was noticed.
        let (number, lasted) = counted["browser idle"];
        assert_eq!((number, lasted.round()), (2.0, 172_800.0), "{backend:?}");
    }
}

#[actix_web::test]
async fn theft_and_sockets_are_counted() {
    let place = measured(Place::new()).with("GAPURA_REFRESH_GRACE", "0s");
    let server = place.serve();
    let (access, first) = server.pair("admin", PASSWORD).await;
    let _wire = Wire::with_token(&server.url, &access).await;
    assert_eq!(server.metric("gapura_sockets").await, 1.0);
    assert_eq!(server.refresh(&first).await.status(), 200);
    assert_eq!(server.refresh(&first).await.status(), 401);
    let series = r#"gapura_token_rotations_total{token="refresh",outcome="reused"}"#;
    assert_eq!(server.metric(series).await, 1.0);
    let series = r#"gapura_login_duration_seconds_count{kind="api",cause="theft"}"#;
    server.counts(series, 1.0).await;
    until(Duration::from_secs(2), || async {
        server.metric("gapura_sockets").await == 0.0
    })
    .await;
}

#[actix_web::test]
async fn metrics_are_on_their_own_listener_and_hold_no_secret() {
    let place = measured(place_on(Backend::Shared)).with("GAPURA_APP_KEY", APP_KEY);
    let server = place.serve();
    let (access, refresh) = server.pair("admin", PASSWORD).await;
    assert_eq!(
        server.token("canary-name", "canary wrong").await.status(),
        401
    );
    assert_eq!(
        server.sign_in("canary-name", "canary wrong").await.status(),
        401
    );
    assert_eq!(server.get("/canary-path?canary-query").await.status(), 404);
    let (new_access, new_refresh) = pair(server.refresh(&refresh).await).await;
    let list = place.run(&["session", "list", "admin"]).done();
    let login = list.split(' ').next().expect("an id");
    let text = server.metrics().await;
    for secret in [
        PASSWORD,
        APP_KEY,
        "canary",
        "admin",
        "127.0.0.1",
        login,
        &access,
        &refresh,
        &new_access,
        &new_refresh,
    ] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    // Neither by the name nor by the way.
    for path in ["/metrics", "/metrics/", "//metrics", "/api/metrics"] {
        assert_eq!(server.get(path).await.status(), 404, "{path}");
    }
    let url = server.metrics_url().await;
    for path in ["/login", "/api/v1/me", "/healthz"] {
        let other = reqwest::get(url.replace("/metrics", path)).await;
        assert_eq!(other.expect("an answer").status(), 404, "{path}");
    }
    let posted = reqwest::Client::new().post(&url).send().await;
    assert_eq!(posted.expect("an answer").status(), 404);

    let off = measured(Place::new()).with("GAPURA_METRICS_BIND", "off");
    let without = off.serve();
    without.logs("serving").await;
    assert!(!without.out.text().contains("Metrics"));
    let taken = url
        .trim_start_matches("http://")
        .trim_end_matches("/metrics");
    let second = measured(Place::new()).with("GAPURA_METRICS_BIND", taken);
    let sentence = second.run(&["serve"]).refused();
    assert!(sentence.contains("GAPURA_METRICS_BIND"), "{sentence}");
}

/// The table of metrics, and the alerts.
fn told_in_the_readme() -> (&'static str, &'static str) {
    let section = between("### Metrics and alerts", "\n### ");
    let (table, rest) = section.split_once("```yaml").expect("rules");
    let (rules, _) = rest.split_once("```").expect("their end");
    (table, rules)
}

#[test]
fn alerts_wake_somebody_up_for_what_they_are_for_and_for_nothing_else() {
    let dir = TempDir::new().expect("a temporary directory");
    let (_, rules) = told_in_the_readme();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect(name);
    write("rules.yml", rules);
    write("alerts.yml", include_str!("alerts.yml"));
    let mut promtool = Command::new("promtool");
    promtool.args(["test", "rules", "alerts.yml"]);
    let told = promtool.current_dir(dir.path()).output();
    Told::of(told.expect("promtool, of Debian's package prometheus")).done();
}

#[actix_web::test]
async fn the_readme_tells_of_every_metric_and_its_alerts_ask_for_none_that_is_not() {
    let (table, rules) = told_in_the_readme();
    let words = |text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(|c| !is_part(c)).map(str::to_owned);
        words.collect::<std::collections::BTreeSet<_>>()
    };
    let mut known = std::collections::BTreeSet::new();
    for backend in Backend::ALL {
        let place = measured(place_on(backend));
        let server = place.serve();
        server.pair("admin", PASSWORD).await;
        let text = server.metrics().await;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a kind");
                known.insert(match kind {
                    "counter" => format!("{name}_total"),
                    "info" => format!("{name}_info"),
                    _ => name.to_owned(),
                });
            }
        }
    }
    let told = words(table);
    for name in &known {
        let short = name.trim_start_matches("gapura_");
        assert!(told.contains(short), "{name} is not in the README");
    }
    // Shown only once there is one.
    known.insert("gapura_login_duration_seconds".to_owned());
    let asked = words(rules);
    let asked: Vec<_> = asked
        .iter()
        .filter(|word| word.starts_with("gapura_"))
        .collect();
    assert!(asked.len() >= 8, "{asked:?}");
    for name in asked {
        let name = name.trim_end_matches("_count").trim_end_matches("_bucket");
        assert!(known.contains(name), "there is no {name}");
    }
}

#[actix_web::test]
async fn an_outage_that_nobody_asks_about_is_told_when_it_begins_and_when_it_is_over() {
    let mut redis = Redis::start().await;
    let place = measured(place_on(Backend::Shared)).with("REDIS_URL", &redis.url());
    let server = place.serve();
    let answers = r#"gapura_reachable{part="redis"}"#;
    server.counts(answers, 1.0).await;
    let started = server.metric("gapura_start_time_seconds").await;
    let now = SystemClock.now().millis() as f64 / 1000.0;
    assert!((0.0..60.0).contains(&(now - started)), "{started}");

    redis.stop();
    server.counts(answers, 0.0).await;
    let database = r#"gapura_reachable{part="database"}"#;
    assert_eq!(server.metric(database).await, 1.0);
    // Not a line each time it is asked.
    until(Duration::from_secs(10), || async {
        server.metric("gapura_redis_outages_total").await >= 3.0
    })
    .await;
    assert_eq!(server.get("/readyz").await.status(), 503);
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 503);
    server.logs("\"status\":503").await;
    redis.return_().await;
    server.counts(answers, 1.0).await;
    server.logs("Redis answers again").await;
    let log = server.err.text();
    for told in ["Redis does not answer", "Redis answers again", "serving"] {
        assert_eq!(log.matches(told).count(), 1, "{told}: {log}");
    }
    // One line for the login that could not be, none for the probe.
    let is_spoiled = |line: &&str| line.contains("\"status\":503");
    let spoiled: Vec<_> = log.lines().filter(is_spoiled).collect();
    assert_eq!(spoiled.len(), 1, "{log}");
    for words in [
        "\"route\":\"/login\"",
        "\"cause\":\"the keystore is unavailable",
    ] {
        assert!(spoiled[0].contains(words), "{log}");
    }
    assert_eq!(log.matches("\"cause\"").count(), 2, "{log}");
}
