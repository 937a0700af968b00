//! What a caller sees and does of their own account.

use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::account::{self, User};
use crate::app::App;
use crate::caller::Caller;
use crate::error::{AppError, Code};
use crate::web::success;

/// `GET /api/v1/me`.
pub async fn me(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, AppError> {
    let id = caller.user_id().to_owned();
    let user = app.db.read(move |conn| account::by_id(conn, &id)).await?;
    let mut answer = success("Your account.", whole(&user.ok_or(Code::TokenRevoked)?));
    let method = actix_web::http::header::HeaderValue::from_static(caller.method());
    answer.headers_mut().insert(
        actix_web::http::header::HeaderName::from_static("x-auth-method"),
        method,
    );
    Ok(answer)
}

fn whole(user: &User) -> serde_json::Value {
    json!({
        "id": user.id,
        "username": user.username,
        "email": user.email,
        "email_verified": user.email_verified,
        "name": user.name,
        "role": user.role,
        "locale": user.locale,
        "theme": user.theme,
        "created_at": user.created_at,
    })
}
