//! `/api/v1/openapi.json` and `/docs`.

use std::sync::LazyLock;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, Responder};
use askama::Template;
use serde_json::json;

use super::document::document;
use super::page::{Chapter, chapters};
use super::{Operation, Output};
use crate::error::AppError;
use crate::web::page::{Page, render};

/// The document.
pub struct Document;

impl Responder for Document {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
        HttpResponse::Ok()
            .content_type("application/json")
            .body(TEXT.as_str())
    }
}

impl Output for Document {
    fn describe(operation: &mut Operation) {
        let schema = json!({
            "type": "object",
            "required": ["openapi", "info", "paths"],
            "properties": {
                "openapi": {"type": "string", "examples": ["3.1.1"]},
                "info": {"type": "object", "examples": [{}]},
                "paths": {"type": "object", "examples": [{}]},
            },
        });
        operation.answers(200, "application/json", schema);
    }
}

/// `GET /api/v1/openapi.json`.
pub async fn json() -> Document {
    Document
}

#[derive(Template)]
#[template(path = "docs.html")]
struct DocsPage {
    page: Page,
    chapters: &'static [Chapter],
}

/// `GET /docs`: the same, for reading.
pub async fn docs(req: HttpRequest) -> Result<HttpResponse, AppError> {
    let page = Page::new(&req, None, String::new());
    let chapters = chapters();
    render(&DocsPage { page, chapters }, StatusCode::OK)
}
