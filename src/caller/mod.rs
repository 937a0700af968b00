//! Who is calling: one extractor settles it for every private route of the API and stops at the
//! first credential that answers. A good JWT costs no I/O, and nothing else of the request is read.

pub mod admin;
pub mod scope;
pub mod step_up;

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use actix_web::{FromRequest, HttpRequest};
use serde_json::json;

use self::scope::{Permission, Scope, Verify};
use crate::app::App;
use crate::clock::Timestamp;
use crate::error::{AppError, Code};
use crate::openapi::{Input, Operation};
use crate::session::csrf;
use crate::session::extract::{BrowserSession, app_of, living, look};
use crate::token::jwt::{Claims, Reading};
use crate::token::personal::Candidate;
use crate::token::personal::memory::{self, Known};
use crate::token::refresh::{self, Carried};
use crate::web::answer::Outgoing;
use crate::web::origin;

/// Where a personal token may stand beside a JWT; the first that is there is read.
pub const PERSONAL_TOKEN_HEADERS: [&str; 2] = ["x-sanctum-token", "x-personal-token"];

/// A caller with a good access token.
pub struct Bearer {
    pub claims: Arc<Claims>,
}

/// What a caller is known by.
pub enum Credential {
    Bearer(Bearer),
    Personal(Arc<Known>),
    Session(Box<BrowserSession>),
}

/// Whoever may call a private route of the API; `P` says what the route asks of a personal token.
pub struct Caller<P> {
    pub credential: Credential,
    permission: PhantomData<P>,
}

impl<P> Caller<P> {
    /// The caller's user id.
    pub fn user_id(&self) -> &str {
        match &self.credential {
            Credential::Bearer(bearer) => &bearer.claims.sub,
            Credential::Personal(known) => &known.user.id,
            Credential::Session(session) => &session.record.user_id,
        }
    }

    /// The login that the caller's credential belongs to, if it belongs to one.
    pub fn login_id(&self) -> Option<&str> {
        match &self.credential {
            Credential::Bearer(bearer) => Some(&bearer.claims.sid),
            Credential::Personal(known) => known.token.login_id.as_deref(),
            Credential::Session(session) => Some(&session.record.login_id),
        }
    }

    /// Whether nobody signed in for it: a personal token may do less than its person.
    pub const fn is_personal_token(&self) -> bool {
        !matches!(
            self.credential,
            Credential::Bearer(_) | Credential::Session(_)
        )
    }

    /// Whether the password that let it in was generated or is temporary. A personal token that lasts
    /// cannot be made with such a one, and was made before.
    fn must_change_password(&self) -> bool {
        match &self.credential {
            Credential::Bearer(bearer) => bearer.claims.must_change_password,
            Credential::Personal(known) => {
                known.token.login_id.is_some() && known.user.must_change_password
            }
            Credential::Session(session) => session.record.must_change_password,
        }
    }

    /// `X-Auth-Method`: which credential it was.
    fn tell_method(&self, req: &HttpRequest) {
        let method = match &self.credential {
            Credential::Bearer(_) => "jwt",
            Credential::Personal(_) => "personal-token",
            Credential::Session(_) => "session",
        };
        Outgoing::set_header(req, "x-auth-method", HeaderValue::from_static(method));
    }
}

impl<P: Permission> Caller<P> {
    /// A personal token may do what its scopes say, and never what no token may.
    fn check_scope(&self) -> Result<(), AppError> {
        match (&self.credential, P::SCOPE) {
            (Credential::Personal(_), None) => Err(Code::Forbidden.into()),
            (Credential::Personal(known), Some(scope)) if !known.scopes.allow(scope) => {
                Err(AppError::ScopeMissing(scope.name()))
            }
            _ => Ok(()),
        }
    }
}

/// What stands behind `Authorization: Bearer`, whatever its worth.
pub enum Presented {
    Good(Arc<Claims>),
    /// Genuine, but its time is over.
    Expired(Arc<Claims>),
    /// Genuine, but its login has ended.
    Revoked(Arc<Claims>),
    /// What may be a personal token.
    Personal(Candidate),
    Invalid,
    /// No such header.
    Nothing,
}

impl Presented {
    /// What [`Presented::refusal`] may be.
    pub const REFUSALS: [Code; 4] = [
        Code::TokenMissing,
        Code::TokenInvalid,
        Code::TokenExpired,
        Code::TokenRevoked,
    ];

    /// Reads the header, without I/O.
    ///
    /// # Errors
    /// 503 when this node has had no news of ended logins, or of the key, for too long.
    pub fn read(req: &HttpRequest, app: &App) -> Result<Self, AppError> {
        if !req.headers().contains_key(AUTHORIZATION) {
            return Ok(Self::Nothing);
        }
        let Some(token) = origin::bearer(req) else {
            return Ok(Self::Invalid);
        };
        if Candidate::is_meant(token) {
            let candidate = Candidate::read(&app.secrets, token);
            return Ok(candidate.map_or(Self::Invalid, Self::Personal));
        }
        Ok(match app.jwt.read(token, app.clock.now()) {
            Reading::Invalid => Self::Invalid,
            Reading::Unsure => {
                return Err(AppError::Unavailable("no news of signing keys".to_owned()));
            }
            Reading::Expired(claims) => Self::Expired(claims),
            Reading::Good(claims) => match app.ended.cause_of_any([&claims.sid, &claims.jti])? {
                Some(_) => Self::Revoked(claims),
                None => Self::Good(claims),
            },
        })
    }

    /// The claims of a good token, or why it is none.
    ///
    /// # Errors
    /// 401 with the code that fits.
    pub fn good(self) -> Result<Bearer, AppError> {
        match self {
            Self::Good(claims) => Ok(Bearer { claims }),
            other => Err(other.refusal()),
        }
    }

    /// What a genuine JWT says, good or not.
    pub fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Good(claims) | Self::Expired(claims) | Self::Revoked(claims) => Some(claims),
            Self::Personal(_) | Self::Invalid | Self::Nothing => None,
        }
    }

    /// What is told to a caller who has nothing better than this.
    pub fn refusal(&self) -> AppError {
        let code = match self {
            Self::Expired(_) => Code::TokenExpired,
            Self::Revoked(_) => Code::TokenRevoked,
            Self::Good(_) | Self::Personal(_) | Self::Invalid => Code::TokenInvalid,
            Self::Nothing => Code::TokenMissing,
        };
        code.into()
    }
}

impl FromRequest for Presented {
    type Error = AppError;
    type Future = std::future::Ready<Result<Self, AppError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(Self::read(req, &app_of(req)))
    }
}

impl Input for Presented {
    fn describe(operation: &mut Operation) {
        operation.security = vec![json!({"accessToken": []}), json!({"personalToken": []})];
        operation.fails(&Self::REFUSALS);
    }
}

impl FromRequest for Bearer {
    type Error = AppError;
    type Future = std::future::Ready<Result<Self, AppError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let app = app_of(req);
        std::future::ready(Presented::read(req, &app).and_then(Presented::good))
    }
}

impl<P: Permission> FromRequest for Caller<P> {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let (req, app) = (req.clone(), app_of(req));
        Box::pin(async move {
            let caller = Self {
                credential: settle(&req, &app, SessionFrom::OwnOrigin).await?,
                permission: PhantomData,
            };
            caller.tell_method(&req);
            if caller.must_change_password() && !P::BEFORE_CHANGE {
                return Err(AppError::PasswordMustChange);
            }
            caller.check_scope()?;
            Ok(caller)
        })
    }
}

impl<P: Permission> Input for Caller<P> {
    fn describe(operation: &mut Operation) {
        describe(operation, P::SCOPE);
        let from_elsewhere = [Code::CsrfFailed, Code::SessionExpired];
        operation.fails(&from_elsewhere);
    }
}

/// What any private route takes of whoever calls.
fn describe(operation: &mut Operation, scope: Option<Scope>) {
    operation.security = vec![json!({"accessToken": []})];
    if let Some(scope) = scope {
        for place in ["personalToken", "personalTokenHeader"] {
            operation.security.push(json!({place: [scope.name()]}));
        }
        operation.fails(&[Code::InsufficientScope]);
    }
    operation.fails(&[Code::Forbidden]);
    operation.security.push(match operation.changes {
        true => json!({"session": [], "formToken": []}),
        false => json!({"session": []}),
    });
    operation.parameter(
        "header",
        "X-Refresh-Token",
        "Of the same login as the access token: once that is expired or about to, the answer brings a new pair.",
        json!({"type": "string"}),
    );
    operation.headers.extend([
        "X-Auth-Method",
        "X-Token-Refreshed",
        "X-New-Access-Token",
        "X-New-Refresh-Token",
    ]);
    operation.fails(&Presented::REFUSALS);
    operation.fails(&[
        Code::TokenMismatch,
        Code::RefreshInvalid,
        Code::RefreshExpired,
        Code::RefreshReused,
        Code::SessionMissing,
        Code::AccountDisabled,
        Code::RateLimited,
    ]);
}

/// Whoever a proxy asks about. As [`Caller`], but the session cookie counts wherever the page that
/// made the browser send it came from, and a session that is over is one that there is not.
pub struct Visitor {
    pub credential: Credential,
}

impl FromRequest for Visitor {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let (req, app) = (req.clone(), app_of(req));
        Box::pin(async move {
            let credential = match settle(&req, &app, SessionFrom::Anywhere).await {
                Err(AppError::SessionOver(_)) => Err(Code::SessionMissing.into()),
                credential => credential,
            };
            let caller = Caller::<Verify> {
                credential: credential?,
                permission: PhantomData,
            };
            caller.tell_method(&req);
            if caller.must_change_password() {
                return Err(Code::TokenInvalid.into());
            }
            caller.check_scope()?;
            Ok(Self {
                credential: caller.credential,
            })
        })
    }
}

impl Input for Visitor {
    fn describe(operation: &mut Operation) {
        describe(operation, Verify::SCOPE);
    }
}

/// Which requests a session cookie serves.
#[derive(Clone, Copy, PartialEq)]
enum SessionFrom {
    OwnOrigin,
    /// Any that a browser sends, as a proxy passes it on.
    Anywhere,
}

/// The first credential of the request that answers. What is seldom done is on the heap, or every request
/// would carry the room for it along.
async fn settle(req: &HttpRequest, app: &App, from: SessionFrom) -> Result<Credential, AppError> {
    let now = app.clock.now();
    let bearer = Presented::read(req, app)?;
    let mut subject = bearer.claims().map(|claims| claims.sub.clone());
    let mut refusal = bearer.refusal();
    match bearer {
        Presented::Good(claims) => {
            let left = now.until(claims.expires_at());
            if left <= app.config.clocks.refresh_threshold {
                return Box::pin(renewed_early(req, app, claims, now)).await;
            }
            return Ok(Credential::Bearer(Bearer { claims }));
        }
        Presented::Expired(claims) => {
            if let Some(bearer) = Box::pin(renewed(req, app, &claims, now)).await? {
                return Ok(Credential::Bearer(bearer));
            }
        }
        Presented::Personal(candidate) => {
            let reading = memory::read(app, &candidate, now).await?;
            subject = reading.known().map(|known| known.user.id.clone());
            match reading.good() {
                Ok(known) => return Ok(served_by(known, req, app, now)),
                Err(code) => refusal = code.into(),
            }
        }
        Presented::Nothing => match personal_token_header(req) {
            None if from == SessionFrom::Anywhere => {
                return Box::pin(passing_session(req, app, now)).await;
            }
            None => return session(req, app, now).await,
            Some(_) => refusal = Code::TokenInvalid.into(),
        },
        Presented::Revoked(_) | Presented::Invalid => {}
    }
    let beside = personal_token_header(req)
        .and_then(|text| Candidate::read(&app.secrets, text))
        .ok_or(refusal.clone())?;
    let alone = !req.headers().contains_key(AUTHORIZATION);
    match memory::read(app, &beside, now).await?.good() {
        Ok(known) if subject.is_some_and(|subject| subject != known.user.id) => {
            Err(Code::TokenMismatch.into())
        }
        Ok(known) => {
            if !alone {
                let (user, code) = (&known.user.id, refusal.code().name());
                tracing::info!(user, bearer = code, "served by the personal token instead");
            }
            Ok(served_by(known, req, app, now))
        }
        Err(code) if alone => Err(code.into()),
        // The bearer was read first.
        Err(_) => Err(refusal),
    }
}

/// Row 2: a good token that is near its end, renewed if a refresh token of its login is there.
async fn renewed_early(
    req: &HttpRequest,
    app: &App,
    claims: Arc<Claims>,
    now: Timestamp,
) -> Result<Credential, AppError> {
    match renewed(req, app, &claims, now).await {
        Ok(Some(bearer)) => return Ok(Credential::Bearer(bearer)),
        Ok(None) => {}
        // The login has just ended, and what is left of the access token with it.
        Err(error @ AppError::Problem(Code::RefreshReused)) => return Err(error),
        Err(error) => {
            let (user, code) = (&claims.sub, error.code().name());
            tracing::debug!(user, code, "served without renewing the tokens");
        }
    }
    Ok(Credential::Bearer(Bearer { claims }))
}

/// The bearer of a new token, if the request carries a refresh token of the login of `claims` that
/// is good for one; the new pair goes along with the answer. A token that is good for nothing is as
/// good as none.
async fn renewed(
    req: &HttpRequest,
    app: &App,
    claims: &Claims,
    now: Timestamp,
) -> Result<Option<Bearer>, AppError> {
    // A cookie that another site had the browser send counts for nothing.
    let Some(carried) = Carried::beside(req, app).unwrap_or(None) else {
        return Ok(None);
    };
    let exchanged = refresh::exchange(req, app, &carried.text, Some(&claims.sid), now).await;
    let pair = match exchanged {
        Err(AppError::Problem(Code::RefreshInvalid | Code::RefreshExpired)) => return Ok(None),
        pair => pair?,
    };
    let Reading::Good(claims) = app.jwt.read(pair.access_token(), now) else {
        return Err(AppError::Internal("a new token is not good".to_owned()));
    };
    refresh::send_along(req, app, &pair, carried.delivery, now)?;
    Ok(Some(Bearer { claims }))
}

fn personal_token_header(req: &HttpRequest) -> Option<&str> {
    let mut names = PERSONAL_TOKEN_HEADERS.into_iter();
    let name = names.find(|name| req.headers().contains_key(*name))?;
    Some(origin::header(req, HeaderName::from_static(name)).unwrap_or_default())
}

fn served_by(known: Arc<Known>, req: &HttpRequest, app: &App, now: Timestamp) -> Credential {
    let ip = || origin::address(req, &app.config).to_string();
    memory::note_use(app, &known, ip, now);
    Credential::Personal(known)
}

/// The caller by session cookie.
async fn session(req: &HttpRequest, app: &App, now: Timestamp) -> Result<Credential, AppError> {
    let session = match living(req, app, now).await {
        Err(AppError::Problem(Code::SessionMissing)) => {
            return Err(Code::TokenMissing.into());
        }
        session => session?,
    };
    let changes = !matches!(*req.method(), Method::GET | Method::HEAD);
    origin::refuse_foreign(req, app).map_err(|error| match changes {
        true => error,
        // To another site's page this cookie is as good as none.
        false => Code::TokenMissing.into(),
    })?;
    if changes {
        csrf::check_session(req, app, &session.record, None)?;
    }
    Ok(Credential::Session(Box::new(session)))
}

/// The session of a request that a proxy asks about. Whoever still has to choose a password of their
/// own passes no gate.
async fn passing_session(
    req: &HttpRequest,
    app: &App,
    now: Timestamp,
) -> Result<Credential, AppError> {
    let mut session = match look(req, app, now).await {
        Err(AppError::Problem(Code::SessionMissing)) => return Err(Code::TokenMissing.into()),
        session => session?,
    };
    if session.record.must_change_password {
        return Err(Code::SessionMissing.into());
    }
    // A proxy may leave out what the browser said: nothing said is nothing that a person did.
    if origin::is_surely_opened_by_person(req) {
        session = session.touch(app, now, now).await?;
    }
    Ok(Credential::Session(Box::new(session)))
}
