use crate::harness::{Backend, TestApp};
use serde_json::json;

#[actix_web::test]
async fn a_program_signs_in_on_both_backends() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let answer = app
            .post_json(
                "/api/v1/auth/token",
                &json!({"username": "ada", "password": TestApp::PASSWORD}),
            )
            .await;
        assert_eq!(answer.status(), 200, "{backend:?}");
    }
}

#[actix_web::test]
async fn behind_https_a_page_that_came_by_http_is_sent_on_and_an_api_call_refused() {
    let settings = [
        ("GAPURA_PUBLIC_URL", "https://login.example.org"),
        ("GAPURA_TRUSTED_PROXIES", "127.0.0.0/8"),
    ];
    let app = TestApp::start_with(Backend::Embedded, &settings).await;
    let by = |path: &str, scheme: &str| {
        let request = app.http.get(format!("{}{path}", app.url));
        request.header("X-Forwarded-Proto", scheme).send()
    };
    let page = by("/login?next=%2Fdashboard", "http")
        .await
        .expect("an answer");
    assert_eq!(page.status(), 308);
    assert_eq!(
        page.headers()["location"],
        "https://login.example.org/login?next=%2Fdashboard"
    );
    assert_eq!(
        by("/api/v1/me", "http").await.expect("an answer").status(),
        403
    );
    assert_eq!(
        by("/login", "https").await.expect("an answer").status(),
        200
    );
}
