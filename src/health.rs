//! `/healthz`: the process is alive. `/readyz`: it is able to serve, each part named.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::app::App;

/// `GET /healthz`.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// `GET /readyz`.
pub async fn readyz(app: web::Data<App>) -> HttpResponse {
    let (database, store) = tokio::join!(app.db.ping(), app.keystore.ping());
    let feed = app.ended.is_fresh();
    let draining = app.is_draining();
    let ready = database.is_ok() && store.is_ok() && feed && !draining;
    let word = |good: bool| if good { "ok" } else { "unavailable" };
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    HttpResponse::build(status).json(json!({
        "status": match (ready, draining) {
            (true, _) => "ready",
            (_, true) => "shutting down",
            _ => "not ready",
        },
        "database": word(database.is_ok()),
        "store": word(store.is_ok()),
        "revocation_feed": word(feed),
    }))
}
