//! Administrators: naming one of these in a handler is the access check. The role is read from the
//! database on every request, so that who has just lost it can do nothing more with it.

use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use serde::de::DeserializeOwned;

use super::Caller;
use super::scope::Permission;
use super::step_up::SteppedUp;
use crate::account::{self, Role, User};
use crate::app::App;
use crate::error::{AppError, Code};
use crate::openapi::{Input, Operation};
use crate::session::extract::{BrowserSession, FormToken, SessionForm, app_of};
use crate::web::input::{Check, FormFields};

type Extracting<T> = Pin<Box<dyn Future<Output = Result<T, AppError>>>>;

/// The person with that id, if they are an administrator right now.
///
/// # Errors
/// 503 when the database cannot be asked.
pub async fn administrator(app: &App, user_id: &str) -> Result<Option<User>, AppError> {
    let id = user_id.to_owned();
    let user = app.db.read(move |conn| account::by_id(conn, &id)).await?;
    let admin = |user: &User| user.role == Role::Admin.name() && user.disabled_at.is_none();
    Ok(user.filter(admin))
}

async fn insist(app: &App, user_id: &str) -> Result<User, AppError> {
    let admin = administrator(app, user_id).await?;
    admin.ok_or_else(|| Code::Forbidden.into())
}

/// An administrator who calls the API; `P` says what the route asks of a personal token besides.
pub struct AdminCaller<P> {
    pub caller: Caller<P>,
    pub admin: User,
}

impl<P: Permission> FromRequest for AdminCaller<P> {
    type Error = AppError;
    type Future = Extracting<Self>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let caller = Caller::<P>::from_request(req, payload);
        let app = app_of(req);
        Box::pin(async move {
            let caller = caller.await?;
            let admin = insist(&app, caller.user_id()).await?;
            Ok(Self { caller, admin })
        })
    }
}

impl<P: Permission> Input for AdminCaller<P> {
    fn describe(operation: &mut Operation) {
        Caller::<P>::describe(operation);
        operation.fails(&[Code::Forbidden]);
    }
}

/// An administrator at a page.
pub struct AdminSession {
    pub session: BrowserSession,
    pub admin: User,
}

impl FromRequest for AdminSession {
    type Error = AppError;
    type Future = Extracting<Self>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let session = BrowserSession::from_request(req, payload);
        let app = app_of(req);
        Box::pin(async move {
            let session = session.await?;
            let admin = insist(&app, &session.record.user_id).await?;
            Ok(Self { session, admin })
        })
    }
}

/// A form that an administrator sent, whose password was given lately.
pub struct AdminForm<T> {
    pub session: BrowserSession,
    pub admin: User,
    pub form: T,
}

impl<T: DeserializeOwned + Check + FormToken + 'static> FromRequest for AdminForm<T> {
    type Error = AppError;
    type Future = Extracting<Self>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let sent = SessionForm::<FormFields>::from_request(req, payload);
        let (req, app) = (req.clone(), app_of(req));
        Box::pin(async move {
            let sent = sent.await?;
            // Before a password is asked for: it would not help.
            let admin = insist(&app, &sent.session.record.user_id).await?;
            if admin.must_change_password {
                return Err(AppError::PasswordMustChange);
            }
            let SteppedUp { session, form } = SteppedUp::of(&req, &app, sent).await?;
            Ok(Self {
                session,
                admin,
                form,
            })
        })
    }
}
