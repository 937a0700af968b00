//! What may be told to a caller. [`AppError`] is all a handler can fail with; [`respond`] turns it
//! into problem+json or a page, by the kind of route. Causes go to the log under the request id,
//! never into an answer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use crate::db::{DbError, is_unique_violation};
use crate::i18n::Lang;
use crate::keystore::KeystoreUnavailable;

/// The stable `code` of a problem: what a client may branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    MalformedRequest,
    InvalidCredentials,
    TokenMissing,
    TokenInvalid,
    TokenExpired,
    TokenRevoked,
    TokenMismatch,
    RefreshMissing,
    RefreshInvalid,
    RefreshExpired,
    RefreshReused,
    SessionMissing,
    CsrfFailed,
    Forbidden,
    InsufficientScope,
    ReauthenticationRequired,
    AccountDisabled,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
    SessionExpired,
    UpgradeRequired,
    RateLimited,
    HeadTooLarge,
    Internal,
    Unavailable,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 30] = [
        Self::MalformedRequest,
        Self::InvalidCredentials,
        Self::TokenMissing,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::TokenMismatch,
        Self::RefreshMissing,
        Self::RefreshInvalid,
        Self::RefreshExpired,
        Self::RefreshReused,
        Self::SessionMissing,
        Self::CsrfFailed,
        Self::Forbidden,
        Self::InsufficientScope,
        Self::ReauthenticationRequired,
        Self::AccountDisabled,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::ValidationFailed,
        Self::SessionExpired,
        Self::UpgradeRequired,
        Self::RateLimited,
        Self::HeadTooLarge,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The code as it is written, and its HTTP status.
    const fn parts(self) -> (&'static str, u16) {
        match self {
            Self::MalformedRequest => ("malformed_request", 400),
            Self::InvalidCredentials => ("invalid_credentials", 401),
            Self::TokenMissing => ("token_missing", 401),
            Self::TokenInvalid => ("token_invalid", 401),
            Self::TokenExpired => ("token_expired", 401),
            Self::TokenRevoked => ("token_revoked", 401),
            Self::TokenMismatch => ("token_mismatch", 401),
            Self::RefreshMissing => ("refresh_missing", 401),
            Self::RefreshInvalid => ("refresh_invalid", 401),
            Self::RefreshExpired => ("refresh_expired", 401),
            Self::RefreshReused => ("refresh_reused", 401),
            Self::SessionMissing => ("session_missing", 401),
            Self::CsrfFailed => ("csrf_failed", 403),
            Self::Forbidden => ("forbidden", 403),
            Self::InsufficientScope => ("insufficient_scope", 403),
            Self::ReauthenticationRequired => ("reauthentication_required", 403),
            Self::AccountDisabled => ("account_disabled", 403),
            Self::NotFound => ("not_found", 404),
            Self::MethodNotAllowed => ("method_not_allowed", 405),
            Self::RequestTimeout => ("request_timeout", 408),
            Self::Conflict => ("conflict", 409),
            Self::PayloadTooLarge => ("payload_too_large", 413),
            Self::UnsupportedMediaType => ("unsupported_media_type", 415),
            Self::ValidationFailed => ("validation_failed", 422),
            Self::SessionExpired => ("session_expired", 419),
            Self::UpgradeRequired => ("upgrade_required", 426),
            Self::RateLimited => ("rate_limited", 429),
            Self::HeadTooLarge => ("head_too_large", 431),
            Self::Internal => ("internal", 500),
            Self::Unavailable => ("unavailable", 503),
        }
    }

    /// As it stands in `code`.
    pub const fn name(self) -> &'static str {
        self.parts().0
    }

    /// The HTTP status it comes with.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.parts().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// Why a session is over: `reason` in a 419 and on the login page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Idle,
    Lifetime,
    Revoked,
    PasswordChanged,
    Theft,
    LoggedOut,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Lifetime,
        Self::Revoked,
        Self::PasswordChanged,
        Self::Theft,
        Self::LoggedOut,
    ];

    /// As it stands in `reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::Revoked => "revoked",
            Self::PasswordChanged => "password_changed",
            Self::Theft => "theft",
            Self::LoggedOut => "logged_out",
        }
    }

    /// The reason of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// What is wrong with which field: `errors` of a 422. Sentences in English, as the API speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(pub BTreeMap<String, Vec<String>>);

impl FieldErrors {
    /// One field, one sentence.
    pub fn one(field: impl Into<String>, sentence: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.add(field, sentence);
        errors
    }

    /// Adds a sentence about a field.
    pub fn add(&mut self, field: impl Into<String>, sentence: impl Into<String>) {
        self.0
            .entry(field.into())
            .or_default()
            .push(sentence.into());
    }
}

/// Everything a handler can fail with.
#[derive(Clone, Debug)]
pub enum AppError {
    /// Fully told by its code.
    Problem(Code),
    /// 419: the session of a genuine cookie is over.
    SessionOver(Reason),
    /// Anything but changing a password that was generated or is temporary: to its page, or 403.
    PasswordMustChange,
    /// The page that asks for the password in between: 403 `reauthentication_required`, or 429 where
    /// that was tried too often.
    PasswordAsked {
        html: String,
        retry_after: Option<Duration>,
    },
    /// 403 `insufficient_scope`: the personal token lacks this scope.
    ScopeMissing(&'static str),
    /// 422, naming the fields.
    Invalid(FieldErrors),
    /// 409, naming the fields that are taken, or what stands against it.
    Conflict(FieldErrors),
    /// 429.
    RateLimited { retry_after: Duration },
    /// 503: database or keystore cannot be asked right now. Never logs anybody out.
    Unavailable(String),
    /// 503: more at once than there is room for. Counted, and not in the log, which a flood would fill.
    Busy,
    /// 500: our own fault.
    Internal(String),
}

impl AppError {
    /// The problem's code.
    pub const fn code(&self) -> Code {
        match self {
            Self::Problem(code) => *code,
            Self::SessionOver(_) => Code::SessionExpired,
            Self::PasswordMustChange => Code::Forbidden,
            Self::PasswordAsked {
                retry_after: Some(_),
                ..
            } => Code::RateLimited,
            Self::PasswordAsked { .. } => Code::ReauthenticationRequired,
            Self::ScopeMissing(_) => Code::InsufficientScope,
            Self::Invalid(_) => Code::ValidationFailed,
            Self::Conflict(_) => Code::Conflict,
            Self::RateLimited { .. } => Code::RateLimited,
            Self::Unavailable(_) | Self::Busy => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// Seconds after which it makes sense to come back.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            // Rounded up: who comes back then is let in.
            Self::RateLimited { retry_after }
            | Self::PasswordAsked {
                retry_after: Some(retry_after),
                ..
            } => {
                let seconds = retry_after.as_millis().div_ceil(1000).max(1);
                Some(u64::try_from(seconds).unwrap_or(u64::MAX))
            }
            Self::Unavailable(_) | Self::Busy => Some(2),
            _ => None,
        }
    }

    /// `WWW-Authenticate` (RFC 6750, 3): a request without a token gets no error code.
    pub fn challenge(&self) -> Option<String> {
        const REALM: &str = "Bearer realm=\"gapura\"";
        match self {
            Self::ScopeMissing(scope) => Some(format!(
                "{REALM}, error=\"insufficient_scope\", scope=\"{scope}\""
            )),
            Self::Problem(
                Code::TokenInvalid | Code::TokenExpired | Code::TokenRevoked | Code::TokenMismatch,
            ) => Some(format!("{REALM}, error=\"invalid_token\"")),
            _ if self.code().status() == StatusCode::UNAUTHORIZED => Some(REALM.to_owned()),
            _ => None,
        }
    }

    /// What the log says: the cause, where the answer does not tell it.
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Unavailable(cause) | Self::Internal(cause) => Some(cause),
            _ => None,
        }
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::PasswordMustChange => Lang::English.text("password.must_change"),
            _ => Lang::English.text(&format!("error.{}.detail", self.code().name())),
        }
    }

    /// The body of the answer on a JSON route (RFC 9457).
    pub fn problem(&self, request_id: &str) -> serde_json::Value {
        let code = self.code();
        let name = code.name();
        let detail = self.detail();
        let mut problem = json!({
            "type": format!("urn:gapura:problem:{name}"),
            "title": Lang::English.text(&format!("error.{name}.title")),
            "status": code.status().as_u16(),
            "detail": detail,
            "message": detail,
            "code": name,
            "request_id": request_id,
        });
        match self {
            Self::SessionOver(reason) => problem["reason"] = json!(reason.name()),
            Self::Invalid(errors) | Self::Conflict(errors) => problem["errors"] = json!(errors.0),
            _ => {}
        }
        problem
    }

    /// The body of the answer in the older dialect of `/api/auth`. What a problem says beside its
    /// detail, which fields are wrong, stands in the message.
    pub fn envelope(&self) -> serde_json::Value {
        let name = self.code().name();
        let message = match self {
            Self::Invalid(FieldErrors(errors)) | Self::Conflict(FieldErrors(errors))
                if !errors.is_empty() =>
            {
                let fields = errors.iter();
                let told = fields.map(|(field, told)| format!("{field}: {}", told.join(" ")));
                told.collect::<Vec<_>>().join(" ")
            }
            _ => self.detail().into_owned(),
        };
        json!({"success": false, "error": {"code": name, "message": message}})
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code().name())
    }
}

impl ResponseError for AppError {
    fn status_code(&self) -> StatusCode {
        self.code().status()
    }

    /// A bare answer: `web::answer` dresses it as problem+json or as a page.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

impl From<Code> for AppError {
    fn from(code: Code) -> Self {
        Self::Problem(code)
    }
}

impl From<DbError> for AppError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(_) => Self::Unavailable(error.to_string()),
            DbError::Query(ref query) if is_unique_violation(query) => Code::Conflict.into(),
            DbError::Query(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<KeystoreUnavailable> for AppError {
    fn from(error: KeystoreUnavailable) -> Self {
        Self::Unavailable(error.to_string())
    }
}
