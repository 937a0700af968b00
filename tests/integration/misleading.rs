//! What a proxy or a public URL that is not set right looks like from here is in the log.

use reqwest::StatusCode;

use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{PASSWORD, Server, form_token};

const NOT_TRUSTED: &str = "X-Forwarded-For is not believed";
const NOBODY_NAMED: &str = "sends no X-Forwarded-For";
const NO_SCHEME: &str = "sends no X-Forwarded-Proto";
const BY_HTTP: &str = "X-Forwarded-Proto says http";
const OTHER_ORIGIN: &str = "opened at another address";

/// A server with these settings.
fn serve(settings: &[(&str, &str)]) -> Server {
    let mut place = place_on(Backend::Embedded).with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    for (name, value) in settings {
        place = place.with(name, value);
    }
    place.serve()
}

/// Fails to sign in twice on the page, with these headers, ends the server, and gives its log.
async fn told(server: &Server, headers: &[(&str, &str)]) -> String {
    for _ in 0..2 {
        let page = server.get("/login").await.text().await.expect("a page");
        let form = [
            ("csrf_token", form_token(&page)),
            ("login", "admin"),
            ("password", "wrong"),
        ];
        let mut request = server
            .http
            .post(format!("{}/login", server.url))
            .form(&form);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        assert_ne!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    // What is said last may be read late.
    server.signal("TERM");
    server.logs("stopped").await;
    server.err.text()
}

#[actix_web::test]
async fn the_log_tells_once_of_a_proxy_that_is_not_believed_or_says_too_little() {
    let log = told(&serve(&[]), &[]).await;
    assert!(!log.contains("X-Forwarded-"), "{log}");
    let log = told(&serve(&[]), &[("X-Forwarded-For", "203.0.113.7")]).await;
    assert_eq!(log.matches(NOT_TRUSTED).count(), 1, "{log}");

    let silent = serve(&[
        ("GAPURA_TRUSTED_PROXIES", "127.0.0.1"),
        ("GAPURA_PUBLIC_URL", "https://login.example.org"),
    ]);
    let log = told(&silent, &[]).await;
    for once in [NOBODY_NAMED, NO_SCHEME] {
        assert_eq!(log.matches(once).count(), 1, "{once}: {log}");
    }

    let right = serve(&[
        ("GAPURA_TRUSTED_PROXIES", "127.0.0.1"),
        ("GAPURA_PUBLIC_URL", "https://login.example.org"),
    ]);
    let forwarded = [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "https"),
        ("Origin", "https://login.example.org"),
    ];
    let log = told(&right, &forwarded).await;
    assert!(!log.contains("WARN"), "{log}");
}

#[actix_web::test]
async fn the_log_names_the_address_that_browsers_show_and_the_one_that_is_set() {
    let server = serve(&[("GAPURA_PUBLIC_URL", "http://login.example.org")]);
    let log = told(&server, &[("Origin", "http://10.0.0.11:8080")]).await;
    assert_eq!(log.matches(OTHER_ORIGIN).count(), 1, "{log}");
    for address in ["http://10.0.0.11:8080", "http://login.example.org"] {
        assert!(log.contains(address), "{log}");
    }
    // Browsers know that this is another site, which is nothing to mend.
    let server = serve(&[("GAPURA_PUBLIC_URL", "http://login.example.org")]);
    let elsewhere = [
        ("Origin", "https://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    let log = told(&server, &elsewhere).await;
    assert!(!log.contains(OTHER_ORIGIN), "{log}");
}

#[actix_web::test]
async fn a_proxy_that_says_http_is_told_of_and_may_ask_how_the_node_is() {
    let server = serve(&[
        ("GAPURA_TRUSTED_PROXIES", "127.0.0.1"),
        ("GAPURA_PUBLIC_URL", "https://login.example.org"),
    ]);
    let ask = async |path: &str| {
        let request = server.http.get(format!("{}{path}", server.url));
        let request = request.header("X-Forwarded-Proto", "http");
        request.send().await.expect("an answer").status()
    };
    assert_eq!(ask("/readyz").await, StatusCode::OK);
    assert!(!server.err.text().contains(BY_HTTP));
    for _ in 0..2 {
        assert_eq!(ask("/api/v1/verify").await, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask("/login").await, StatusCode::PERMANENT_REDIRECT);
    server.logs(BY_HTTP).await;
    let log = server.err.text();
    assert_eq!(log.matches(BY_HTTP).count(), 1, "{log}");
}
