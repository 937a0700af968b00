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
use crate::web::page::Page;

/// How long a password counts as just given.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// Where a form carries the password that was asked for in between.
const FIELD: &str = "current_password";

/// Whether the password was given lately.
fn is_fresh(auth_time: Timestamp, now: Timestamp) -> bool {
    auth_time + FRESH > now
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
    let (username, login_id, auth_time) = match &caller.credential {
        Credential::Bearer(bearer) => {
            let claims = &bearer.claims;
            let auth_time = Timestamp::from_seconds(claims.auth_time);
            (&claims.name, &claims.sid, auth_time)
        }
        Credential::Session(session) => {
            let record = &session.record;
            (&record.username, &record.login_id, record.auth_time())
        }
    };
    let Some(password) = current_password else {
        return match is_fresh(auth_time, now) {
            true => Ok(()),
            false => Err(Code::ReauthenticationRequired.into()),
        };
    };
    confirm(req, app, username, login_id, password)
        .await
        .map_err(|error| match error {
            AppError::Problem(Code::InvalidCredentials) => AppError::Invalid(FieldErrors::one(
                FIELD,
                "This is not your present password.",
            )),
            error => error,
        })?;
    if let Credential::Session(session) = &caller.credential {
        let mut record = session.record.clone();
        record.set_auth_time(now);
        begin(req, &record)?;
    }
    Ok(())
}

/// Checks a password given in between and notes the moment with the login.
async fn confirm(
    req: &HttpRequest,
    app: &App,
    username: &str,
    login_id: &str,
    password: &str,
) -> Result<(), AppError> {
    let client = origin::client(req, &app.config, None);
    sign_in::authenticate(app, username, password, &client).await?;
    let (login_id, now) = (login_id.to_owned(), app.clock.now());
    app.db
        .write(move |conn| login::set_auth_time(conn, &login_id, now))
        .await?;
    Ok(())
}

/// A form of a living session whose person gave the password lately. Where it was not, the page asks
/// for it and then sends the same form again: nothing that was typed is lost.
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
            mut session,
            form: fields,
        } = sent;
        // What is wrong with the form is told before a password is asked for.
        let form = fields.parse()?;
        let now = app.clock.now();
        if is_fresh(session.record.auth_time(), now) {
            return Ok(Self { session, form });
        }
        let Some(password) = fields.get(FIELD) else {
            return Err(ask(req, app, &session, &fields, false));
        };
        let record = &mut session.record;
        match confirm(req, app, &record.username, &record.login_id, password).await {
            Ok(()) => {}
            Err(AppError::Problem(Code::InvalidCredentials)) => {
                return Err(ask(req, app, &session, &fields, true));
            }
            Err(error) => return Err(error),
        }
        record.set_auth_time(now);
        begin(req, record)?;
        Ok(Self { session, form })
    }
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage<'a> {
    page: Page,
    /// What was sent, to be sent again.
    fields: Vec<(&'a str, &'a str)>,
    /// Where it was sent to.
    action: &'a str,
    /// Where it came from.
    back: String,
    wrong: bool,
}

/// The page that asks for the password, as the error that stops the handler.
fn ask(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    fields: &FormFields,
    wrong: bool,
) -> AppError {
    let ours = |name: &str| [FIELD, "csrf_token"].contains(&name);
    let back = input::path_of_url(origin::header(req, REFERER).unwrap_or_default());
    let template = ConfirmPage {
        page: Page::signed_in(req, app, session, "", app.clock.now()),
        fields: fields.iter().filter(|(name, _)| !ours(name)).collect(),
        action: req.path(),
        back: origin::local_path(&back.unwrap_or_default()).to_owned(),
        wrong,
    };
    match template.render() {
        Ok(html) => AppError::PasswordAsked(html),
        Err(error) => AppError::Internal(error.to_string()),
    }
}
