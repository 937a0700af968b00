//! Pages of other origins: those on the list may call the API, and no other is told anything.

use reqwest::Method;
use serde_json::json;

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};

const LISTED: &str = "https://app.example.org";
const SETTINGS: &[(&str, &str)] = &[(
    "GAPURA_CORS_ORIGINS",
    "https://app.example.org, http://localhost:5173",
)];

async fn ask(app: &TestApp, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = app.http.request(method, format!("{}{path}", app.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

fn told(answer: &Answer) -> Vec<&str> {
    let names = answer.headers.keys().map(|name| name.as_str());
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

fn list<'a>(answer: &'a Answer, header: &str) -> Vec<&'a str> {
    let mut names: Vec<_> = answer.header(header).split(',').map(str::trim).collect();
    names.sort_unstable();
    names
}

#[actix_web::test]
async fn a_listed_origin_is_told_what_it_may_do() {
    let app = TestApp::start_with(Backend::Embedded, SETTINGS).await;
    for origin in [LISTED, "http://localhost:5173"] {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "PATCH"),
            (
                "access-control-request-headers",
                "authorization,content-type,x-refresh-token,x-sanctum-token,x-csrf-token",
            ),
        ];
        let answer = ask(&app, Method::OPTIONS, "/api/v1/me", &asked)
            .await
            .expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        let headers = answer.header("access-control-allow-headers").to_lowercase();
        assert!(headers.contains("x-refresh-token"), "{headers}");
        assert!(answer.header("vary").to_lowercase().contains("origin"));
    }
    // Errors are for the page to read too.
    let answer = ask(&app, Method::GET, "/api/v1/me", &[("origin", LISTED)])
        .await
        .expect(401);
    assert_eq!(answer.header("access-control-allow-origin"), LISTED);
    assert_eq!(answer.json()["code"], "token_missing");
    let mut shown = list(&answer, "access-control-expose-headers");
    shown
        .iter_mut()
        .for_each(|name| assert_eq!(*name, name.to_lowercase()));
    assert_eq!(
        shown,
        [
            "retry-after",
            "x-auth-method",
            "x-new-access-token",
            "x-new-refresh-token",
            "x-request-id",
            "x-token-refreshed"
        ]
    );
}

#[actix_web::test]
async fn an_origin_that_is_not_listed_gets_no_header_at_all() {
    let others = [
        "https://evil.example",
        "https://app.example.org.evil.example",
        "http://app.example.org",
        "https://app.example.org:444",
        "https://APP.example.org",
        "null",
    ];
    for settings in [SETTINGS, &[]] {
        let app = TestApp::start_with(Backend::Embedded, settings).await;
        for origin in others {
            let headers = [("origin", origin)];
            let answer = ask(&app, Method::GET, "/api/v1/me", &headers)
                .await
                .expect(401);
            assert_eq!(told(&answer), Vec::<&str>::new(), "{origin}");
            assert!(
                answer.header("vary").to_lowercase().contains("origin"),
                "{origin}"
            );
            let asked = [("origin", origin), ("access-control-request-method", "GET")];
            let answer = ask(&app, Method::OPTIONS, "/api/v1/me", &asked).await;
            let allowed = answer.headers.contains_key("access-control-allow-origin");
            assert!(!allowed, "{origin}");
        }
    }
}

#[actix_web::test]
async fn pages_are_for_no_other_origin_and_a_session_serves_only_our_own() {
    let app = TestApp::start_with(Backend::Embedded, SETTINGS).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    let page = ada.bare(Method::GET, "/dashboard").header("origin", LISTED);
    assert_eq!(
        told(&Answer::of(page).await.expect(200)),
        Vec::<&str>::new()
    );
    let foreign = ada.bare(Method::GET, "/api/v1/me").header("origin", LISTED);
    let answer = Answer::of(foreign).await.expect(401);
    assert_eq!(answer.json()["code"], json!("token_missing"));
}
