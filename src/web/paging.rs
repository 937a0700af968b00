//! Lists in pieces: `?limit=` and `?cursor=`, and `meta.next` in the answer.

use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::input::{self, Check, Query};
use crate::error::{AppError, FieldErrors};

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

#[derive(Deserialize)]
struct Asked {
    limit: Option<i64>,
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
        let asked = Query::<Asked>::from_request(req, payload).into_inner();
        std::future::ready(asked.map(|Query(asked)| Self {
            limit: asked.limit.unwrap_or(USUAL),
            after: asked.cursor,
        }))
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
pub fn success_list(message: &str, data: Vec<impl Serialize>, next: Option<&str>) -> HttpResponse {
    HttpResponse::Ok()
        .json(json!({"status": 200, "message": message, "data": data, "meta": {"next": next}}))
}
