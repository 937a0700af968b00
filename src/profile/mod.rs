//! What a person does to their own account. Handlers in `http.rs`.

pub mod http;

use diesel::QueryResult;

use crate::account::{self, User};
use crate::audit::{self, Actor, Event, Kind};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::login::rotation::{self, Purpose, TokenId};
use crate::login::{self, Cause, Client, Login};

/// What a password change leaves.
pub struct Changed {
    /// This login, whose password has just been given.
    pub this: Login,
    /// Every other login, ended.
    pub ended: Vec<Login>,
    /// This browser's new remember token, if it had one.
    pub remember: Option<TokenId>,
}

/// Changes a password that has been checked: every other login ends, and this one goes on with new
/// ids. `None`: somebody else changed it in the meantime.
///
/// # Errors
/// When the database refuses.
pub fn change_password(
    conn: &mut AnyConnection,
    user: &User,
    hash: &str,
    this: &Login,
    remember_until: Option<Timestamp>,
    client: &Client,
    now: Timestamp,
) -> QueryResult<Option<Changed>> {
    if !account::set_own_password(conn, &user.id, &user.password_hash, hash)? {
        return Ok(None);
    }
    let event = Event::new(Kind::PasswordChanged, &user.id, now).by(&user.id, client);
    audit::record(conn, &event.of_login(&this.id))?;
    let ended = login::end_all_of(
        conn,
        &user.id,
        Cause::PasswordChanged,
        Some(&this.id),
        Some(Actor::person(&user.id, client)),
        now,
    )?;
    login::set_auth_time(conn, &this.id, now)?;
    rotation::forget(conn, &this.id, Purpose::Remember)?;
    let remember = match remember_until.filter(|until| *until > now) {
        Some(until) => {
            Some(rotation::begin(conn, this, Purpose::Remember, now.until(until), now)?.0)
        }
        None => None,
    };
    let this = Login {
        auth_time: now,
        ..this.clone()
    };
    Ok(Some(Changed {
        this,
        ended,
        remember,
    }))
}
