//! What every request and every answer has in common: who asks from where ([`origin`]), bodies that
//! are read within limits ([`input`]), the answer's dress ([`answer`]), pages, charts and static files.

pub mod answer;
pub mod assets;
pub mod chart;
pub mod https;
pub mod input;
pub mod origin;
pub mod page;
pub mod paging;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::Serialize;
use serde_json::json;

/// A success on `/api`: `{"status", "message", "data"}`.
pub fn success(message: &str, data: impl Serialize) -> HttpResponse {
    success_with(StatusCode::OK, message, data)
}

/// As [`success`], with another status.
pub fn success_with(status: StatusCode, message: &str, data: impl Serialize) -> HttpResponse {
    HttpResponse::build(status)
        .json(json!({"status": status.as_u16(), "message": message, "data": data}))
}

/// Sends a browser on to a local path, with GET.
pub fn see_other(location: &str) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header(("Location", location))
        .finish()
}
