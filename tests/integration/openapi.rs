//! The document of the API is complete and true; every answer of the other tests is held to it too
//! (`contract.rs`).

use gapura::account::is_invisible;
use gapura::openapi::document::document;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::actors::Answer;
use crate::contract::validator;
use crate::harness::{Backend, TestApp};

/// Every operation: method, path, and what the document says of it.
pub fn operations() -> Vec<(Method, &'static str, &'static Value)> {
    let paths = document()["paths"].as_object().expect("paths");
    let items = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("methods").iter();
        methods.map(move |(method, operation)| {
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
            (method.expect("a method"), path.as_str(), operation)
        })
    });
    items.collect()
}

pub const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

/// Whether it may be called by nobody in particular.
fn is_open(operation: &Value) -> bool {
    let ways = operation["security"].as_array().expect("security");
    ways.is_empty() || ways.contains(&json!({}))
}

#[actix_web::test]
async fn the_document_names_every_route_with_its_methods_and_no_other() {
    let app = TestApp::start(Backend::Embedded).await;
    let url = format!("{}/api/v1/openapi.json", app.url);
    let served = Answer::of(app.http.get(url)).await.expect(200);
    assert_eq!(&served.json(), document());
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let paths = document()["paths"].as_object().expect("paths");
    assert!(paths.len() > 20);
    for (path, item) in paths {
        for method in &methods {
            let url = format!("{}{}", app.url, path.replace("{id}", ID));
            let answer = Answer::of(app.http.request(method.clone(), url)).await;
            let known = item.get(method.as_str().to_ascii_lowercase()).is_some();
            if path == "/login" && !known {
                // A page of the same path.
                continue;
            }
            assert_eq!(answer.status != 405, known, "{method} {path}");
            if answer.status == 404 {
                // Not for want of a route.
                assert!(path.ends_with("/register"), "{method} {path}");
            }
        }
    }
    // What the table of routes has beside the one that the document is made of answers with pages
    // and files.
    let source = include_str!("../../src/app.rs");
    for literal in source.split("at(\"").skip(1) {
        let path = literal.split('"').next().expect("a path");
        let is_page = !path.starts_with("/v1") && !path.starts_with("/api");
        assert!(is_page, "{path} is not in the document");
    }
}

#[actix_web::test]
async fn who_is_calling_is_settled_before_the_body() {
    let app = TestApp::start(Backend::Embedded).await;
    let access = app.access_token("ada").await;
    let made = app.make_token(&access, &["verify"]).await;
    let verify = made["token"].as_str().expect("a token");
    let large = "x".repeat(100_000);
    let bodies = [
        ("text/plain", "hello"),
        ("application/json", "{"),
        ("application/json", "[]"),
        ("application/json", &large),
    ];
    let mut walked = 0;
    for (method, path, operation) in operations() {
        if operation["requestBody"].is_null() || is_open(operation) {
            continue;
        }
        for (kind, body) in bodies {
            let url = format!("{}{}", app.url, path.replace("{id}", ID));
            let ask = async |token: Option<&str>| {
                let request = app.http.request(method.clone(), &url);
                let request = request.header(CONTENT_TYPE, kind).body(body.to_owned());
                Answer::of(match token {
                    Some(token) => request.bearer_auth(token),
                    None => request,
                })
                .await
            };
            let stranger = ask(None).await;
            assert_eq!(stranger.status, 401, "{method} {path}: {}", stranger.body);
            let takes_tokens = operation["security"][0]["accessToken"].is_array();
            if takes_tokens {
                let refused = ask(Some(verify)).await;
                assert_eq!(refused.status, 403, "{method} {path}: {}", refused.body);
                let forged = ask(Some("x.y.z")).await;
                assert_eq!(forged.status, 401, "{method} {path}: {}", forged.body);
            }
        }
        walked += 1;
    }
    assert!(walked >= 8, "{walked} routes have a caller and a body");
}

#[test]
fn every_example_fits_its_schema_and_every_error_is_one_of_the_list() {
    let mut seen = 0;
    for (method, path, operation) in operations() {
        let responses = operation["responses"].as_object().expect("responses");
        for body in responses.values().chain(operation.get("requestBody")) {
            for media in body["content"].as_object().expect("content").values() {
                let validator = validator(&media["schema"]);
                let examples = media["examples"].as_object().into_iter().flatten();
                let examples = examples.map(|(_, example)| &example["value"]);
                for example in examples.chain(media.get("example")) {
                    let judged = validator.validate(example);
                    assert!(judged.is_ok(), "{method} {path}: {example} {judged:?}");
                    seen += 1;
                }
            }
        }
        for field in ["summary", "operationId"] {
            assert!(operation[field].is_string(), "{method} {path}: {field}");
        }
    }
    assert!(seen > 200, "{seen}");
    let mut names: Vec<&Value> = operations()
        .iter()
        .map(|each| &each.2["operationId"])
        .collect();
    names.sort_by_key(|name| name.to_string());
    names.dedup();
    assert_eq!(names.len(), operations().len(), "an id names one operation");
}

#[test]
fn the_patterns_say_what_the_rules_do() {
    let schema = &document()["components"]["schemas"]["Profile"]["properties"]["name"];
    let validator = validator(schema);
    for c in (0..=0x1_ffff_u32).filter_map(char::from_u32) {
        let text = format!("a{c}");
        let allowed = validator.is_valid(&json!(text));
        assert_eq!(allowed, !is_invisible(c), "U+{:04X}", u32::from(c));
        let alone = validator.is_valid(&json!(c.to_string()));
        assert_eq!(alone, !is_invisible(c) && !c.is_whitespace(), "{c:?}");
    }
}

#[actix_web::test]
async fn anybody_can_read_the_page_of_the_document() {
    let app = TestApp::start(Backend::Embedded).await;
    let page = Answer::of(app.http.get(format!("{}/docs", app.url))).await;
    let page = page.expect(200);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    for (_, path, operation) in operations() {
        let id = operation["operationId"].as_str().expect("an id");
        assert!(page.body.contains(&format!("id=\"{id}\"")), "{id}");
        assert!(page.body.contains(path), "{path}");
    }
    for inline in ["style=", "<script", "http://", "https://cdn"] {
        assert!(!page.body.contains(inline), "{inline}");
    }
    let indonesian = format!("{}/docs?lang=id", app.url);
    let page = Answer::of(app.http.get(indonesian)).await.expect(200);
    assert!(page.body.contains("Daftar isi"));
}
