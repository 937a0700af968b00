//! Bad input: a 4xx that says what is wrong, never a 5xx, never a wait.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};
use crate::token_api::claims_of;

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

/// Clients and proxies open connections ahead of what they will ask, and take whatever is sent over one
/// for the answer to their next request.
#[actix_web::test]
async fn a_slow_head_is_given_up_but_a_connection_opened_ahead_is_not() {
    let app = TestApp::start(Backend::Embedded).await;
    let address = app.url.trim_start_matches("http://");
    let mut ahead = TcpStream::connect(address).await.expect("a connection");
    let began = Instant::now();
    let slow = raw(&app, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ").await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    tokio::time::sleep(Duration::from_secs(2)).await;
    ahead.write_all(request).await.expect("sent");
    let mut answer = String::new();
    ahead.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
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

/// Every route that takes JSON, with its fields: those that are texts without characters that cannot
/// be seen, and others.
const BODIES: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "POST",
        TOKEN,
        &["username", "device_name"],
        &["email", "password", "refresh_token_delivery"],
    ),
    ("POST", "/api/v1/auth/refresh", &["refresh_token"], &[]),
    ("POST", "/api/v1/auth/auto-refresh", &["refresh_token"], &[]),
    (
        "POST",
        "/api/v1/auth/register",
        &["username", "email", "name", "device_name"],
        &["password"],
    ),
    ("POST", "/api/v1/auth/introspect", &[], &["token"]),
    ("POST", "/api/v1/auth/revoke", &[], &["token"]),
    ("PATCH", "/api/v1/me", &["name", "locale", "theme"], &[]),
    (
        "PUT",
        "/api/v1/me/password",
        &[],
        &["current_password", "password", "revoke_tokens"],
    ),
    (
        "POST",
        "/api/v1/tokens",
        &["name"],
        &["scopes", "expires_in_days", "current_password"],
    ),
    (
        "POST",
        "/api/v1/users",
        &["username", "email", "name", "role"],
        &["password", "disabled", "current_password"],
    ),
    (
        "PATCH",
        "/api/v1/users/{id}",
        &["username", "email", "name", "role"],
        &["password", "disabled", "current_password"],
    ),
    ("POST", "/api/update-activity", &[], &["idle_seconds"]),
    (
        "POST",
        "/api/auth/login",
        &["email", "device_name"],
        &["password"],
    ),
    ("POST", "/api/auth/refresh", &["refresh_token"], &[]),
    ("POST", "/login", &["username"], &["password"]),
    ("POST", "/refresh", &["refreshToken"], &[]),
];
/// Those that a standard has take forms.
const TAKE_FORMS: [&str; 2] = ["/api/v1/auth/introspect", "/api/v1/auth/revoke"];

#[actix_web::test]
async fn every_field_of_every_route_is_named_when_it_is_wrong() {
    let settings = [("GAPURA_REGISTRATION", "open")];
    let app = TestApp::start_with(Backend::Embedded, &settings).await;
    let root = app.log_in("root").await;
    let id = claims_of(&root.access)["sub"].as_str().unwrap().to_owned();
    for (method, path, texts, others) in BODIES {
        let path = path.replace("{id}", &id);
        let send = async |kind: &str, body: Vec<u8>| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = app.http.request(method, format!("{}{path}", app.url));
            let request = request.bearer_auth(&root.access);
            let request = request.header("content-type", kind).body(body);
            let answer = request.send().await.expect("an answer");
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let json = "application/json";
        for field in texts.iter().chain(*others) {
            let named = |(status, told): (u16, String), what: &str| {
                assert_eq!(status, 422, "{method} {path} {field}: {what}: {told}");
                let told: Value = serde_json::from_str(&told).unwrap();
                let names = match told.get("errors") {
                    // One of a list is told by its place.
                    Some(errors) => errors.as_object().is_some_and(|errors| {
                        errors
                            .keys()
                            .any(|key| key.split('[').next() == Some(field))
                    }),
                    None => told["error"]["message"]
                        .as_str()
                        .is_some_and(|message| message.contains(&format!("{field}: "))),
                };
                assert!(names, "{method} {path} {field}: {what}: {told}");
            };
            // Whatever its type, it is none of these.
            for wrong in ["{}", "{\"a\":1}", "[[]]", "-1.5e300"] {
                let body = format!("{{\"{field}\":{wrong}}}");
                named(send(json, body.into()).await, wrong);
            }
            let value = match *field {
                "scopes" => "[\"*\"]",
                "disabled" | "revoke_tokens" => "true",
                "idle_seconds" | "expires_in_days" => "1",
                "role" => "\"user\"",
                "refresh_token_delivery" => "\"body\"",
                _ => "\"x\"",
            };
            let twice = format!("{{\"{field}\":{value},\"{field}\":{value}}}");
            named(send(json, twice.into()).await, "twice");
            for wrong in [
                "null",
                "\"\"",
                "\"\\u0000\"",
                "\"\\ud800\"",
                "1e999",
                "\"'; DROP TABLE users; --\"",
            ] {
                let body = format!("{{\"{field}\":{wrong}}}");
                let (status, told) = send(json, body.into()).await;
                assert!(status < 500, "{method} {path} {field}: {wrong}: {told}");
            }
            let deep = "[".repeat(20_000);
            let deep = format!("{{\"{field}\":{deep}}}").into_bytes();
            let bytes = [b"{\"", field.as_bytes(), b"\":\"\xff\xfe\"}"].concat();
            for body in [deep, bytes] {
                let (status, told) = send(json, body).await;
                assert!([400, 422].contains(&status), "{path} {field}: {told}");
            }
            let long = format!("{{\"{field}\":\"{}\"}}", "x".repeat(1 << 20)).into_bytes();
            let (status, told) = send(json, long).await;
            assert_eq!(status, 413, "{path} {field}: {told}");
        }
        for field in *texts {
            for wrong in ["a\u{0}da", "a\u{202e}da", "a\u{200b}da", &"x".repeat(5000)] {
                let mut body = json!({});
                for known in texts.iter().chain(*others) {
                    body[known] = match *known {
                        "email" => json!("x@example.org"),
                        "role" => json!("user"),
                        "locale" => json!("en"),
                        "theme" => json!("auto"),
                        "username" | "name" | "password" => json!("xyz"),
                        _ => continue,
                    };
                }
                body[field] = json!(wrong);
                let body = body.to_string();
                let (status, told) = send(json, body.into()).await;
                assert_eq!(status, 422, "{method} {path} {field}: {told}");
                let name = match told.contains("\"errors\"") {
                    true => format!("\"{field}\":["),
                    false => format!("{field}: "),
                };
                assert!(told.contains(&name), "{method} {path} {field}: {told}");
            }
        }
        let kinds = ["text/plain", "application/x-www-form-urlencoded"];
        let page = path == "/login";
        for kind in kinds.iter().filter(|_| !page) {
            if TAKE_FORMS.contains(&path.as_str()) && *kind != "text/plain" {
                continue;
            }
            let (status, told) = send(kind, b"{}".to_vec()).await;
            assert_eq!(status, 415, "{method} {path} {kind}: {told}");
        }
    }
}

#[actix_web::test]
async fn a_username_has_no_letters_that_only_look_like_others() {
    let settings = [("GAPURA_REGISTRATION", "open")];
    let app = TestApp::start_with(Backend::Embedded, &settings).await;
    // Cyrillic, Greek, full-width, a ligature, a combining accent, one that lower-cases to ASCII.
    for name in [
        "аda",
        "αda",
        "ａda",
        "ﬁona",
        "ad\u{301}a",
        "\u{212a}im",
        "ada\u{ad}",
        "a da",
    ] {
        let body = json!({"username": name, "email": "x@example.org", "name": "X", "password": "staple battery horse correct"});
        let answer = app.post_json("/api/v1/auth/register", &body).await;
        let told = problem(answer, 422, "validation_failed").await;
        assert!(told["errors"]["username"].is_array(), "{name}: {told}");
        // Nor does one of these find somebody else's account.
        let body = json!({"username": name, "password": TestApp::PASSWORD});
        let answer = app.post_json(TOKEN, &body).await;
        assert!([401, 422].contains(&answer.status().as_u16()), "{name}");
    }
}

#[actix_web::test]
async fn a_name_or_an_address_that_mixes_scripts_is_refused() {
    let settings = [("GAPURA_REGISTRATION", "open")];
    let app = TestApp::start_with(Backend::Embedded, &settings).await;
    let register = async |at: usize, email: &str, name: &str| {
        let body = json!({"username": format!("user{at}"), "email": email, "name": name, "password": "staple battery horse correct"});
        app.post_json("/api/v1/auth/register", &body).await
    };
    let pretenders = [
        ("x@example.org", "\u{430}dmin", "name"),
        ("x@example.org", "Ada L\u{43e}velace", "name"),
        ("x@example.org", "\u{3b1}da", "name"),
        ("\u{430}da@example.org", "Ada", "email"),
        ("ada@ex\u{430}mple.org", "Ada", "email"),
    ];
    for (email, name, field) in pretenders {
        let told = problem(register(0, email, name).await, 422, "validation_failed").await;
        assert!(told["errors"][field].is_array(), "{email} {name}: {told}");
    }
    let honest = [
        ("ada1@example.org", "Ада Лавлейс"),
        ("ada2@пример.рф", "Ada (Ада)"),
        ("ada3@example.org", "山田 エイダ花子さん"),
        ("ada4@example.org", "José O’Neil-Núñez 2."),
        ("ada5@example.org", "अदिति शर्मा"),
    ];
    for (at, (email, name)) in honest.into_iter().enumerate() {
        let answer = register(at + 1, email, name).await;
        assert_eq!(answer.status(), 201, "{email} {name}");
    }
}

#[actix_web::test]
async fn what_is_no_id_is_not_found_and_no_outage() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = Browser::new(&app, "root").log_in().await;
        for id in ["%00", "nobody", "%F0%9F%92%A5"] {
            for (method, path) in [
                (Method::DELETE, format!("/api/v1/sessions/{id}")),
                (Method::DELETE, format!("/api/v1/tokens/{id}")),
                (Method::GET, format!("/api/v1/users/{id}")),
                (Method::GET, format!("/api/v1/users/{id}/sessions")),
                (Method::DELETE, format!("/api/v1/users/{id}/sessions/{id}")),
            ] {
                let request = root.script(method.clone(), &path);
                assert_eq!(root.send(request).await.status, 404, "{method} {path}");
            }
            for path in [
                format!("/dashboard/sessions/{id}/revoke"),
                format!("/dashboard/tokens/{id}/revoke"),
                format!("/admin/users/{id}"),
            ] {
                // The page of an error has no form token.
                root.open("/dashboard").await.expect(200);
                let answer = root.post(&path, &[("act", "disable")]).await;
                assert_eq!(answer.status, 404, "{path}");
            }
            root.open(&format!("/admin/activity?person={id}"))
                .await
                .expect(200);
            let named = [("login", "\0"), ("password", "a password")];
            Browser::new(&app, "ada").sign_in(&named).await.expect(422);
        }
    }
}

#[actix_web::test]
async fn a_change_by_cookie_comes_from_our_own_page_or_brings_the_forms_token() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let page = ada.open("/dashboard/profile").await.expect(200);
        let (token, origin) = (page.form_token().expect("a token"), ada.origin());
        for (headers, fits) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "")], false),
            (
                &[("sec-fetch-site", "cross-site"), ("origin", &origin)],
                false,
            ),
            (&[("origin", &origin)], true),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "http://localhost.evil.example")], false),
            (&[("origin", "null")], false),
            (&[], true),
        ] {
            for token in [token.as_str(), "", "x"] {
                let with = |mut request: RequestBuilder| {
                    for (name, value) in headers {
                        request = request.header(*name, *value);
                    }
                    request
                };
                let api = with(ada.bare(Method::PATCH, "/api/v1/me"));
                let api = api.header("x-csrf-token", token);
                let form = with(ada.bare(Method::POST, "/dashboard/profile"));
                let fields = [("name", "Ada"), ("theme", "dark"), ("csrf_token", token)];
                let form = ada.form(form, &fields);
                for (request, done) in [(api.json(&json!({"name": "Ada"})), 200), (form, 303)] {
                    let answer = Answer::of(request).await;
                    let expected = match fits && token.len() > 1 {
                        true => done,
                        false => 403,
                    };
                    assert_eq!(answer.status, expected, "{headers:?} {token}: {answer:?}");
                }
            }
        }
    }
}
