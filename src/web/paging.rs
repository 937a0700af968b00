//! Lists in pieces: `?limit=` and `?cursor=`, and `meta.next` in the answer.

use std::marker::PhantomData;

use actix_web::body::BoxBody;
use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, dev::Payload};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::input::{self, Check, Query};
use crate::error::{AppError, FieldErrors};
use crate::openapi::{Input, Operation, Output, schema};

/// The longest piece that may be asked for.
pub const MOST: i64 = 200;
const USUAL: i64 = 50;

/// Which piece of a list is asked for.
pub struct Paging {
    /// How many at most.
    pub limit: i64,
    /// The id after which the piece begins, as the list is ordered.
    pub after: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Asked {
    /// How many at most; 50 where nothing is said.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 1, max = 200))]
    limit: Option<i64>,
    /// Where the piece begins: `meta.next` of the piece before.
    #[serde(default)]
    #[schemars(schema_with = "schema::required::<64>")]
    cursor: Option<String>,
}

impl Check for Asked {
    fn check(&self, errors: &mut FieldErrors) {
        if self.limit.is_some_and(|limit| !(1..=MOST).contains(&limit)) {
            errors.add("limit", format!("This is a number from 1 to {MOST}."));
        }
        if let Some(cursor) = &self.cursor {
            input::check_required(errors, "cursor", cursor, 64);
        }
    }
}

impl FromRequest for Paging {
    type Error = AppError;
    type Future = std::future::Ready<Result<Self, AppError>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let pairs = url::form_urlencoded::parse(req.query_string().as_bytes());
        // Nothing is no number, which an absent field would be taken for.
        let is_empty = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
            name == "limit" && value.is_empty()
        };
        if pairs.into_iter().any(is_empty) {
            let told = format!("This is a number from 1 to {MOST}.");
            let errors = FieldErrors::one("limit", told);
            return std::future::ready(Err(AppError::Invalid(errors)));
        }
        let asked = Query::<Asked>::from_request(req, payload).into_inner();
        std::future::ready(asked.map(|Query(asked)| Self {
            limit: asked.limit.unwrap_or(USUAL),
            after: asked.cursor,
        }))
    }
}

impl Input for Paging {
    fn describe(operation: &mut Operation) {
        operation.takes_query::<Asked>();
    }
}

impl Paging {
    /// How many rows to ask the database for: one more than are shown tells whether there are more.
    pub const fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts what [`Paging::rows`] brought down to the piece, and names the cursor of the next.
    pub fn cut<T>(&self, mut rows: Vec<T>, id: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
        let limit = usize::try_from(self.limit).unwrap_or(0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| id(row).to_owned());
        (rows, next)
    }
}

/// A piece of a list on `/api`: `data` is an array, `meta.next` the cursor of the next piece.
pub fn success_list<T: Serialize>(message: &str, data: Vec<T>, next: Option<&str>) -> List<T> {
    let body = json!({"status": 200, "message": message, "data": data, "meta": {"next": next}});
    List(HttpResponse::Ok().json(body), PhantomData)
}

/// An answer whose `data` are several `T`.
pub struct List<T>(HttpResponse, PhantomData<T>);

impl<T> Responder for List<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.0
    }
}

impl<T: JsonSchema> Output for List<T> {
    fn describe(operation: &mut Operation) {
        let items = operation.gives.subschema_for::<T>();
        let schema = json!({
            "type": "object",
            "required": ["status", "message", "data", "meta"],
            "properties": {
                "status": {"const": 200},
                "message": {"type": "string"},
                "data": {"type": "array", "items": items},
                "meta": {
                    "type": "object",
                    "required": ["next"],
                    "properties": {"next": {
                        "type": ["string", "null"],
                        "description": "The `cursor` of the next piece, if there is more.",
                    }},
                },
            },
        });
        operation.answers(200, "application/json", schema);
    }
}
