//! What a person does to their own account. Handlers in `http.rs`, the meter in `strength.rs`.

pub mod http;
pub mod strength;

use diesel::QueryResult;

use crate::account::{self, Changes, User};
use crate::audit::{self, Actor, Event, Kind};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::login::rotation::{self, Purpose, Rules, TokenId};
use crate::login::{self, Cause, Client, Login};
use crate::token::personal;

/// Changes a profile, and returns the person as they are then; `None`: there is no such person.
///
/// # Errors
/// When the database refuses.
pub fn change(
    conn: &mut AnyConnection,
    user_id: &str,
    login_id: Option<&str>,
    changes: Changes,
    client: &Client,
    now: Timestamp,
) -> QueryResult<Option<User>> {
    let Some(user) = account::by_id(conn, user_id)? else {
        return Ok(None);
    };
    let changes = Changes {
        name: changes.name.filter(|name| *name != user.name),
        locale: changes.locale.filter(|locale| *locale != user.locale),
        theme: changes.theme.filter(|theme| *theme != user.theme),
    };
    let fields = [
        ("name", changes.name.is_some()),
        ("locale", changes.locale.is_some()),
        ("theme", changes.theme.is_some()),
    ];
    let changed: Vec<&str> = fields
        .into_iter()
        .filter_map(|(field, changed)| changed.then_some(field))
        .collect();
    if changed.is_empty() {
        return Ok(Some(user));
    }
    account::set_profile(conn, user_id, &changes)?;
    let event = Event::new(Kind::ProfileChanged, user_id, now).by(user_id, client);
    let event = Event {
        login_id: login_id.map(str::to_owned),
        ..event.about(&changed.join(", "))
    };
    audit::record(conn, &event)?;
    account::by_id(conn, user_id)
}

/// A password that has been checked and hashed.
pub struct NewPassword<'a> {
    pub user: &'a User,
    pub hash: &'a str,
    /// The person wants their personal tokens gone, too.
    pub revoke_tokens: bool,
}

/// What a password change leaves.
pub struct Changed {
    /// This login, whose password has just been given.
    pub this: Login,
    /// Every other login, ended.
    pub ended: Vec<Login>,
    /// What carries this login on from now: a browser's new remember token, if it had one, or the
    /// refresh token of a login by API; and until when.
    pub carries_on: Option<(TokenId, Timestamp)>,
}

/// How this login goes on.
pub struct GoesOn {
    /// Until when this browser is remembered.
    pub remember_until: Option<Timestamp>,
    pub refresh: Rules,
}

/// Changes a password: every other login ends, and this one goes on with new ids. `None`: somebody
/// else changed it in the meantime.
///
/// A login by API gets the next refresh token of its line without asking for it. The one it holds is
/// superseded and not dead, since the answer may be lost and not every client looks for new tokens
/// in it: by the rules of rotation such a client goes on all the same, and a stolen copy is worth
/// nothing once the new token has been used.
///
/// # Errors
/// When the database refuses.
pub fn change_password(
    conn: &mut AnyConnection,
    new: &NewPassword<'_>,
    this: &Login,
    goes_on: &GoesOn,
    client: &Client,
    now: Timestamp,
) -> QueryResult<Option<Changed>> {
    let user = new.user;
    if !account::set_own_password(conn, &user.id, &user.password_hash, new.hash)? {
        return Ok(None);
    }
    let event = Event::new(Kind::PasswordChanged, &user.id, now).by(&user.id, client);
    audit::record(conn, &event.of_login(&this.id))?;
    if new.revoke_tokens {
        personal::revoke_all_of(conn, &user.id, Actor::person(&user.id, client), now)?;
    }
    let ended = login::end_all_of(
        conn,
        &user.id,
        Cause::PasswordChanged,
        Some(&this.id),
        Some(Actor::person(&user.id, client)),
        now,
    )?;
    login::set_auth_time(conn, &this.id, now)?;
    let carries_on = if this.kind == login::Kind::Api.name() {
        rotation::advance(conn, this, Purpose::Refresh, goes_on.refresh, now)?
    } else {
        rotation::forget(conn, &this.id, Purpose::Remember)?;
        match goes_on.remember_until.filter(|until| *until > now) {
            Some(until) => {
                let left = now.until(until);
                Some(rotation::begin(conn, this, Purpose::Remember, left, now)?)
            }
            None => None,
        }
    };
    let this = Login {
        auth_time: now,
        ..this.clone()
    };
    Ok(Some(Changed {
        this,
        ended,
        carries_on,
    }))
}
