//! Form tokens. A signed-in form's token is a MAC of something only its session knows; before
//! signing in, of a random cookie, so that the login page stores nothing on the server. Neither the
//! session's record nor the cookie alone is worth anything (OWASP CSRF Prevention, "signed
//! double-submit cookie").

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::header::HeaderName;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::Record;
use super::remember::cookie_name;
use crate::app::App;
use crate::error::{AppError, Code};
use crate::vault::random;
use crate::web::answer::Outgoing;
use crate::web::origin::header;

const COOKIE: &str = "gapura_form";

/// The token for the forms of a signed-in page.
pub fn of_session(app: &App, record: &Record) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(app.secrets.form_mac(&bound_to_session(record)))
}

/// The token for the login page; sends the cookie it is bound to along, if there is none yet.
pub fn of_visitor(req: &HttpRequest, app: &App) -> String {
    let name = cookie_name(&app.config, COOKIE);
    let id = req.cookie(&name).map(|cookie| cookie.value().to_owned());
    let id = id.filter(|id| id.len() == 43).unwrap_or_else(|| {
        let id = BASE64_URL_SAFE_NO_PAD.encode(random::<32>());
        let cookie = Cookie::build(name, id.clone())
            .path("/")
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(app.config.is_https());
        Outgoing::set_cookie(req, cookie.finish());
        id
    });
    BASE64_URL_SAFE_NO_PAD.encode(app.secrets.form_mac(&bound_to_visitor(&id)))
}

/// Checks the token of a signed-in request: the form's, or `X-CSRF-Token`.
///
/// # Errors
/// 403 `csrf_failed`.
pub fn check_session(
    req: &HttpRequest,
    app: &App,
    record: &Record,
    form: Option<&str>,
) -> Result<(), AppError> {
    let token = form.filter(|token| !token.is_empty());
    let token = token.unwrap_or_else(|| sent(req));
    check(app, &bound_to_session(record), token)
}

/// `X-CSRF-Token`, where a script of ours sends what a form would carry.
pub fn sent(req: &HttpRequest) -> &str {
    header(req, HeaderName::from_static("x-csrf-token")).unwrap_or_default()
}

/// Checks the token of the login form.
///
/// # Errors
/// 403 `csrf_failed`.
pub fn check_visitor(req: &HttpRequest, app: &App, token: &str) -> Result<(), AppError> {
    let cookie = req
        .cookie(&cookie_name(&app.config, COOKIE))
        .ok_or(Code::CsrfFailed)?;
    check(app, &bound_to_visitor(cookie.value()), token)
}

fn check(app: &App, bound_to: &str, token: &str) -> Result<(), AppError> {
    let mac = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    let valid = app.secrets.form_mac_is_valid(bound_to, &mac);
    if valid {
        Ok(())
    } else {
        Err(Code::CsrfFailed.into())
    }
}

fn bound_to_session(record: &Record) -> String {
    format!("session {}", record.form_id)
}

fn bound_to_visitor(id: &str) -> String {
    format!("visitor {id}")
}
