//! session answers one question: is this browser still signed in?
//!
//! A session lives in the keystore under the hash of its id, next to its login's activity key
//! `gapura:activity:<login id>`, which holds the last activity in Unix seconds and lives as long as
//! the idle timeout. No activity key, no session; and since a remember cookie makes that key anew,
//! `gapura:sessions:<login id>` lists the sessions that have to go before it does. What actix-session loads is only what [`keeper`]
//! found to be alive; everything else is told as [`Loaded`]. The hard end is fixed at the password.
//! Rules here, handlers in `http.rs`, the browser's cookies in `remember.rs` and `csrf.rs`.

pub mod cookies;
pub mod csrf;
pub mod extract;
pub mod http;
pub mod keeper;
pub mod remember;

use actix_session::Session;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::account::User;
use crate::app::App;
use crate::clock::Timestamp;
use crate::db::Db;
use crate::error::{AppError, Reason};
use crate::keystore::Keystore;
use crate::login::rotation::{self, Purpose};
use crate::login::{self, Cause, Login};
use crate::vault::random;

/// What a session knows, so that a request needs no database to be served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub login_id: String,
    pub user_id: String,
    pub username: String,
    pub name: String,
    pub email: String,
    #[serde(default)]
    pub email_verified: bool,
    pub role: String,
    pub locale: Option<String>,
    pub theme: String,
    pub device: String,
    pub ip: String,
    /// Milliseconds since 1970, as are the others.
    started_at: i64,
    /// When a password was last given.
    #[serde(default)]
    auth_time: i64,
    expires_at: i64,
    remember_until: Option<i64>,
    /// The remember token that came with this session, until its first use has been noted.
    pub remember_token: Option<String>,
    /// The password was generated or is temporary: no other page before it has been changed.
    pub must_change_password: bool,
    /// What the session's form tokens are bound to; worth nothing without our key.
    pub form_id: String,
}

impl Record {
    /// A session of that login.
    pub fn new(user: &User, login: &Login, remember_until: Option<Timestamp>) -> Self {
        Self {
            login_id: login.id.clone(),
            user_id: user.id.clone(),
            username: user.username.clone(),
            name: user.name.clone(),
            email: user.email.clone(),
            email_verified: user.email_verified,
            role: user.role.clone(),
            locale: user.locale.clone(),
            theme: user.theme.clone(),
            device: login.device.clone(),
            ip: login.ip.clone(),
            started_at: login.started_at.millis(),
            auth_time: login.auth_time.millis(),
            expires_at: login.expires_at.millis(),
            remember_until: remember_until.map(Timestamp::millis),
            remember_token: None,
            must_change_password: user.must_change_password,
            form_id: uuid::Uuid::from_bytes(random()).simple().to_string(),
        }
    }

    /// Takes over what is known of the person by now.
    pub fn know(&mut self, user: &User) {
        self.username.clone_from(&user.username);
        self.name.clone_from(&user.name);
        self.email.clone_from(&user.email);
        self.email_verified = user.email_verified;
        self.role.clone_from(&user.role);
        self.locale.clone_from(&user.locale);
        self.theme.clone_from(&user.theme);
        self.must_change_password = user.must_change_password;
    }

    /// When the password was given.
    pub const fn started_at(&self) -> Timestamp {
        Timestamp::from_millis(self.started_at)
    }

    /// When a password was last given.
    pub const fn auth_time(&self) -> Timestamp {
        Timestamp::from_millis(self.auth_time)
    }

    /// Notes that a password was given again.
    pub const fn set_auth_time(&mut self, at: Timestamp) {
        self.auth_time = at.millis();
    }

    /// The hard end.
    pub const fn expires_at(&self) -> Timestamp {
        Timestamp::from_millis(self.expires_at)
    }

    /// Until when the remember cookie opens a new session.
    pub fn remember_until(&self) -> Option<Timestamp> {
        self.remember_until.map(Timestamp::from_millis)
    }
}

/// What the keeper found under a session cookie.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Loaded {
    /// Alive: its [`Record`] lies beside. When its person was last there (Unix seconds).
    Live { last_activity: i64 },
    /// Over, or unknown: of this login.
    Over {
        login_id: String,
        last_activity: Option<i64>,
    },
    /// It cannot be known, and why.
    Unavailable(String),
}

/// The typed face of actix-session's map: its keys are written here and nowhere else.
pub struct TypedSession(pub Session);

/// How many logins are looked for where a keystore may be the wrong one, and how old they are at least.
const LATEST: i64 = 20;
const SETTLED: Duration = Duration::from_secs(10);
/// What it means if none of them is there.
pub const STRANGERS: &str = "this Redis knows none of the browser logins that began last: it was emptied, or REDIS_URL is not \
     that of the other nodes, and then this node logs out whoever comes to it";

const RECORD: &str = "record";
const LOADED: &str = "loaded";

impl TypedSession {
    /// What the request's cookie stood for; `None` without a genuine cookie.
    pub fn loaded(&self) -> Option<Loaded> {
        self.0.get(LOADED).ok().flatten()
    }

    /// What a living session knows; `None` where another program has written it, in another shape.
    pub fn record(&self) -> Option<Record> {
        self.0.get(RECORD).ok().flatten()
    }

    /// Makes this the session of `record`, under a new id.
    ///
    /// # Errors
    /// When the record cannot be written as JSON.
    pub fn begin(&self, record: &Record) -> Result<(), actix_session::SessionInsertError> {
        self.0.clear();
        self.0.renew();
        self.0.insert(RECORD, record)
    }

    /// Changes what the session knows, under the same id.
    ///
    /// # Errors
    /// When the record cannot be written as JSON.
    pub fn update(&self, record: &Record) -> Result<(), actix_session::SessionInsertError> {
        self.0.insert(RECORD, record)
    }

    /// Ends the session here and clears its cookie.
    pub fn end(&self) {
        self.0.purge();
    }
}

/// Under what a login's last activity is kept.
pub fn activity_key(login_id: &str) -> String {
    format!("gapura:activity:{login_id}")
}

/// Under what the hashes of a login's session ids are kept, so that they can be found again.
pub fn index_key(login_id: &str) -> String {
    format!("gapura:sessions:{login_id}")
}

/// When idleness ends the session.
pub fn idle_end(last_activity: Timestamp, idle_timeout: Duration) -> Timestamp {
    last_activity + idle_timeout
}

/// The new last activity, from a ping that says how long ago the person did something: never in the
/// future, never before what is known, so a ping can neither stretch nor shorten a session unduly.
pub fn activity_after_ping(known: Timestamp, idle_seconds: u64, now: Timestamp) -> Timestamp {
    let claimed = now - Duration::from_secs(idle_seconds);
    claimed.max(known).min(now.max(known))
}

/// How many of the browser logins that began last this keystore does not know, where it knows none of
/// them: it was emptied, or is not the one that the other nodes use.
///
/// # Errors
/// When database or keystore cannot be asked.
pub async fn strangers(
    db: &Db,
    keystore: &Keystore,
    idle_timeout: Duration,
    now: Timestamp,
) -> Result<usize, AppError> {
    // One that began this moment may not be there yet; whoever was away for longer has no key.
    let began = (now - idle_timeout, now - SETTLED);
    let latest = db.read(move |conn| login::latest_browsers(conn, began, LATEST));
    let latest = latest.await?;
    for id in &latest {
        if let [Some(_)] = keystore.get([activity_key(id).as_str()]).await? {
            return Ok(0);
        }
    }
    Ok(latest.len())
}

/// Why a session is over.
pub struct Concluded {
    pub reason: Reason,
    /// Only this id is over: the login goes on under another.
    pub superseded: bool,
}

/// Settles why a session is over, and ends its login in the database if that has not been done: an
/// idle login stays open only while its remember token is still good.
///
/// # Errors
/// When the database cannot be asked: nobody is told a reason that is not known.
pub async fn conclude(
    app: &App,
    login_id: String,
    last_activity: Option<Timestamp>,
    now: Timestamp,
) -> Result<Concluded, AppError> {
    let idle_timeout = app.config.clocks.session_idle_timeout;
    let concluded = app.db.write(move |conn| {
        let Some(login) = login::by_id(conn, &login_id)? else {
            return Ok((Cause::Lifetime, None, false));
        };
        if login.ended_at.is_some() {
            let cause = login.cause_of_end(now).unwrap_or(Cause::Revoked);
            return Ok((cause, None, false));
        }
        let idle_end = idle_end(
            last_activity.unwrap_or(login.last_activity_at),
            idle_timeout,
        );
        if last_activity.is_some() && now < idle_end.min(login.expires_at) {
            return Ok((Cause::Revoked, None, true));
        }
        let cause = match login.expires_at <= now && login.expires_at <= idle_end {
            true => Cause::Lifetime,
            false => Cause::Idle,
        };
        if cause == Cause::Idle && rotation::has_live(conn, &login.id, Purpose::Remember, now)? {
            return Ok((cause, None, false));
        }
        login::end(conn, &login, cause, None, now)?;
        Ok((cause, Some(login), false))
    });
    let (cause, ended, superseded) = concluded.await?;
    if let Some(login) = ended {
        app.announce(&login, cause);
    }
    Ok(Concluded {
        reason: cause.reason(),
        superseded,
    })
}
