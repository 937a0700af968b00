//! My logins, by browser and by API: which there are, and ending them. Handlers in `http.rs`.

pub mod http;

use std::time::Duration;

use diesel::QueryResult;

use crate::audit::Actor;
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::login::{self, Cause, Client, Kind, Login};
use crate::session::extract::BrowserSession;
use crate::session::idle_end;

/// More logins than this are shown by no page; a person with so many ends them all at once.
const MOST_SHOWN: i64 = 500;

/// A login that somebody can still use, and when it is over if nobody does.
pub struct Living {
    pub login: Login,
    pub ends: Timestamp,
}

/// The logins of a person, for a page. Of the login that opens it, `session` knows better than the
/// database when somebody was last there.
///
/// # Errors
/// When the database refuses.
pub fn living_of(
    conn: &mut AnyConnection,
    user_id: &str,
    session: &BrowserSession,
    idle_timeout: Duration,
    now: Timestamp,
) -> QueryResult<Vec<Living>> {
    let logins = login::usable_of(conn, user_id, None, MOST_SHOWN, now - idle_timeout, now)?;
    let ids: Vec<&str> = logins.iter().map(|login| login.id.as_str()).collect();
    let tokens = login::tokens_until(conn, &ids)?;
    let living = |mut login: Login| {
        if login.id == session.record.login_id {
            login.last_activity_at = login.last_activity_at.max(session.last_activity);
        }
        let idle = (login.kind == Kind::Browser.name())
            .then(|| idle_end(login.last_activity_at, idle_timeout));
        // Whoever is remembered, or has a refresh token, can come back after that.
        let unused = idle.max(tokens.get(&login.id).copied());
        let ends = unused.map_or(login.expires_at, |at| at.min(login.expires_at));
        Living { login, ends }
    };
    Ok(logins.into_iter().map(living).collect())
}

/// Ends one login of a person, if it is theirs and alive.
///
/// # Errors
/// When the database refuses.
pub fn end_one(
    conn: &mut AnyConnection,
    user_id: &str,
    login_id: &str,
    client: &Client,
    now: Timestamp,
) -> QueryResult<Option<Login>> {
    let login = login::by_id(conn, login_id)?.filter(|login| login.user_id == user_id);
    let by = Some(Actor::person(user_id, client));
    match login {
        Some(login) if login::end(conn, &login, Cause::Revoked, by, now)? => Ok(Some(login)),
        _ => Ok(None),
    }
}
