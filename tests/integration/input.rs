//! Bad input: a 4xx that says what is wrong, never a 5xx, never a wait.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{Backend, TestApp};

const TOKEN: &str = "/api/v1/auth/token";

/// Asserts a whole problem and gives it.
async fn problem(answer: Response, status: u16, code: &str) -> Value {
    assert_eq!(answer.status(), status, "{}", answer.url());
    let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
    assert_eq!(header("content-type"), "application/problem+json");
    assert_eq!(header("cache-control"), "no-store");
    let id = header("x-request-id");
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(body["code"], code, "{body}");
    assert_eq!(body["status"], status);
    assert_eq!(body["request_id"], json!(id));
    assert_eq!(body["message"], body["detail"]);
    let title = body["title"].as_str().expect("a title");
    assert!(!title.is_empty() && !title.contains("error."), "{body}");
    assert!(
        body["type"].is_string() && body["detail"].is_string(),
        "{body}"
    );
    body
}

async fn post(app: &TestApp, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> Response {
    let request = app.http.post(format!("{}{path}", app.url));
    let request = request.header("content-type", kind).body(body);
    request.send().await.expect("an answer")
}

async fn ask(app: &TestApp, method: &str, path: &str) -> Response {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let request = app.http.request(method, format!("{}{path}", app.url));
    request.send().await.expect("an answer")
}

/// Sends bytes as they are, and reads to the end.
async fn raw(app: &TestApp, bytes: &[u8]) -> String {
    let address = app.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(20), read).await;
    let _ = read.expect("no hang");
    String::from_utf8_lossy(&answer).into_owned()
}

#[actix_web::test]
async fn a_wrong_field_is_named() {
    let app = TestApp::start(Backend::Embedded).await;
    let good = json!({"username": "ada", "password": TestApp::PASSWORD});
    let long = "x".repeat(5000);
    let wrong: &[(&str, Value)] = &[
        ("username", json!(1)),
        ("username", json!("")),
        ("username", json!("   ")),
        ("username", json!(["ada"])),
        ("username", json!({"a": 1})),
        ("username", json!(long)),
        ("username", json!("a\u{0}da")),
        ("username", json!("a\u{202e}da")),
        ("username", Value::Null),
        ("password", json!(1)),
        ("password", json!("")),
        ("password", Value::Null),
        ("password", json!(long)),
        ("device_name", json!(7)),
        ("device_name", json!("x".repeat(101))),
        ("device_name", json!("tab\u{200b}let")),
        ("refresh_token_delivery", json!("post")),
        ("refresh_token_delivery", json!(1)),
    ];
    for (field, value) in wrong {
        let mut body = good.clone();
        body[field] = value.clone();
        let told = problem(app.post_json(TOKEN, &body).await, 422, "validation_failed").await;
        let errors = told["errors"].as_object().expect("errors");
        assert_eq!(
            errors.keys().collect::<Vec<_>>(),
            [field],
            "{value}: {told}"
        );
        let sentences = errors[*field].as_array().expect("sentences");
        assert!(
            sentences.iter().all(Value::is_string) && !sentences.is_empty(),
            "{told}"
        );
    }
    for path in ["/api/v1/auth/refresh", "/api/v1/auth/logout"] {
        for value in [json!(1), json!(""), json!([]), json!(long)] {
            let answer = app.post_json(path, &json!({"refresh_token": value})).await;
            let told = problem(answer, 422, "validation_failed").await;
            assert!(
                told["errors"]["refresh_token"].is_array(),
                "{path} {value}: {told}"
            );
        }
    }
    let answer = app.post_json(TOKEN, &good).await;
    let pair: Value = answer.json().await.expect("JSON");
    let token = pair["data"]["access_token"].as_str().expect("a token");
    for (value, status) in [
        ("-1", 422),
        ("\"x\"", 422),
        ("1.5", 422),
        ("1e999", 422),
        ("18446744073709551615", 200),
    ] {
        let request = app
            .http
            .post(format!("{}/api/update-activity", app.url))
            .bearer_auth(token);
        let request = request.header("content-type", "application/json");
        let answer = request
            .body(format!("{{\"idle_seconds\":{value}}}"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), status, "{value}");
    }
}

#[actix_web::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let app = TestApp::start(Backend::Embedded).await;
    let json = "application/json";
    let deep = format!(
        "{{\"username\":{}1{}}}",
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    for path in [TOKEN, "/api/v1/auth/refresh", "/api/v1/auth/logout"] {
        for body in [
            "{",
            "{\"username\":}",
            "nonsense",
            "{} trailing",
            "\u{feff}{}",
        ] {
            let answer = post(&app, path, json, body).await;
            assert!(
                [400, 422].contains(&answer.status().as_u16()),
                "{path} {body}: {}",
                answer.status()
            );
        }
        problem(
            post(&app, path, json, "{\"a\":").await,
            400,
            "malformed_request",
        )
        .await;
        problem(
            post(&app, path, json, &b"{\"username\":\"\xff\"}"[..]).await,
            400,
            "malformed_request",
        )
        .await;
        let answer = post(&app, path, json, deep.clone()).await;
        assert!(
            answer.status().is_client_error(),
            "{path}: {}",
            answer.status()
        );
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
        ] {
            problem(
                post(&app, path, kind, "{}").await,
                415,
                "unsupported_media_type",
            )
            .await;
        }
        problem(
            post(&app, path, json, "x".repeat(65 * 1024)).await,
            413,
            "payload_too_large",
        )
        .await;
        problem(
            post(&app, path, json, "x".repeat(1 << 20)).await,
            413,
            "payload_too_large",
        )
        .await;
    }
    // An array whose places would fit the fields is no object either.
    for body in [
        "null",
        "[]",
        "1",
        "\"x\"",
        "[\"ada\",null,\"correct horse battery staple\",null,\"body\"]",
    ] {
        let told = problem(
            post(&app, TOKEN, json, body).await,
            422,
            "validation_failed",
        )
        .await;
        assert!(told["errors"]["body"].is_array(), "{body}: {told}");
    }
    let twice = "{\"username\":\"ada\",\"username\":\"bob\",\"password\":\"x\"}";
    let told = problem(
        post(&app, TOKEN, json, twice).await,
        422,
        "validation_failed",
    )
    .await;
    assert!(told["errors"]["username"].is_array(), "{told}");
}

#[actix_web::test]
async fn a_bad_form_is_a_page_that_says_so() {
    let app = TestApp::start(Backend::Embedded).await;
    let form = "application/x-www-form-urlencoded";
    let long = format!("login={}", "x".repeat(1 << 20));
    for (kind, body, status) in [
        (form, "", 403),
        (form, "login=a&login=b", 422),
        (form, "login=%00", 422),
        (form, "login=%ff%fe&password=x", 403),
        (form, "%%%=&&&=", 403),
        (form, long.as_str(), 413),
        ("application/xml", "<a/>", 415),
    ] {
        let answer = post(&app, "/login", kind, body.to_owned()).await;
        let start = &body[..body.len().min(40)];
        assert_eq!(answer.status(), status, "{start}");
        assert_eq!(
            answer.headers()["content-type"],
            "text/html; charset=utf-8",
            "{start}"
        );
        assert!(answer.headers().contains_key("content-security-policy"));
        assert!(
            answer.text().await.expect("a page").contains("</html>"),
            "{start}"
        );
    }
}

#[actix_web::test]
async fn unknown_paths_and_methods_are_told_as_pages_or_problems() {
    let app = TestApp::start(Backend::Embedded).await;
    for path in [
        "/api/nothing",
        "/api/v1/",
        "/api/v1/me/x",
        "/.well-known/x",
        "/static/x.js",
        "/api/%00",
        "/api/%ff%fe",
        "/api/v1/..%2f..%2fx",
    ] {
        problem(ask(&app, "GET", path).await, 404, "not_found").await;
    }
    for path in [
        "/nothing",
        "/%00",
        "/%ff",
        "/a%2f..%2fb",
        "/%e2%80%ae",
        "/dashboard/",
        "/login%0d%0aX:%20y",
    ] {
        let answer = ask(&app, "GET", path).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
        assert!(answer.text().await.expect("a page").contains("</html>"));
    }
    for (path, allowed) in [
        (TOKEN, "POST"),
        ("/api/v1/auth/refresh", "POST"),
        ("/api/v1/me", "GET, HEAD, PATCH"),
        ("/api/update-activity", "POST"),
        ("/readyz", "GET, HEAD"),
        ("/static/x.js", "GET, HEAD"),
        ("/login", "GET, HEAD, POST"),
        ("/logout", "POST"),
        ("/dashboard", "GET, HEAD"),
    ] {
        for method in ["DELETE", "BREW", "OPTIONS", "TRACE"] {
            let answer = ask(&app, method, path).await;
            assert_eq!(answer.status(), 405, "{method} {path}");
            assert_eq!(answer.headers()["allow"], allowed, "{method} {path}");
            if path.starts_with("/api") || path.starts_with("/static") {
                problem(answer, 405, "method_not_allowed").await;
            } else if path != "/readyz" {
                assert!(answer.text().await.expect("a page").contains("</html>"));
            }
        }
    }
    // Whoever brings a bearer takes another road to the same answers.
    let request = app
        .http
        .delete(format!("{}/api/v1/me", app.url))
        .bearer_auth("x");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.headers()["allow"], "GET, HEAD, PATCH");
    problem(answer, 405, "method_not_allowed").await;
}

#[actix_web::test]
async fn head_is_get_without_the_body() {
    let app = TestApp::start(Backend::Embedded).await;
    for (path, status) in [
        ("/login", 200),
        ("/healthz", 200),
        ("/api/v1/me", 401),
        ("/dashboard", 303),
        ("/nothing", 404),
    ] {
        let answer = ask(&app, "HEAD", path).await;
        assert_eq!(answer.status(), status, "{path}");
        assert!(answer.bytes().await.expect("nothing").is_empty(), "{path}");
    }
}

#[actix_web::test]
async fn static_files_are_those_and_no_others() {
    let app = TestApp::start(Backend::Embedded).await;
    for path in [
        "../Cargo.toml",
        "..%2fCargo.toml",
        "%2e%2e/Cargo.toml",
        "css/..%2f..%2fCargo.toml",
        "..%5cCargo.toml",
        "%2fetc%2fpasswd",
        "//etc/passwd",
        "css",
        "css/",
        "",
        "%00",
        "css%00.css",
    ] {
        let target = format!("GET /static/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = raw(&app, target.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[actix_web::test]
async fn a_request_head_has_a_limit() {
    let app = TestApp::start(Backend::Embedded).await;
    let cookie = |bytes: usize| {
        app.http
            .get(format!("{}/api/v1/me", app.url))
            .header("cookie", "x".repeat(bytes))
    };
    problem(
        cookie(17 * 1024).send().await.expect("an answer"),
        431,
        "head_too_large",
    )
    .await;
    problem(
        cookie(12 * 1024).send().await.expect("an answer"),
        401,
        "token_missing",
    )
    .await;
    let answer = ask(
        &app,
        "GET",
        &format!("/login?next={}", "x".repeat(17 * 1024)),
    )
    .await;
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(answer.text().await.expect("a page").contains("</html>"));
    let huge = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(200 * 1024)
    );
    let answer = raw(&app, huge.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
}

#[actix_web::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let app = TestApp::start(Backend::Embedded).await;
    let began = Instant::now();
    let head = |path: &str, kind: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n{{"
        )
    };
    let (json, form) = (
        head(TOKEN, "application/json"),
        head("/login", "application/x-www-form-urlencoded"),
    );
    let (json, form) = tokio::join!(raw(&app, json.as_bytes()), raw(&app, form.as_bytes()));
    assert!(
        began.elapsed() < Duration::from_secs(14),
        "{:?}",
        began.elapsed()
    );
    assert!(
        json.starts_with("HTTP/1.1 408") && json.contains("request_timeout"),
        "{json}"
    );
    assert!(
        form.starts_with("HTTP/1.1 408") && form.contains("</html>"),
        "{form}"
    );
}
