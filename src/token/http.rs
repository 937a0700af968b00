//! `/api/v1/auth/…`: logging in, refreshing and logging out by API.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::Pair;
use crate::app::App;
use crate::audit::Actor;
use crate::caller::scope::SessionsWrite;
use crate::caller::{Caller, Presented};
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::login::rotation::{self, Purpose, TokenId};
use crate::login::{self, Cause, Login, sign_in};
use crate::token::jwt::{Claims, PUBLIC_FOR};
use crate::token::personal::memory::{self, Known};
use crate::token::refresh::{self, Carried, Delivery, deliver};
use crate::web::answer::Outgoing;
use crate::web::input::{self, Check, Json};
use crate::web::{origin, success};

/// Body of `POST /api/v1/auth/token`.
#[derive(Deserialize)]
pub struct TokenRequest {
    username: Option<String>,
    email: Option<String>,
    password: String,
    device_name: Option<String>,
    #[serde(default)]
    refresh_token_delivery: Delivery,
}

impl Check for TokenRequest {
    fn check(&self, errors: &mut FieldErrors) {
        match (&self.username, &self.email) {
            (Some(username), _) => input::check_required(errors, "username", username, 254),
            (None, Some(email)) => input::check_required(errors, "email", email, 254),
            (None, None) => errors.add("username", "This field is required, or `email` instead."),
        }
        input::check_password(errors, "password", &self.password);
        if let Some(name) = &self.device_name {
            input::check_text(errors, "device_name", name, 100);
        }
    }
}

/// `POST /api/v1/auth/token`.
pub async fn token(
    req: HttpRequest,
    app: web::Data<App>,
    body: Json<TokenRequest>,
) -> Result<HttpResponse, AppError> {
    let asked = body.0;
    let client = origin::client(&req, &app.config, asked.device_name.as_deref());
    let name = asked.username.or(asked.email).unwrap_or_default();
    let user = sign_in::authenticate(&app, &name, &asked.password, &client).await?;
    let now = app.clock.now();
    let (pair, ()) = super::open(&app, user, client, now, |_, _, _| Ok(())).await?;
    let data = deliver(&req, &app, &pair, asked.refresh_token_delivery, now);
    Ok(success("Logged in.", data))
}

/// A body that may carry a refresh token.
#[derive(Default, Deserialize)]
pub struct RefreshRequest {
    refresh_token: Option<String>,
}

impl Check for RefreshRequest {
    fn check(&self, errors: &mut FieldErrors) {
        if let Some(token) = &self.refresh_token {
            input::check_required(errors, "refresh_token", token, 4096);
        }
    }
}

/// The refresh token that a request presents: in the body, a header, or, from our own origin, the
/// cookie; in that order.
async fn presented(
    req: &HttpRequest,
    app: &App,
    payload: web::Payload,
) -> Result<Carried, AppError> {
    let body: RefreshRequest = input::optional_json(req, &mut payload.into_inner()).await?;
    if let Some(text) = body.refresh_token {
        let delivery = Delivery::Body;
        return Ok(Carried { text, delivery });
    }
    Carried::beside(req, app)?.ok_or_else(|| Code::RefreshMissing.into())
}

/// `POST /api/v1/auth/refresh`.
pub async fn refresh(
    req: HttpRequest,
    app: web::Data<App>,
    payload: web::Payload,
) -> Result<HttpResponse, AppError> {
    let carried = presented(&req, &app, payload).await?;
    let now = app.clock.now();
    let pair = refresh::exchange(&req, &app, &carried.text, None, now).await?;
    let data = deliver(&req, &app, &pair, carried.delivery, now);
    Ok(success("Refreshed.", data))
}

/// `POST /api/v1/auth/auto-refresh`: as [`refresh()`], but a pair whose access token has long to go
/// comes back as it is.
pub async fn auto_refresh(
    req: HttpRequest,
    app: web::Data<App>,
    payload: web::Payload,
) -> Result<HttpResponse, AppError> {
    let carried = presented(&req, &app, payload).await?;
    let now = app.clock.now();
    let shown = Presented::read(&req, &app)?;
    if let Presented::Good(claims) = &shown
        && now.until(claims.expires_at()) > app.config.clocks.refresh_threshold
        && let Some(data) = as_it_is(&req, &app, &carried, claims, now).await?
    {
        return Ok(success("The tokens are good.", data));
    }
    let of_login = shown.claims().map(|claims| claims.sid.as_str());
    let pair = refresh::exchange(&req, &app, &carried.text, of_login, now).await?;
    let mut data = deliver(&req, &app, &pair, carried.delivery, now);
    data["refreshed"] = json!(true);
    Ok(success("Refreshed.", data))
}

/// The presented pair, if its refresh token is the login's newest.
async fn as_it_is(
    req: &HttpRequest,
    app: &App,
    carried: &Carried,
    claims: &Claims,
    now: Timestamp,
) -> Result<Option<serde_json::Value>, AppError> {
    let token =
        TokenId::read(&app.secrets, Purpose::Refresh, &carried.text).ok_or(Code::RefreshInvalid)?;
    let found = app.db.read(move |conn| rotation::live(conn, &token, now));
    let Some((login, user, expires_at)) = found.await? else {
        return Ok(None);
    };
    if login.id != claims.sid {
        return Err(Code::TokenMismatch.into());
    }
    let access_token = origin::bearer(req).unwrap_or_default().to_owned();
    let pair = Pair {
        access_token,
        access_expires_at: claims.expires_at(),
        refresh_token: token.to_token(&app.secrets),
        refresh_expires_at: expires_at,
        user,
    };
    let mut data = pair.to_json(carried.delivery == Delivery::Body, now);
    data["refreshed"] = json!(false);
    Ok(Some(data))
}

/// `POST /api/v1/auth/logout`.
pub async fn logout(
    req: HttpRequest,
    app: web::Data<App>,
    payload: web::Payload,
) -> Result<HttpResponse, AppError> {
    end(&req, &app, payload).await?;
    Ok(logged_out(&req, &app))
}

/// Ends the login of the request's access token, or of its refresh token once that has expired.
///
/// # Errors
/// 401 where the request names no login that lives, 403 for a personal token.
pub async fn end(req: &HttpRequest, app: &App, payload: web::Payload) -> Result<(), AppError> {
    let now = app.clock.now();
    let bearer = Presented::read(req, app)?;
    let login = match &bearer {
        Presented::Good(claims) => {
            let sid = claims.sid.clone();
            let login = app.db.read(move |conn| login::by_id(conn, &sid)).await?;
            login.ok_or(Code::TokenRevoked)?
        }
        // A personal token belongs to no login that it could end.
        Presented::Personal(_) => return Err(Code::Forbidden.into()),
        Presented::Invalid | Presented::Revoked(_) => return Err(bearer.refusal()),
        Presented::Expired(_) | Presented::Nothing => {
            let token = match presented(req, app, payload).await {
                Err(AppError::Problem(Code::RefreshMissing)) => return Err(bearer.refusal()),
                carried => carried?.text,
            };
            let login = by_refresh_token(app, &token).await?;
            // Tokens of two logins never mix, also where only the one can still be used.
            if matches!(&bearer, Presented::Expired(claims) if claims.sid != login.id) {
                return Err(Code::TokenMismatch.into());
            }
            login
        }
    };
    let client = origin::client(req, &app.config, Some(&login.device));
    let ending = login.clone();
    app.db
        .write(move |conn| {
            let by = Actor::person(&ending.user_id, &client);
            login::end(conn, &ending, Cause::LoggedOut, Some(by), now)
        })
        .await?;
    app.announce(&login, Cause::LoggedOut);
    Ok(())
}

/// The answer to a logout, with which the browser forgets what it holds of the login.
fn logged_out(req: &HttpRequest, app: &App) -> HttpResponse {
    refresh::clear_cookie(req, app);
    let clear = HeaderValue::from_static("\"cache\", \"storage\"");
    Outgoing::set_header(req, "clear-site-data", clear);
    success("Logged out.", json!(null))
}

/// `POST /api/v1/auth/logout-all`: ends every login of the caller, this one too.
pub async fn logout_all(
    req: HttpRequest,
    app: web::Data<App>,
    caller: Caller<SessionsWrite>,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let user_id = caller.user_id().to_owned();
    let client = origin::client(&req, &app.config, None);
    let ended = app.db.write(move |conn| {
        let by = Actor::person(&user_id, &client);
        login::end_all_of(conn, &user_id, Cause::LoggedOut, None, Some(by), now)
    });
    for login in ended.await? {
        app.announce(&login, Cause::LoggedOut);
    }
    Ok(logged_out(&req, &app))
}

async fn by_refresh_token(app: &App, token: &str) -> Result<Login, AppError> {
    let token = TokenId::read(&app.secrets, Purpose::Refresh, token).ok_or(Code::RefreshInvalid)?;
    let login = app
        .db
        .read(move |conn| rotation::login_of(conn, &token))
        .await?;
    Ok(login.ok_or(Code::RefreshInvalid)?)
}

/// `GET /api/v1/auth/token-status`: of an access token or a personal token.
pub async fn token_status(req: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let presented = Presented::read(&req, &app)?;
    let (status, reason) = match &presented {
        Presented::Good(claims) => (Status::of_claims(claims), None),
        Presented::Expired(claims) => (Status::of_claims(claims), Some(Code::TokenExpired)),
        Presented::Revoked(claims) => (Status::of_claims(claims), Some(Code::TokenRevoked)),
        Presented::Personal(candidate) => {
            let reading = memory::read(&app, candidate, now).await?;
            let Some(known) = reading.known().cloned() else {
                return Err(presented.refusal());
            };
            (Status::of_personal(&known), reading.good().err())
        }
        Presented::Invalid | Presented::Nothing => return Err(presented.refusal()),
    };
    Ok(success(
        if reason.is_none() {
            "The token is valid."
        } else {
            "The token is not valid."
        },
        status.to_json(&app, reason, now),
    ))
}

/// What a token says of itself.
struct Status {
    username: String,
    role: String,
    expires_at: Timestamp,
    /// Whether a refresh token could give another.
    refreshes: bool,
}

impl Status {
    fn of_claims(claims: &Claims) -> Self {
        Self {
            username: claims.name.clone(),
            role: claims.role.clone(),
            expires_at: claims.expires_at(),
            refreshes: true,
        }
    }

    fn of_personal(known: &Known) -> Self {
        Self {
            username: known.user.username.clone(),
            role: known.user.role.clone(),
            expires_at: known.token.expires_at,
            refreshes: false,
        }
    }

    fn to_json(&self, app: &App, reason: Option<Code>, now: Timestamp) -> serde_json::Value {
        let near = now.until(self.expires_at) <= app.config.clocks.refresh_threshold;
        let mut status = json!({
            "valid": reason.is_none(),
            "needs_refresh": self.refreshes && (reason.is_some() || near),
            // In whole seconds as `expires_in` counts them, so that the two agree.
            "time_until_expiry": (self.expires_at.seconds() - now.seconds()).max(0),
            "expires_at": self.expires_at,
            "username": self.username,
            "role": self.role,
        });
        if let Some(reason) = reason {
            status["reason"] = json!(reason.name());
        }
        status
    }
}

/// `GET /.well-known/jwks.json`: the keys to verify access tokens with (RFC 7517); none under HS256,
/// whose key is a secret.
pub async fn jwks(app: web::Data<App>) -> HttpResponse {
    let keys = app.jwt.public_keys(app.clock.now());
    let caching = format!("public, max-age={}", PUBLIC_FOR.as_secs());
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/jwk-set+json"))
        .insert_header((CACHE_CONTROL, caching))
        .json(keys)
}
