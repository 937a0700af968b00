//! A login is one sign-in on one device, by browser or by API: the one idea that everything else
//! hangs from. It begins with a password, is carried on by rotating tokens ([`rotation`]), and ends
//! once, with a cause, in the database first ([`ended`] tells every node).

pub mod ended;
pub mod rotation;
pub mod sign_in;
mod store;

use std::time::Duration;

use aws_lc_rs::digest;
use diesel::prelude::*;

pub use self::store::{
    announce, by_id, count_living, delete_old, delete_old_ends, delete_uncounted, end_all_of,
    latest_browsers, living_after, living_of, mark_activity, overdue, set_auth_time, take,
    tokens_until, uncounted, usable_before, usable_of,
};
use crate::account::{self, User};
use crate::audit::{self, Actor, Event, Kind as EventKind};
use crate::clock::Timestamp;
use crate::db::{AnyConnection, hold_user};
use crate::error::Reason;
use crate::id;

/// So many logins of a person live at the same time; another one ends the oldest. All of them are ended by
/// one transaction, which is given little time: whoever had any number of them could not be disabled.
pub const MOST_LIVING: i64 = 10_000;

/// How somebody signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Browser,
    Api,
}

impl Kind {
    /// As stored and as the API says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::Api => "api",
        }
    }

    /// What is stored under that name.
    pub fn named(name: &str) -> Self {
        match name == Self::Browser.name() {
            true => Self::Browser,
            false => Self::Api,
        }
    }
}

/// Why a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    LoggedOut,
    Idle,
    Lifetime,
    Revoked,
    PasswordChanged,
    Theft,
    /// Nobody came back to refresh it in time.
    Unused,
}

impl Cause {
    const ALL: [Self; 7] = [
        Self::LoggedOut,
        Self::Idle,
        Self::Lifetime,
        Self::Revoked,
        Self::PasswordChanged,
        Self::Theft,
        Self::Unused,
    ];

    /// As stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::Revoked => "revoked",
            Self::PasswordChanged => "password_changed",
            Self::Theft => "theft",
            Self::Unused => "unused",
        }
    }

    /// The cause of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }

    /// Whether the login simply reached its end, so that what it left behind is no sign of theft.
    pub const fn is_expiry(self) -> bool {
        matches!(self, Self::Idle | Self::Lifetime | Self::Unused)
    }

    /// What a person is told.
    pub const fn reason(self) -> Reason {
        match self {
            Self::LoggedOut => Reason::LoggedOut,
            Self::Idle => Reason::Idle,
            Self::Lifetime | Self::Unused => Reason::Lifetime,
            Self::Revoked => Reason::Revoked,
            Self::PasswordChanged => Reason::PasswordChanged,
            Self::Theft => Reason::Theft,
        }
    }
}

/// From where somebody calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// In words, as the person will recognise it: "Chrome on Linux", or the name an app gave.
    pub device: String,
    /// The address, as trusted proxies tell it.
    pub ip: String,
}

impl Client {
    /// The name under which the command line of the server is kept.
    pub const COMMAND_LINE: &str = "gapura command";

    /// Somebody at the command line of the server.
    pub fn command_line() -> Self {
        Self {
            device: Self::COMMAND_LINE.to_owned(),
            ip: String::new(),
        }
    }
}

/// One sign-in on one device.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = crate::db::schema::logins)]
pub struct Login {
    /// UUIDv7; `sid` in the JWT.
    pub id: String,
    pub user_id: String,
    /// See [`Kind`].
    pub kind: String,
    pub device: String,
    pub ip: String,
    /// When the password was given: the hard lifetime counts from here.
    pub started_at: Timestamp,
    /// When a password was last given (`auth_time`, OpenID Connect Core, 2).
    pub auth_time: Timestamp,
    pub last_activity_at: Timestamp,
    /// The hard end, whatever happens.
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// See [`Cause`].
    pub ended_cause: Option<String>,
}

impl Login {
    /// Why it is over, if it is.
    pub fn cause_of_end(&self, now: Timestamp) -> Option<Cause> {
        match &self.ended_cause {
            Some(name) => Some(Cause::named(name).unwrap_or(Cause::Revoked)),
            None if self.expires_at <= now => Some(Cause::Lifetime),
            None => None,
        }
    }
}

/// The end of a login, until somebody counts it.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = crate::db::schema::uncounted_ends)]
pub struct UncountedEnd {
    login_id: String,
    kind: String,
    cause: String,
    /// In milliseconds.
    lasted: i64,
}

impl UncountedEnd {
    /// How the login had begun.
    pub fn kind(&self) -> Kind {
        Kind::named(&self.kind)
    }

    /// Why it ended; `None` where a later program has a cause that this one does not know.
    pub fn cause(&self) -> Option<Cause> {
        Cause::named(&self.cause)
    }

    /// How long it lasted.
    pub const fn lasted(&self) -> Duration {
        Duration::from_millis(self.lasted.unsigned_abs())
    }
}

/// What the log calls a login: one can be found there by its id, but who reads the log learns no id
/// that means something elsewhere. `printf %s ID | sha256sum | cut -c1-12`
pub fn log_name(id: &str) -> String {
    let digest = digest::digest(&digest::SHA256, id.as_bytes());
    let first = digest.as_ref().iter().take(6);
    first.map(|byte| format!("{byte:02x}")).collect()
}

/// Begins a login that ends `lifetime` from now at the latest; `None` if `user`, as they were when
/// their password was checked, has been disabled or has another password or role by now: whoever
/// changed that ended all the logins they found, and this one must not slip in behind them.
///
/// # Errors
/// When the database refuses.
pub fn begin(
    conn: &mut AnyConnection,
    user: &User,
    kind: Kind,
    client: &Client,
    lifetime: Duration,
    now: Timestamp,
) -> QueryResult<Option<Login>> {
    hold_user(conn, &user.id)?;
    let current = account::by_id(conn, &user.id)?;
    let unchanged = current.is_some_and(|current| {
        current.disabled_at.is_none()
            && current.password_hash == user.password_hash
            && current.role == user.role
    });
    if !unchanged {
        return Ok(None);
    }
    let login = Login {
        id: id::new(now).to_string(),
        user_id: user.id.clone(),
        kind: kind.name().to_owned(),
        device: client.device.clone(),
        ip: client.ip.clone(),
        started_at: now,
        auth_time: now,
        last_activity_at: now,
        expires_at: now + lifetime,
        ended_at: None,
        ended_cause: None,
    };
    store::insert(conn, &login)?;
    let too_many = store::living_beyond(conn, &user.id, MOST_LIVING, now)?;
    end_each(conn, &too_many, Cause::Revoked, None, now)?;
    let event = Event::new(EventKind::Login, &user.id, now).by(&user.id, client);
    audit::record(conn, &event.of_login(&login.id))?;
    Ok(Some(login))
}

/// Ends a login, once: the first cause stands. Tells whether it was this call that ended it. `by` is
/// who did it; `None` where time or a rule did.
///
/// # Errors
/// When the database refuses.
pub fn end(
    conn: &mut AnyConnection,
    login: &Login,
    cause: Cause,
    by: Option<Actor<'_>>,
    now: Timestamp,
) -> QueryResult<bool> {
    let ended = end_each(conn, std::slice::from_ref(login), cause, by, now)?;
    Ok(!ended.is_empty())
}

/// As [`end`], of several at once. Those that this call has ended.
///
/// # Errors
/// When the database refuses.
pub fn end_each(
    conn: &mut AnyConnection,
    logins: &[Login],
    cause: Cause,
    by: Option<Actor<'_>>,
    now: Timestamp,
) -> QueryResult<Vec<Login>> {
    if logins.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = logins.iter().map(|login| login.id.as_str()).collect();
    let ended = store::end(conn, &ids, cause, now)?;
    let ended = logins.iter().filter(|login| ended.contains(&login.id));
    let ended: Vec<Login> = ended.cloned().collect();
    let events = ended.iter().map(|login| {
        let event = Event::new(EventKind::LoginEnded, &login.user_id, now)
            .of_login(&login.id)
            .because(cause.name());
        match by {
            // Seen from the device it was done at; which device it was done to is what it is about.
            Some(actor) if cause != Cause::LoggedOut => event.done_by(actor).about(&login.device),
            Some(actor) => event.done_by(actor),
            None => event.seen_from(&Client {
                device: login.device.clone(),
                ip: login.ip.clone(),
            }),
        }
    });
    audit::record_each(conn, &events.collect::<Vec<_>>())?;
    Ok(ended)
}
