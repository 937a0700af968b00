//! What every request and every answer has in common: who asks from where ([`origin`]), bodies that
//! are read within limits ([`input`]), the answer's dress ([`answer`]), pages, charts and static files.

pub mod answer;
pub mod assets;
pub mod chart;
pub mod flash;
pub mod https;
pub mod input;
pub mod misleading;
pub mod origin;
pub mod page;
pub mod paging;

use std::marker::PhantomData;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, Responder};
use schemars::JsonSchema;
use serde::Serialize;

use crate::openapi::{Operation, Output};

/// A success on `/api`: `{"status", "message", "data"}`.
pub fn success<T: Serialize>(message: &str, data: T) -> Success<T> {
    Answer::with(message, &data)
}

/// As [`success`], for what has just been made.
pub fn created<T: Serialize>(message: &str, data: T) -> Created<T> {
    Answer::with(message, &data)
}

/// An answer whose `data` is a `T`, and whose status is known beforehand.
pub struct Answer<T, const STATUS: u16> {
    response: HttpResponse,
    data: PhantomData<T>,
}

/// 200.
pub type Success<T> = Answer<T, 200>;
/// 201.
pub type Created<T> = Answer<T, 201>;

impl<T: Serialize, const STATUS: u16> Answer<T, STATUS> {
    fn with(message: &str, data: &T) -> Self {
        #[derive(Serialize)]
        struct Body<'a, T> {
            status: u16,
            message: &'a str,
            data: &'a T,
        }
        let status = StatusCode::from_u16(STATUS).unwrap_or(StatusCode::OK);
        let body = Body {
            status: STATUS,
            message,
            data,
        };
        Self {
            response: HttpResponse::build(status).json(body),
            data: PhantomData,
        }
    }
}

impl<T, const STATUS: u16> Responder for Answer<T, STATUS> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.response
    }
}

impl<T: JsonSchema, const STATUS: u16> Output for Answer<T, STATUS> {
    fn describe(operation: &mut Operation) {
        operation.answers_with::<T>(STATUS);
    }
}

/// An answer in a shape that somebody else's standard gives it.
pub struct Plain<T>(pub T);

impl<T: Serialize> Responder for Plain<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(self.0)
    }
}

impl<T: Serialize + JsonSchema> Output for Plain<T> {
    fn describe(operation: &mut Operation) {
        let schema = operation.gives.subschema_for::<T>().to_value();
        operation.answers(200, "application/json", schema);
    }
}

/// Sends a browser on to a local path, with GET.
pub fn see_other(location: &str) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header(("Location", location))
        .finish()
}
