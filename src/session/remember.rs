//! Remember-me: a cookie with a rotating token that opens a new session of the same login, until a
//! fixed time after the password. Read only where there is no session cookie.

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, SameSite, time};

use super::Record;
use crate::app::App;
use crate::audit::{self, Actor, Event, Kind};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{AppError, Code};
use crate::login::rotation::{self, Purpose, Rotation, Rules, TokenId};
use crate::login::{self, Cause, Client};
use crate::request::to_its_end;
use crate::web::answer::Outgoing;
use crate::web::origin;

const COOKIE: &str = "gapura_remember";

/// A cookie's name, with the prefix that stops other hosts and plain http from planting it
/// (RFC 6265bis, 4.1.3).
pub fn cookie_name(config: &Config, name: &str) -> String {
    if config.is_https() {
        format!("__Host-{name}")
    } else {
        name.to_owned()
    }
}

/// Sends the remember cookie along, for what is left of its time.
pub fn set(req: &HttpRequest, app: &App, token: TokenId, until: Timestamp, now: Timestamp) {
    let left = i64::try_from(now.until(until).as_secs()).unwrap_or(0);
    let value = token.to_token(&app.secrets).expose().to_owned();
    let cookie = bare(app, value).max_age(time::Duration::seconds(left));
    Outgoing::set_cookie(req, cookie.finish());
}

/// Removes the remember cookie.
pub fn clear(req: &HttpRequest, app: &App) {
    let mut cookie = bare(app, String::new()).finish();
    cookie.make_removal();
    Outgoing::set_cookie(req, cookie);
}

fn bare(app: &App, value: String) -> actix_web::cookie::CookieBuilder<'static> {
    Cookie::build(cookie_name(&app.config, COOKIE), value)
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(app.config.is_https())
}

/// Whether the browser carries a remember cookie.
pub fn is_carried(req: &HttpRequest, app: &App) -> bool {
    req.cookie(&cookie_name(&app.config, COOKIE)).is_some()
}

/// The remember token that the browser carries, if it is one of ours.
pub fn carried(req: &HttpRequest, app: &App) -> Option<TokenId> {
    let cookie = req.cookie(&cookie_name(&app.config, COOKIE))?;
    TokenId::read(&app.secrets, Purpose::Remember, cookie.value())
}

/// Ends the login that the browser is remembered by, and removes the cookie: for whoever asks to be
/// logged out where no session is left to do it.
///
/// # Errors
/// When the database cannot be asked.
pub async fn forget(req: &HttpRequest, app: &App, now: Timestamp) -> Result<(), AppError> {
    clear(req, app);
    let Some(token) = carried(req, app) else {
        return Ok(());
    };
    let client = origin::client(req, &app.config, None);
    let ended = app.db.write(move |conn| {
        let login = rotation::login_of(conn, &token)?;
        let login = login.filter(|login| login.cause_of_end(now).is_none());
        if let Some(login) = &login {
            let by = Actor::person(&login.user_id, &client);
            login::end(conn, login, Cause::LoggedOut, Some(by), now)?;
        }
        Ok(login)
    });
    if let Some(login) = ended.await? {
        app.announce(&login, Cause::LoggedOut);
    }
    Ok(())
}

/// Opens a new session from the remember cookie, if it carries one that is still good.
///
/// # Errors
/// [`Code::SessionMissing`] where there is nothing to restore; 419 `theft` when a stolen or replayed
/// cookie has just ended its login.
pub async fn restore(req: &HttpRequest, app: &App, now: Timestamp) -> Result<Record, AppError> {
    let missing = AppError::from(Code::SessionMissing);
    if !is_carried(req, app) {
        return Err(missing);
    }
    let Some(token) = carried(req, app) else {
        clear(req, app);
        return Err(missing);
    };
    // Asked first, so that an outage is told before anything has happened.
    app.keystore.ping().await?;
    let client = origin::client(req, &app.config, None);
    let rotation = to_its_end(rotate(app.clone(), token, client, now)).await?;
    match rotation {
        Rotation::Fresh(next) | Rotation::Newest(next) | Rotation::Sibling(next) => {
            let mut record = Record::new(&next.user, &next.login, Some(next.expires_at));
            record.remember_token = Some(hex(next.token.as_bytes()));
            set(req, app, next.token, next.expires_at, now);
            Ok(record)
        }
        Rotation::Reused { login, .. } => {
            let cause = login.cause_of_end(now).unwrap_or(Cause::Theft);
            clear(req, app);
            Err(AppError::SessionOver(cause.reason()))
        }
        Rotation::TooMany(retry_after) => Err(AppError::RateLimited { retry_after }),
        Rotation::Expired | Rotation::Unknown => {
            clear(req, app);
            Err(missing)
        }
    }
}

/// Carries an exchange out and tells of it.
async fn rotate(
    app: App,
    token: TokenId,
    client: Client,
    now: Timestamp,
) -> Result<Rotation, AppError> {
    let rules = Rules {
        grace: app.config.clocks.refresh_grace,
        lifetime: None,
        limited: app.config.rate_limits,
    };
    let rotation = app.db.write(move |conn| {
        let rotation = rotation::rotate(conn, token, rules, &client, now)?;
        if let Rotation::Fresh(next) = &rotation {
            let event =
                Event::new(Kind::RememberRestored, &next.user.id, now).by(&next.user.id, &client);
            audit::record(conn, &event.of_login(&next.login.id))?;
        }
        Ok(rotation)
    });
    let rotation = rotation.await?;
    let outcome = rotation.outcome(now);
    app.metrics.rotation(Purpose::Remember.name(), outcome);
    match &rotation {
        Rotation::Fresh(next) => app.announce_change(&next.user.id),
        Rotation::Reused { login, is_first } => {
            let cause = rotation::came_back(Purpose::Remember, login, *is_first, now);
            app.announce(login, cause);
        }
        _ => {}
    }
    Ok(rotation)
}

/// Notes that the session that came with a remember token is in use, so that the token before it is
/// a thief's from now on (once its grace is over).
///
/// # Errors
/// When the database cannot be asked.
pub async fn note_use(app: &App, stored: &str, now: Timestamp) -> Result<(), AppError> {
    let bytes = unhex(stored);
    if let Some(token) = TokenId::from_stored(Purpose::Remember, &bytes) {
        app.db
            .write(move |conn| rotation::mark_used(conn, token, now))
            .await?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
