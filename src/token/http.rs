//! `/api/v1/auth/…`: logging in, refreshing and logging out by API.

use actix_web::cookie::{Cookie, SameSite, time};
use actix_web::http::header::HeaderName;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::Pair;
use crate::app::App;
use crate::caller::Presented;
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::figures::Figure;
use crate::login::rotation::{self, Purpose, Rotation, Rules, TokenId};
use crate::login::{self, Cause, Kind, Login, sign_in};
use crate::token::jwt::Claims;
use crate::web::answer::Outgoing;
use crate::web::input::{self, Check, Json};
use crate::web::{origin, success};

const REFRESH_COOKIE: &str = "refresh_token";

/// How a client wants to hold its refresh token.
#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Delivery {
    #[default]
    Body,
    Cookie,
}

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
    let clocks = &app.config.clocks;
    let (login_lifetime, refresh_lifetime) = (clocks.login_lifetime, clocks.refresh_token);
    let person = user.clone();
    let begun = app.db.write(move |conn| {
        let begun = login::begin(conn, &person, Kind::Api, &client, login_lifetime, now)?;
        let Some(login) = begun else {
            return Ok(None);
        };
        let (refresh, until) =
            rotation::begin(conn, &login, Purpose::Refresh, refresh_lifetime, now)?;
        Ok(Some((login, refresh, until)))
    });
    let (login, refresh, until) = begun.await?.ok_or(Code::InvalidCredentials)?;
    let pair = Pair::issue(&app, user, &login, refresh, until, now)?;
    Ok(deliver(
        &req,
        &app,
        &pair,
        asked.refresh_token_delivery,
        "Logged in.",
        now,
    ))
}

fn deliver(
    req: &HttpRequest,
    app: &App,
    pair: &Pair,
    delivery: Delivery,
    message: &str,
    now: Timestamp,
) -> HttpResponse {
    if delivery == Delivery::Cookie {
        let left = i64::try_from(now.until(pair.refresh_expires_at).as_secs()).unwrap_or(0);
        let cookie = refresh_cookie(app, pair.refresh_token.expose().to_owned());
        Outgoing::set_cookie(req, cookie.max_age(time::Duration::seconds(left)).finish());
    }
    success(message, pair.to_json(delivery == Delivery::Body, now))
}

fn refresh_cookie(app: &App, value: String) -> actix_web::cookie::CookieBuilder<'static> {
    Cookie::build(REFRESH_COOKIE, value)
        .path("/api")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(app.config.is_https())
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
) -> Result<(String, Delivery), AppError> {
    let body: RefreshRequest = input::optional_json(req, &mut payload.into_inner()).await?;
    if let Some(token) = body.refresh_token {
        return Ok((token, Delivery::Body));
    }
    if let Some(token) = origin::header(req, HeaderName::from_static("x-refresh-token")) {
        return Ok((token.to_owned(), Delivery::Body));
    }
    let cookie = req.cookie(REFRESH_COOKIE).ok_or(Code::RefreshMissing)?;
    origin::refuse_foreign(req, app)?;
    Ok((cookie.value().to_owned(), Delivery::Cookie))
}

/// `POST /api/v1/auth/refresh`.
pub async fn refresh(
    req: HttpRequest,
    app: web::Data<App>,
    payload: web::Payload,
) -> Result<HttpResponse, AppError> {
    let (token, delivery) = presented(&req, &app, payload).await?;
    let token = TokenId::read(&app.secrets, Purpose::Refresh, &token).ok_or_else(|| {
        app.figures.count(Figure::RefreshInvalid);
        Code::RefreshInvalid
    })?;
    let now = app.clock.now();
    let clocks = &app.config.clocks;
    let rules = Rules {
        grace: clocks.refresh_grace,
        lifetime: Some(clocks.refresh_token),
    };
    let client = origin::client(&req, &app.config, None);
    let rotation = app
        .db
        .write(move |conn| rotation::rotate(conn, token, rules, &client, now))
        .await?;
    super::count(&app.figures, &rotation);
    match rotation {
        Rotation::Fresh(next) | Rotation::Newest(next) | Rotation::Sibling(next) => {
            let pair = Pair::after(&app, next, now)?;
            Ok(deliver(&req, &app, &pair, delivery, "Refreshed.", now))
        }
        Rotation::Reused(login) => {
            tracing::warn!(
                user = login.user_id,
                "a rotated refresh token came back; its login was ended"
            );
            app.announce(&login, login.cause_of_end(now).unwrap_or(Cause::Theft));
            Err(Code::RefreshReused.into())
        }
        Rotation::Expired => Err(Code::RefreshExpired.into()),
        Rotation::Unknown => Err(Code::RefreshInvalid.into()),
    }
}

/// `POST /api/v1/auth/logout`: by access token, or by the refresh token once that has expired.
pub async fn logout(
    req: HttpRequest,
    app: web::Data<App>,
    payload: web::Payload,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let bearer = Presented::read(&req, &app)?;
    let login = match &bearer {
        Presented::Good(claims) => {
            let sid = claims.sid.clone();
            let login = app.db.read(move |conn| login::by_id(conn, &sid)).await?;
            login.ok_or(Code::TokenRevoked)?
        }
        Presented::Invalid | Presented::Revoked(_) => return Err(bearer.refusal()),
        Presented::Expired(_) | Presented::Nothing => {
            let token = match presented(&req, &app, payload).await {
                Err(AppError::Problem(Code::RefreshMissing)) => return Err(bearer.refusal()),
                token => token?.0,
            };
            let login = by_refresh_token(&app, &token).await?;
            // Tokens of two logins never mix, also where only the one can still be used.
            if matches!(&bearer, Presented::Expired(claims) if claims.sid != login.id) {
                return Err(Code::TokenMismatch.into());
            }
            login
        }
    };
    let client = origin::client(&req, &app.config, Some(&login.device));
    let ending = login.clone();
    app.db
        .write(move |conn| login::end(conn, &ending, Cause::LoggedOut, Some(&client), now))
        .await?;
    app.announce(&login, Cause::LoggedOut);
    let mut cookie = refresh_cookie(&app, String::new()).finish();
    cookie.make_removal();
    Outgoing::set_cookie(&req, cookie);
    let mut answer = success("Logged out.", json!(null));
    let clear = actix_web::http::header::HeaderValue::from_static("\"cache\", \"storage\"");
    answer
        .headers_mut()
        .insert(HeaderName::from_static("clear-site-data"), clear);
    Ok(answer)
}

async fn by_refresh_token(app: &App, token: &str) -> Result<Login, AppError> {
    let token = TokenId::read(&app.secrets, Purpose::Refresh, token).ok_or(Code::RefreshInvalid)?;
    let login = app
        .db
        .read(move |conn| rotation::login_of(conn, &token))
        .await?;
    Ok(login.ok_or(Code::RefreshInvalid)?)
}

/// `GET /api/v1/auth/token-status`.
pub async fn token_status(req: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let (claims, reason) = match Presented::read(&req, &app)? {
        Presented::Good(claims) => (claims, None),
        Presented::Expired(claims) => (claims, Some(Code::TokenExpired)),
        Presented::Revoked(claims) => (claims, Some(Code::TokenRevoked)),
        other => return Err(other.refusal()),
    };
    Ok(success(
        if reason.is_none() {
            "The token is valid."
        } else {
            "The token is not valid."
        },
        status(&app, &claims, reason, now),
    ))
}

fn status(app: &App, claims: &Claims, reason: Option<Code>, now: Timestamp) -> serde_json::Value {
    let left = now.until(claims.expires_at());
    let mut status = json!({
        "valid": reason.is_none(),
        "needs_refresh": reason.is_some() || left <= app.config.clocks.refresh_threshold,
        // In whole seconds as `expires_in` counts them, so that the two agree.
        "time_until_expiry": (claims.exp - now.seconds()).max(0),
        "expires_at": claims.expires_at(),
        "username": claims.name,
        "role": claims.role,
    });
    if let Some(reason) = reason {
        status["reason"] = json!(reason.name());
    }
    status
}
