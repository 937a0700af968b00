//! What is measured, as Prometheus reads it from the listener that is for it alone.

use std::time::Duration;

use reqwest::StatusCode;

use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{APP_KEY, PASSWORD, Place, Server, after, pair, until};
use crate::realtime::Wire;

fn measured(place: Place) -> Place {
    place
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_METRICS_BIND", "127.0.0.1:0")
}

impl Server {
    async fn metrics(&self) -> String {
        let url = after(&self.out.text(), "Metrics are at ").expect("an address");
        let answer = reqwest::get(url).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.text().await.expect("text")
    }

    async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let value = line.unwrap_or_else(|| panic!("no {series} in {text}"));
        value.trim().parse().expect("a number")
    }
}

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
            (
                r#"gapura_login_duration_seconds_count{kind="api",cause="logged_out"}"#,
                1,
            ),
            // The administrator's own, and five that were held against one.
            (r#"gapura_password_hash_wait_seconds_count"#, 6),
            (r#"gapura_password_hashes_waiting"#, 0),
            (r#"gapura_sockets"#, 0),
            (r#"gapura_ended_logins"#, 1),
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

#[actix_web::test]
async fn theft_and_sockets_are_counted() {
    let place = measured(Place::new()).with("GAPURA_REFRESH_GRACE", "0s");
    let server = place.serve();
    let (access, first) = server.pair("admin", PASSWORD).await;
    let _wire = Wire::with_token(&server.url, &access).await;
    assert_eq!(server.metric("gapura_sockets").await, 1.0);
    assert_eq!(server.refresh(&first).await.status(), 200);
    assert_eq!(server.refresh(&first).await.status(), 401);
    for series in [
        r#"gapura_token_rotations_total{token="refresh",outcome="reused"}"#,
        r#"gapura_login_duration_seconds_count{kind="api",cause="theft"}"#,
    ] {
        assert_eq!(server.metric(series).await, 1.0, "{series}");
    }
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
    let url = after(&server.out.text(), "Metrics are at ").expect("an address");
    for path in ["/login", "/api/v1/me", "/healthz"] {
        let other = reqwest::get(url.replace("/metrics", path)).await;
        assert_eq!(other.expect("an answer").status(), 404, "{path}");
    }
    let posted = reqwest::Client::new().post(&url).send().await;
    assert_eq!(posted.expect("an answer").status(), 404);

    let off = measured(Place::new()).with("GAPURA_METRICS_BIND", "off");
    assert!(!off.serve().out.text().contains("Metrics"));
    let taken = url
        .trim_start_matches("http://")
        .trim_end_matches("/metrics");
    let second = measured(Place::new()).with("GAPURA_METRICS_BIND", taken);
    let sentence = second.run(&["serve"]).refused();
    assert!(sentence.contains("GAPURA_METRICS_BIND"), "{sentence}");
}

#[actix_web::test]
async fn the_readme_tells_of_every_metric_and_its_alerts_ask_for_none_that_is_not() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme
        .split_once("### Metrics and alerts")
        .expect("a section");
    let (table, rest) = rest.split_once("```yaml").expect("rules");
    let (rules, _) = rest.split_once("```").expect("their end");
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
        let name = name.trim_end_matches("_count");
        assert!(known.contains(name), "there is no {name}");
    }
}
