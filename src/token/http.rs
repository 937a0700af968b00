//! `/api/v1/auth/…`: logging in, refreshing and logging out by API.

use std::pin::Pin;

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, web};
use jsonwebtoken::jwk::JwkSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Pair, PairOut};
use crate::account::Role;
use crate::app::App;
use crate::audit::Actor;
use crate::caller::scope::SessionsWrite;
use crate::caller::{Caller, Presented};
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::login::rotation::{self, Purpose, TokenId};
use crate::login::{self, Cause, Login};
use crate::openapi::{Input, Operation, Output, schema};
use crate::session::extract::app_of;
use crate::token::jwt::{Claims, PUBLIC_FOR};
use crate::token::personal::memory::{self, Known};
use crate::token::refresh::{self, Carried, Delivery, deliver};
use crate::web::answer::Outgoing;
use crate::web::input::{self, Check, Json, OptionalJson};
use crate::web::{Success, origin, success};

/// Who logs in, by `username` or by `email`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Login", extend("anyOf" = [
    {"required": ["username"]}, {"required": ["email"]},
]))]
pub struct TokenRequest {
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::required::<254>", example = &"ada")]
    username: Option<String>,
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::required::<254>", example = &"ada@example.org")]
    email: Option<String>,
    #[schemars(schema_with = "schema::password")]
    password: String,
    /// Shown in the list of logins.
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::text::<100>", example = &"my laptop")]
    device_name: Option<String>,
    /// How the refresh token comes: `cookie` for pages, which then cannot read it.
    #[serde(default)]
    refresh_token_delivery: Delivery,
}

impl Check for TokenRequest {
    fn check(&self, errors: &mut FieldErrors) {
        if self.username.is_none() && self.email.is_none() {
            errors.add("username", "This field is required, or `email` instead.");
        }
        for (field, name) in [("username", &self.username), ("email", &self.email)] {
            if let Some(name) = name {
                input::check_required(errors, field, name, 254);
            }
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
) -> Result<Success<PairOut>, AppError> {
    let asked = body.0;
    app.misleading.look(&req, &app);
    let client = origin::client(&req, &app.config, asked.device_name.as_deref());
    let name = asked.username.or(asked.email).unwrap_or_default();
    let logged_in = super::log_in(&app, &name, &asked.password, client, |_, _, _| Ok(()));
    let (pair, (), now) = logged_in.await?;
    let data = deliver(&req, &app, &pair, asked.refresh_token_delivery, now);
    Ok(success("Logged in.", data))
}

/// A body that may carry a refresh token.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "Refresh")]
pub struct RefreshRequest {
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::required::<4096>", example = &"q3oJ0d7VZbUu…")]
    refresh_token: Option<String>,
}

/// The refresh token that a request may present: in the body, a header, or, from our own origin, the
/// cookie; in that order.
pub struct Shown(RefreshRequest);

impl FromRequest for Shown {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = OptionalJson::from_request(req, payload);
        Box::pin(async move { body.await.map(|body| Self(body.0)) })
    }
}

impl Input for Shown {
    fn describe(operation: &mut Operation) {
        OptionalJson::<RefreshRequest>::describe(operation);
        let places = [
            (
                "header",
                "X-Refresh-Token",
                "The refresh token, where the body has none.",
            ),
            (
                "cookie",
                "refresh_token",
                "The refresh token, where a cookie carries it.",
            ),
        ];
        for (place, name, description) in places {
            operation.parameter(place, name, description, json!({"type": "string"}));
        }
        operation.fails(&[Code::RefreshMissing, Code::RefreshInvalid, Code::CsrfFailed]);
    }
}

impl Shown {
    fn carried(self, req: &HttpRequest, app: &App) -> Result<Carried, AppError> {
        if let Some(text) = self.0.refresh_token {
            let delivery = Delivery::Body;
            return Ok(Carried { text, delivery });
        }
        Carried::beside(req, app)?.ok_or_else(|| Code::RefreshMissing.into())
    }
}

impl Check for RefreshRequest {
    fn check(&self, errors: &mut FieldErrors) {
        if let Some(token) = &self.refresh_token {
            input::check_required(errors, "refresh_token", token, 4096);
        }
    }
}

/// `POST /api/v1/auth/refresh`.
pub async fn refresh(
    req: HttpRequest,
    app: web::Data<App>,
    shown: Shown,
) -> Result<Success<PairOut>, AppError> {
    let carried = shown.carried(&req, &app)?;
    let now = app.clock.now();
    let pair = refresh::exchange(&req, &app, &carried.text, None, now).await?;
    let data = deliver(&req, &app, &pair, carried.delivery, now);
    Ok(success("Refreshed.", data))
}

/// A pair that may be the one that was shown.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RefreshedPair")]
pub struct RefreshedOut {
    #[serde(flatten)]
    pair: PairOut,
    /// Whether it is a new one.
    refreshed: bool,
}

/// `POST /api/v1/auth/auto-refresh`: as [`refresh()`], but a pair whose access token has long to go
/// comes back as it is.
pub async fn auto_refresh(
    req: HttpRequest,
    app: web::Data<App>,
    bearer: Presented,
    shown: Shown,
) -> Result<Success<RefreshedOut>, AppError> {
    let carried = shown.carried(&req, &app)?;
    let now = app.clock.now();
    if let Presented::Good(claims) = &bearer
        && now.until(claims.expires_at()) > app.config.clocks.refresh_threshold
        && let Some(pair) = as_it_is(&req, &app, &carried, claims, now).await?
    {
        let refreshed = false;
        return Ok(success(
            "The tokens are good.",
            RefreshedOut { pair, refreshed },
        ));
    }
    let of_login = bearer.claims().map(|claims| claims.sid.as_str());
    let pair = refresh::exchange(&req, &app, &carried.text, of_login, now).await?;
    let pair = deliver(&req, &app, &pair, carried.delivery, now);
    let refreshed = true;
    Ok(success("Refreshed.", RefreshedOut { pair, refreshed }))
}

/// The presented pair, if its refresh token is the login's newest.
async fn as_it_is(
    req: &HttpRequest,
    app: &App,
    carried: &Carried,
    claims: &Claims,
    now: Timestamp,
) -> Result<Option<PairOut>, AppError> {
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
        login_id: login.id,
        access_token,
        access_expires_at: claims.expires_at(),
        refresh_token: token.to_token(&app.secrets),
        refresh_expires_at: expires_at,
        user,
    };
    Ok(Some(pair.out(carried.delivery == Delivery::Body, now)))
}

/// An access token that may log out: one that has expired may yet name the login, none at all leaves
/// that to the refresh token.
pub struct Leaving(pub Presented);

impl FromRequest for Leaving {
    type Error = AppError;
    type Future = std::future::Ready<Result<Self, AppError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let presented = Presented::read(req, &app_of(req));
        std::future::ready(presented.and_then(|presented| match presented {
            // A personal token belongs to no login that it could end.
            Presented::Personal(_) => Err(Code::Forbidden.into()),
            Presented::Invalid | Presented::Revoked(_) => Err(presented.refusal()),
            Presented::Good(_) | Presented::Expired(_) | Presented::Nothing => Ok(Self(presented)),
        }))
    }
}

impl Input for Leaving {
    fn describe(operation: &mut Operation) {
        operation.security = vec![json!({"accessToken": []})];
        operation.fails(&Presented::REFUSALS);
        operation.fails(&[Code::Forbidden]);
    }
}

/// `POST /api/v1/auth/logout`.
pub async fn logout(
    req: HttpRequest,
    app: web::Data<App>,
    Leaving(bearer): Leaving,
    shown: Shown,
) -> Result<Success<()>, AppError> {
    end(&req, &app, bearer, shown).await?;
    Ok(logged_out(&req, &app))
}

/// Ends the login of the request's access token, or of its refresh token once that has expired.
///
/// # Errors
/// 401 where the request names no login. One that has ended stays as it was: who says it twice has
/// logged out.
pub async fn end(
    req: &HttpRequest,
    app: &App,
    bearer: Presented,
    shown: Shown,
) -> Result<(), AppError> {
    let now = app.clock.now();
    let login = match &bearer {
        Presented::Good(claims) => {
            let sid = claims.sid.clone();
            let login = app.db.read(move |conn| login::by_id(conn, &sid)).await?;
            login.ok_or(Code::TokenRevoked)?
        }
        _ => {
            let token = match shown.carried(req, app) {
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
fn logged_out(req: &HttpRequest, app: &App) -> Success<()> {
    refresh::clear_cookie(req, app);
    let clear = HeaderValue::from_static("\"cache\", \"storage\"");
    Outgoing::set_header(req, "clear-site-data", clear);
    success("Logged out.", ())
}

/// `POST /api/v1/auth/logout-all`: ends every login of the caller, this one too.
pub async fn logout_all(
    req: HttpRequest,
    app: web::Data<App>,
    caller: Caller<SessionsWrite>,
) -> Result<Success<()>, AppError> {
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
pub async fn token_status(
    app: web::Data<App>,
    presented: Presented,
) -> Result<Success<StatusOut>, AppError> {
    let now = app.clock.now();
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
        status.out(&app, reason, now),
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

    fn out(self, app: &App, reason: Option<Code>, now: Timestamp) -> StatusOut {
        let near = now.until(self.expires_at) <= app.config.clocks.refresh_threshold;
        StatusOut {
            valid: reason.is_none(),
            needs_refresh: self.refreshes && (reason.is_some() || near),
            // In whole seconds as `expires_in` counts them, so that the two agree.
            time_until_expiry: (self.expires_at.seconds() - now.seconds()).max(0),
            expires_at: self.expires_at,
            username: self.username,
            role: self.role,
            reason: reason.map(Code::name),
        }
    }
}

/// What a token is worth right now.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TokenStatus")]
pub struct StatusOut {
    valid: bool,
    /// It is over or about to be, and a refresh token would give another.
    needs_refresh: bool,
    /// In seconds.
    #[schemars(example = 1640)]
    time_until_expiry: i64,
    expires_at: Timestamp,
    #[schemars(example = &"ada")]
    username: String,
    #[schemars(with = "Role")]
    role: String,
    /// Why it is not valid: a `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"token_expired")]
    reason: Option<&'static str>,
}

/// A set of public keys (RFC 7517), which others may keep for a while.
pub struct PublicKeys(JwkSet);

impl Responder for PublicKeys {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let caching = format!("public, max-age={}", PUBLIC_FOR.as_secs());
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, PublicKeys::KIND))
            .insert_header((CACHE_CONTROL, caching))
            .json(self.0)
    }
}

impl PublicKeys {
    const KIND: &str = "application/jwk-set+json";
}

impl Output for PublicKeys {
    fn describe(operation: &mut Operation) {
        let text = json!({"type": "string"});
        let key = json!({
            "type": "object",
            "required": ["kty", "kid", "alg", "use"],
            "properties": {
                "kty": {"enum": ["RSA", "EC", "OKP"]},
                "kid": text, "alg": {"enum": ["RS256", "ES256", "EdDSA"]}, "use": {"const": "sig"},
                "n": text, "e": text, "crv": text, "x": text, "y": text,
            },
        });
        let schema = json!({
            "type": "object",
            "required": ["keys"],
            "properties": {"keys": {"type": "array", "items": key}},
        });
        operation.answers(200, Self::KIND, schema);
    }
}

/// `GET /.well-known/jwks.json`: the keys to verify access tokens with (RFC 7517); none under HS256,
/// whose key is a secret.
pub async fn jwks(app: web::Data<App>) -> PublicKeys {
    PublicKeys(app.jwt.public_keys(app.clock.now()))
}
