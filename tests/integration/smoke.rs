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
