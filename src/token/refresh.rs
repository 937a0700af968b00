//! Refreshing a login by API: what a request carries of a refresh token, its exchange for a new
//! pair, and the pair's way back, in a body, in headers or in a cookie. The rules of rotation are
//! in [`crate::login::rotation`].

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, CookieBuilder, SameSite, time};
use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue, SET_COOKIE};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Pair, PairOut};
use crate::app::App;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{AppError, Code};
use crate::figures::Figure;
use crate::login::Client;
use crate::login::rotation::together::Presented;
use crate::login::rotation::{self, Purpose, Rotation, Rules, TokenId};
use crate::request::to_its_end;
use crate::web::answer::Outgoing;
use crate::web::origin;

/// Name of the cookie that holds a refresh token.
pub const COOKIE: &str = "refresh_token";
const HEADER: HeaderName = HeaderName::from_static("x-refresh-token");

/// How a client holds its refresh token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Delivery {
    /// As it likes: it reads the token from bodies and headers.
    #[default]
    Body,
    /// In a cookie that its scripts cannot read.
    Cookie,
}

/// A refresh token as a request brought it.
pub struct Carried {
    pub text: String,
    pub delivery: Delivery,
}

impl Carried {
    /// What stands in the header `X-Refresh-Token` or else in the cookie.
    ///
    /// # Errors
    /// 403 where another site had the browser send the cookie.
    pub fn beside(req: &HttpRequest, app: &App) -> Result<Option<Self>, AppError> {
        if let Some(text) = origin::header(req, HEADER) {
            return Ok(Some(Self {
                text: text.to_owned(),
                delivery: Delivery::Body,
            }));
        }
        let Some(cookie) = req.cookie(COOKIE) else {
            return Ok(None);
        };
        origin::refuse_foreign(req, app)?;
        Ok(Some(Self {
            text: cookie.value().to_owned(),
            delivery: Delivery::Cookie,
        }))
    }
}

/// How a line of refresh tokens is rotated.
pub fn rules(config: &Config) -> Rules {
    Rules {
        grace: config.clocks.refresh_grace,
        lifetime: Some(config.clocks.refresh_token),
        limited: config.rate_limits,
    }
}

/// Exchanges a refresh token for the pair that comes after it; of the login `of_login` only, where
/// one is named.
///
/// # Errors
/// 401 with the code that fits, `token_mismatch` for another login's token (which stays as it was),
/// 429 after too many in a minute, 503 when the database cannot be asked.
pub async fn exchange(
    req: &HttpRequest,
    app: &App,
    text: &str,
    of_login: Option<&str>,
    now: Timestamp,
) -> Result<Pair, AppError> {
    let token = TokenId::read(&app.secrets, Purpose::Refresh, text).ok_or_else(|| {
        app.figures.count(Figure::RefreshInvalid);
        app.metrics.rotation(Purpose::Refresh.name(), "forged");
        Code::RefreshInvalid
    })?;
    let client = origin::client(req, &app.config, None);
    let of_login = of_login.map(str::to_owned);
    let rotation = to_its_end(rotate(app.clone(), token, of_login, client, now)).await?;
    match rotation {
        Rotation::Fresh(next) | Rotation::Newest(next) | Rotation::Sibling(next) => {
            Pair::after(app, next, now)
        }
        Rotation::Reused { .. } => Err(Code::RefreshReused.into()),
        Rotation::TooMany(retry_after) => Err(AppError::RateLimited { retry_after }),
        Rotation::Expired => Err(Code::RefreshExpired.into()),
        Rotation::Unknown => Err(Code::RefreshInvalid.into()),
    }
}

/// Carries an exchange out and tells of it.
async fn rotate(
    app: App,
    token: TokenId,
    of_login: Option<String>,
    client: Client,
    now: Timestamp,
) -> Result<Rotation, AppError> {
    let presented = Presented {
        token,
        of_login: of_login.clone(),
        at: now,
    };
    let advanced = match &app.rotations {
        Some(queue) => queue.present(presented).await?,
        None => None,
    };
    let rotation = match advanced {
        Some(next) => Rotation::Fresh(next),
        None => rotate_alone(&app, token, of_login, client, now).await?,
    };
    super::count(&app, &rotation, now);
    if let Rotation::Reused { login, is_first } = &rotation {
        let cause = rotation::came_back(Purpose::Refresh, login, *is_first, now);
        app.announce(login, cause);
    }
    Ok(rotation)
}

/// By all the rules, in a transaction of its own.
async fn rotate_alone(
    app: &App,
    token: TokenId,
    of_login: Option<String>,
    client: Client,
    now: Timestamp,
) -> Result<Rotation, AppError> {
    let rules = rules(&app.config);
    let rotation = app.db.write(move |conn| {
        if let Some(expected) = of_login {
            let login = rotation::login_of(conn, &token)?;
            if login.is_some_and(|login| login.id != expected) {
                return Ok(None);
            }
        }
        rotation::rotate(conn, token, rules, &client, now).map(Some)
    });
    Ok(rotation.await?.ok_or(Code::TokenMismatch)?)
}

/// The `data` of an answer that hands a pair over; the refresh token by cookie where a client wants
/// it so.
pub fn deliver(
    req: &HttpRequest,
    app: &App,
    pair: &Pair,
    delivery: Delivery,
    now: Timestamp,
) -> PairOut {
    if delivery == Delivery::Cookie {
        Outgoing::set_cookie(req, cookie(app, pair, now));
    }
    pair.out(delivery == Delivery::Body, now)
}

/// Sends a pair along with the answer to a request that asked for something else: all of it or
/// nothing, and nothing with an error or once the login has ended. A client that does not get it goes on with what it holds
/// (rules 2 and 3 of rotation).
///
/// # Errors
/// When a token cannot stand in a header, which no token of ours is.
pub fn send_along(
    req: &HttpRequest,
    app: &App,
    pair: &Pair,
    delivery: Delivery,
    now: Timestamp,
) -> Result<(), AppError> {
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|error| AppError::Internal(error.to_string()))
    };
    let refresh = match delivery {
        Delivery::Body => (
            HeaderName::from_static("x-new-refresh-token"),
            value(pair.refresh_token.expose())?,
        ),
        Delivery::Cookie => (SET_COOKIE, value(&cookie(app, pair, now).to_string())?),
    };
    let headers = [
        (
            HeaderName::from_static("x-token-refreshed"),
            HeaderValue::from_static("true"),
        ),
        (
            HeaderName::from_static("x-new-access-token"),
            value(&pair.access_token)?,
        ),
        refresh,
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Outgoing::set_on_success(req, &pair.login_id, headers);
    Ok(())
}

/// The cookie that holds a pair's refresh token, for as long as the token lives.
pub fn cookie(app: &App, pair: &Pair, now: Timestamp) -> Cookie<'static> {
    let left = i64::try_from(now.until(pair.refresh_expires_at).as_secs()).unwrap_or(0);
    bare(app, pair.refresh_token.expose().to_owned())
        .max_age(time::Duration::seconds(left))
        .finish()
}

/// Removes the cookie.
pub fn clear_cookie(req: &HttpRequest, app: &App) {
    let mut cookie = bare(app, String::new()).finish();
    cookie.make_removal();
    Outgoing::set_cookie(req, cookie);
}

fn bare(app: &App, value: String) -> CookieBuilder<'static> {
    Cookie::build(COOKIE, value)
        .path("/api")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(app.config.is_https())
}
