//! Step-up: what would last if a credential were stolen (a personal token, another password) and
//! what reaches into other people's accounts needs a password given lately (OWASP Authentication
//! Cheat Sheet, "Require re-authentication for sensitive features"). A page asks for it in between,
//! and what was being done is done afterwards; the API takes `current_password`.

use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::REFERER;
use actix_web::{FromRequest, HttpRequest};
use askama::Template;
use serde::de::DeserializeOwned;

use super::{Caller, Credential};
use crate::app::App;
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::login::{self, sign_in};
use crate::session::extract::{BrowserSession, FormToken, SessionForm, app_of, begin};
use crate::web::input::{self, Check, FormFields};
use crate::web::origin;
use crate::web::page::{Page, too_many};

/// How long a password counts as just given.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// Where a form carries the password that was asked for in between.
const FIELD: &str = "current_password";
/// Where it carries the way back, since the page that asks is its own referrer the second time.
const BACK: &str = "confirm_back";

/// Whether the password was given lately: also by a clock that was set back since.
fn is_fresh(auth_time: Timestamp, now: Timestamp) -> bool {
    now.since(auth_time) + auth_time.since(now) < FRESH
}

/// Whether a field is never sent back to the browser: whoever typed it types it again, in the form
/// that missed it.
fn is_secret(name: &str) -> bool {
    name.contains("password") || name.contains("secret")
}

/// Makes sure that the caller of an API route gave a password lately, now at the latest.
///
/// # Errors
/// 403 `reauthentication_required`, 403 `forbidden` for a personal token, 422 for a wrong password,
/// which counts as a failed login.
pub async fn require<P>(
    req: &HttpRequest,
    app: &App,
    caller: &Caller<P>,
    current_password: Option<&str>,
) -> Result<(), AppError> {
    let now = app.clock.now();
    let auth_time = match &caller.credential {
        Credential::Bearer(bearer) => Timestamp::from_seconds(bearer.claims.auth_time),
        Credential::Session(session) => session.record.auth_time(),
        Credential::Personal(_) => return Err(Code::Forbidden.into()),
    };
    let Some(password) = current_password else {
        return match is_fresh(auth_time, now) {
            true => Ok(()),
            false => Err(Code::ReauthenticationRequired.into()),
        };
    };
    let login_id = caller.login_id().ok_or(Code::Forbidden)?;
    let confirmed = confirm(req, app, caller.user_id(), login_id, password).await;
    confirmed.map_err(|error| match error {
        AppError::Problem(Code::InvalidCredentials) => AppError::Invalid(FieldErrors::one(
            FIELD,
            "This is not your current password.",
        )),
        error => error,
    })?;
    if let Credential::Session(session) = &caller.credential {
        renew(req, app, session, now).await?;
    }
    Ok(())
}

/// Checks a password given in between and notes the moment with the login.
async fn confirm(
    req: &HttpRequest,
    app: &App,
    user_id: &str,
    login_id: &str,
    password: &str,
) -> Result<(), AppError> {
    let client = origin::client(req, &app.config, None);
    sign_in::confirm(app, user_id, password, &client).await?;
    let (login_id, now) = (login_id.to_owned(), app.clock.now());
    app.db
        .write(move |conn| login::set_auth_time(conn, &login_id, now))
        .await?;
    Ok(())
}

/// The session goes on under a new id, as one that may do more than the one before. Its forms, open
/// in other tabs, stay good.
async fn renew(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    now: Timestamp,
) -> Result<(), AppError> {
    // The session is written after the handler has done its work: an outage is told before that.
    app.keystore.ping().await?;
    let mut record = session.record.clone();
    record.set_auth_time(now);
    begin(req, &record)
}

/// A form of a living session whose person gave the password lately. Where it was not, the page asks
/// for it and then sends the same form again: nothing that was typed is lost, except secrets.
pub struct SteppedUp<T> {
    pub session: BrowserSession,
    pub form: T,
}

impl<T: DeserializeOwned + Check + FormToken + 'static> FromRequest for SteppedUp<T> {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let sent = SessionForm::<FormFields>::from_request(req, payload);
        let (req, app) = (req.clone(), app_of(req));
        Box::pin(async move { Self::of(&req, &app, sent.await?).await })
    }
}

impl<T: DeserializeOwned + Check> SteppedUp<T> {
    /// From the fields that a living session sent.
    ///
    /// # Errors
    /// 422 for the form, 403 with the page that asks for the password.
    pub async fn of(
        req: &HttpRequest,
        app: &App,
        sent: SessionForm<FormFields>,
    ) -> Result<Self, AppError> {
        let SessionForm {
            session,
            form: fields,
        } = sent;
        // What is wrong with the form is told before a password is asked for.
        let form = fields.parse()?;
        let now = app.clock.now();
        if is_fresh(session.record.auth_time(), now) {
            return Ok(Self { session, form });
        }
        let password = fields.get(FIELD).filter(|password| !password.is_empty());
        let Some(password) = password else {
            return Err(ask(req, app, &session, &fields, &Asking::First));
        };
        let record = &session.record;
        let asking = match confirm(req, app, &record.user_id, &record.login_id, password).await {
            Ok(()) => {
                renew(req, app, &session, now).await?;
                return Ok(Self { session, form });
            }
            Err(AppError::Problem(Code::InvalidCredentials)) => Asking::Wrong,
            Err(AppError::RateLimited { retry_after }) => Asking::TooOften(retry_after),
            Err(error) => return Err(error),
        };
        Err(ask(req, app, &session, &fields, &asking))
    }
}

/// Why the page asks.
enum Asking {
    First,
    Wrong,
    TooOften(Duration),
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage<'a> {
    page: Page,
    /// What was sent, to be sent again.
    fields: Vec<(&'a str, &'a str)>,
    /// Where it was sent to.
    action: String,
    /// Where it came from.
    back: String,
    /// What was wrong with the password.
    wrong: Option<String>,
}

/// The page that asks for the password, as the error that stops the handler.
fn ask(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    fields: &FormFields,
    asking: &Asking,
) -> AppError {
    let ours = |name: &str| name == "csrf_token" || name == BACK;
    let referrer = || input::path_of_url(origin::header(req, REFERER).unwrap_or_default());
    let back = fields.get(BACK).map(str::to_owned).or_else(referrer);
    let back = origin::local_path(&back.unwrap_or_default()).to_owned();
    let mut page = Page::signed_in(req, app, session, "", app.clock.now());
    // Not where the form was sent to: that may be no page.
    page.path.clone_from(&back);
    let template = ConfirmPage {
        fields: fields
            .iter()
            .filter(|(name, _)| !ours(name) && !is_secret(name))
            .collect(),
        action: req
            .uri()
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        back,
        wrong: match asking {
            Asking::First => None,
            Asking::Wrong => Some(page.t("password.wrong").into_owned()),
            Asking::TooOften(retry_after) => Some(too_many(page.language(), *retry_after)),
        },
        page,
    };
    let retry_after = match asking {
        Asking::TooOften(retry_after) => Some(*retry_after),
        _ => None,
    };
    match template.render() {
        Ok(html) => AppError::PasswordAsked { html, retry_after },
        Err(error) => AppError::Internal(error.to_string()),
    }
}
