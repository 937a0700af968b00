//! `GET /api/v1/verify`: a proxy asks of each request whether somebody may pass, and who it is
//! (nginx `auth_request`, Caddy `forward_auth`, Traefik `ForwardAuth`). The answer is 200 or 401,
//! never a redirect: where to send people is the proxy's business.

use actix_web::HttpRequest;
use actix_web::http::header::HeaderValue;

use crate::caller::{Credential, Visitor};
use crate::error::AppError;
use crate::web::answer::Outgoing;
use crate::web::{Success, success};

/// `GET /api/v1/verify`.
pub async fn verify(req: HttpRequest, visitor: Visitor) -> Result<Success<()>, AppError> {
    let who = match &visitor.credential {
        Credential::Bearer(bearer) => Who {
            id: &bearer.claims.sub,
            username: &bearer.claims.name,
            email: bearer.claims.email_verified.then_some(&bearer.claims.email),
            role: &bearer.claims.role,
        },
        Credential::Personal(known) => Who {
            id: &known.user.id,
            username: &known.user.username,
            email: known.user.email_verified.then_some(&known.user.email),
            role: &known.user.role,
        },
        Credential::Session(session) => Who {
            id: &session.record.user_id,
            username: &session.record.username,
            email: session
                .record
                .email_verified
                .then_some(&session.record.email),
            role: &session.record.role,
        },
    };
    who.send_along(&req)?;
    Ok(success("Somebody is signed in.", ()))
}

/// What the proxy is told.
struct Who<'a> {
    id: &'a str,
    username: &'a str,
    /// Only one that is known to be theirs.
    email: Option<&'a String>,
    role: &'a str,
}

impl Who<'_> {
    fn send_along(&self, req: &HttpRequest) -> Result<(), AppError> {
        let mut headers = vec![
            ("x-auth-user-id", self.id),
            ("x-auth-username", self.username),
            ("x-auth-role", self.role),
        ];
        headers.extend(self.email.map(|email| ("x-auth-email", email.as_str())));
        for (name, text) in headers {
            let value = HeaderValue::from_bytes(text.as_bytes())
                .map_err(|error| AppError::Internal(error.to_string()))?;
            Outgoing::set_header(req, name, value);
        }
        Ok(())
    }
}
