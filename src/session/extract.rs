//! Naming one of these in a handler is the access check.

use std::pin::Pin;

use actix_identity::Identity;
use actix_session::SessionExt;
use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{
    Concluded, Loaded, Record, TypedSession, activity_key, conclude, csrf, idle_end, remember,
};
use crate::app::App;
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::login::Cause;
use crate::web::answer::note_login;
use crate::web::input::{Check, Form, FormFields};
use crate::web::origin;
use crate::web::page::Appearance;

/// Where a password is changed: the one page open to those who must.
pub const PASSWORD_PAGE: &str = "/dashboard/password";
/// What they may do besides: leave, and choose a language they understand.
const OPEN_BEFORE_CHANGE: [&str; 3] = [PASSWORD_PAGE, "/logout", "/dashboard/language"];

type Extracting<T> = Pin<Box<dyn Future<Output = Result<T, AppError>>>>;

/// The shared state, as a handler reaches it.
pub fn app_of(req: &HttpRequest) -> web::Data<App> {
    req.app_data::<web::Data<App>>()
        .cloned()
        .expect("App is registered before any route")
}

/// A living session of a page. Opening the page counts as activity; a remember cookie opens a new
/// session here, on the request that carries it. What a page left open asks for by itself is neither.
#[derive(Clone)]
pub struct BrowserSession {
    pub record: Record,
    /// When the person was last there, this request included.
    pub last_activity: Timestamp,
}

impl FromRequest for BrowserSession {
    type Error = AppError;
    type Future = Extracting<Self>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let (req, app) = (req.clone(), app_of(req));
        Box::pin(async move {
            let now = app.clock.now();
            let session = match living(&req, &app, now).await {
                Ok(session) => session.touch_if_person(&req, &app, now).await,
                Err(AppError::Problem(Code::SessionMissing))
                    if req.method() == Method::GET && origin::is_page_load(&req) =>
                {
                    let record = remember::restore(&req, &app, now).await?;
                    begin(&req, &record)?;
                    Ok(Self {
                        record,
                        last_activity: now,
                    })
                }
                Err(error) => Err(error),
            }?;
            session.refuse_before_change(req.path())?;
            Ok(session)
        })
    }
}

impl BrowserSession {
    /// When the session ends if nothing more happens.
    pub fn idle_until(&self, app: &App) -> Timestamp {
        let idle_end = idle_end(self.last_activity, app.config.clocks.session_idle_timeout);
        idle_end.min(self.record.expires_at())
    }

    /// A password that was generated or is temporary is changed before anything else.
    fn refuse_before_change(&self, path: &str) -> Result<(), AppError> {
        match self.record.must_change_password && !OPEN_BEFORE_CHANGE.contains(&path) {
            true => Err(AppError::PasswordMustChange),
            false => Ok(()),
        }
    }

    async fn touch_if_person(
        self,
        req: &HttpRequest,
        app: &App,
        now: Timestamp,
    ) -> Result<Self, AppError> {
        if origin::is_opened_by_person(req) {
            self.touch(app, now, now).await
        } else {
            Ok(self)
        }
    }

    /// Moves the last activity to `at`, never back.
    ///
    /// # Errors
    /// 419 when the session ended in the meantime: activity never revives it.
    pub async fn touch(
        mut self,
        app: &App,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<Self, AppError> {
        if at.seconds() > self.last_activity.seconds() {
            let idle_timeout = app.config.clocks.session_idle_timeout;
            let left = now.until(idle_end(at, idle_timeout));
            let key = activity_key(&self.record.login_id);
            let raised = Box::pin(app.keystore.raise(&key, at.seconds(), left)).await?;
            let Some(in_force) = raised else {
                let over = conclude(app, self.record.login_id, None, now).await?;
                return Err(AppError::SessionOver(over.reason));
            };
            self.last_activity = Timestamp::from_seconds(in_force);
            app.persist_activity(&self.record.login_id, self.last_activity);
        }
        Ok(self)
    }
}

/// A form sent by a living session of ours, with its form token checked. A dead session is told
/// before a missing token is.
pub struct SessionForm<T> {
    pub session: BrowserSession,
    pub form: T,
}

/// A form that carries the form token.
pub trait FormToken {
    /// The value of `csrf_token`.
    fn form_token(&self) -> &str;
}

/// A form that only says yes.
#[derive(Deserialize)]
pub struct Confirmation {
    #[serde(default)]
    csrf_token: String,
}

impl Check for Confirmation {
    fn check(&self, _: &mut FieldErrors) {}
}

impl FormToken for Confirmation {
    fn form_token(&self) -> &str {
        &self.csrf_token
    }
}

impl FormToken for FormFields {
    fn form_token(&self) -> &str {
        self.get("csrf_token").unwrap_or_default()
    }
}

impl<T: DeserializeOwned + Check + FormToken + 'static> FromRequest for SessionForm<T> {
    type Error = AppError;
    type Future = Extracting<Self>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let form = Form::<T>::from_request(req, payload);
        let (req, app) = (req.clone(), app_of(req));
        Box::pin(async move {
            let now = app.clock.now();
            let session = living(&req, &app, now).await?;
            origin::refuse_foreign(&req, &app)?;
            let Form(form) = form.await?;
            csrf::check_session(&req, &app, &session.record, Some(form.form_token()))?;
            session.refuse_before_change(req.path())?;
            Ok(Self {
                session: session.touch_if_person(&req, &app, now).await?,
                form,
            })
        })
    }
}

/// The living session that the request's cookie stands for.
///
/// # Errors
/// 419 with its reason when it is over (its cookie is cleared), 401 when there never was one, 503
/// when that cannot be known.
pub async fn living(
    req: &HttpRequest,
    app: &App,
    now: Timestamp,
) -> Result<BrowserSession, AppError> {
    let found = find(req, app, now).await?;
    found.map_err(|over| {
        // An id that was replaced while this request was under way: the browser holds the new one
        // by the time it has our answer, and must not lose it again.
        if !over.superseded {
            TypedSession(req.get_session()).end();
        }
        AppError::SessionOver(over.reason)
    })
}

/// As [`living`], but leaves the cookie of a session that is over.
///
/// # Errors
/// As [`living`].
pub async fn look(
    req: &HttpRequest,
    app: &App,
    now: Timestamp,
) -> Result<BrowserSession, AppError> {
    let found = find(req, app, now).await?;
    found.map_err(|over| AppError::SessionOver(over.reason))
}

async fn find(
    req: &HttpRequest,
    app: &App,
    now: Timestamp,
) -> Result<Result<BrowserSession, Concluded>, AppError> {
    let session = TypedSession(req.get_session());
    match session.loaded() {
        None => Err(Code::SessionMissing.into()),
        Some(Loaded::Unavailable(cause)) => Err(AppError::Unavailable(cause)),
        Some(Loaded::Over {
            login_id,
            last_activity,
        }) => {
            let last_activity = last_activity.map(Timestamp::from_seconds);
            let over = conclude(app, login_id, last_activity, now).await?;
            Ok(Err(over))
        }
        Some(Loaded::Live { last_activity }) => {
            let Some(mut record) = session.record() else {
                // Only of no use here: where it was written it may go on.
                return Ok(Err(Concluded {
                    reason: Cause::Revoked.reason(),
                    superseded: true,
                }));
            };
            if let Some(token) = record.remember_token.take() {
                remember::note_use(app, &token, now).await?;
                update(req, &record)?;
            }
            note_login(req, &record.login_id);
            req.extensions_mut().insert(Appearance {
                locale: record.locale.clone(),
                theme: record.theme.clone(),
            });
            let last_activity = Timestamp::from_seconds(last_activity);
            Ok(Ok(BrowserSession {
                record,
                last_activity,
            }))
        }
    }
}

/// Changes what the request's session knows, under the same id.
///
/// # Errors
/// When the session cannot be written.
pub fn update(req: &HttpRequest, record: &Record) -> Result<(), AppError> {
    TypedSession(req.get_session())
        .update(record)
        .map_err(|error| AppError::Internal(error.to_string()))
}

/// Makes this the session of `record`, under a new id.
///
/// # Errors
/// When the session cannot be written.
pub fn begin(req: &HttpRequest, record: &Record) -> Result<(), AppError> {
    note_login(req, &record.login_id);
    let internal = |error: &dyn std::fmt::Display| AppError::Internal(error.to_string());
    TypedSession(req.get_session())
        .begin(record)
        .map_err(|error| internal(&error))?;
    Identity::login(&req.extensions(), record.user_id.clone()).map_err(|error| internal(&error))?;
    Ok(())
}
