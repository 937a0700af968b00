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
use actix_web::http::header::{AUTHORIZATION, HeaderValue};
use actix_web::{FromRequest, HttpRequest};

use self::scope::Permission;
use crate::app::App;
use crate::error::{AppError, Code};
use crate::session::csrf;
use crate::session::extract::{BrowserSession, app_of, living};
use crate::token::jwt::{Claims, Reading};
use crate::web::answer::Outgoing;
use crate::web::origin;

/// A caller with a good access token.
pub struct Bearer {
    pub claims: Arc<Claims>,
}

/// What a caller is known by.
pub enum Credential {
    Bearer(Bearer),
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
            Credential::Session(session) => &session.record.user_id,
        }
    }

    /// The login that the caller's credential belongs to, if it belongs to one.
    pub fn login_id(&self) -> Option<&str> {
        match &self.credential {
            Credential::Bearer(bearer) => Some(&bearer.claims.sid),
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

    /// `X-Auth-Method`: which credential it was.
    const fn method(&self) -> &'static str {
        match &self.credential {
            Credential::Bearer(_) => "jwt",
            Credential::Session(_) => "session",
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
    Invalid,
    /// No such header.
    Nothing,
}

impl Presented {
    /// Reads the header, without I/O.
    ///
    /// # Errors
    /// 503 when this node has had no news of ended logins for too long.
    pub fn read(req: &HttpRequest, app: &App) -> Result<Self, AppError> {
        if !req.headers().contains_key(AUTHORIZATION) {
            return Ok(Self::Nothing);
        }
        // The scheme's name is case-insensitive (RFC 9110, 11.1). Of two headers nobody knows which
        // one a proxy in front has looked at.
        let token = origin::header(req, AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token);
        let Some(token) = token else {
            return Ok(Self::Invalid);
        };
        Ok(match app.jwt.read(token, app.clock.now()) {
            Reading::Invalid => Self::Invalid,
            Reading::Expired(claims) => Self::Expired(claims),
            Reading::Good(claims) => match app.ended.cause(&claims.sid)? {
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

    /// What is told to a caller who has nothing better than this.
    pub fn refusal(&self) -> AppError {
        let code = match self {
            Self::Expired(_) => Code::TokenExpired,
            Self::Revoked(_) => Code::TokenRevoked,
            Self::Good(_) | Self::Invalid => Code::TokenInvalid,
            Self::Nothing => Code::TokenMissing,
        };
        code.into()
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
                credential: settle(&req, &app).await?,
                permission: PhantomData,
            };
            let method = HeaderValue::from_static(caller.method());
            Outgoing::set_header(&req, "x-auth-method", method);
            Ok(caller)
        })
    }
}

/// The first credential of the request that answers.
async fn settle(req: &HttpRequest, app: &App) -> Result<Credential, AppError> {
    let presented = Presented::read(req, app)?;
    if !matches!(presented, Presented::Nothing) {
        return presented.good().map(Credential::Bearer);
    }
    let session = match living(req, app, app.clock.now()).await {
        Err(AppError::Problem(Code::SessionMissing)) => {
            return Err(Code::TokenMissing.into());
        }
        session => session?,
    };
    origin::refuse_foreign(req, app)?;
    if !matches!(*req.method(), Method::GET | Method::HEAD) {
        csrf::check_session(req, app, &session.record, None)?;
    }
    Ok(Credential::Session(Box::new(session)))
}
