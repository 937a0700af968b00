//! Other people's accounts: who there is, and what an administrator may change. Each rule is one
//! transaction with its audit events, whoever asks: a page (`http.rs`), the API (`api.rs`) or the
//! command line. Figures over everything are in `overview.rs`.

pub mod api;
pub mod http;
pub mod overview;
mod store;

use diesel::QueryResult;

pub use self::store::{last_logins, search};
use crate::account::{self, Role, User};
use crate::app::App;
use crate::audit::{self, Actor, Event, Kind};
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::db::{AnyConnection, Db, DbError, hold_roles, is_unique_violation};
use crate::login::{self, Cause, Client, Login};
use crate::session::keeper;
use crate::token::personal;
use crate::vault::random;

/// Who does it, and from where.
#[derive(Clone)]
pub struct Doer {
    /// `None` at the command line of the server, where nobody signs in.
    pub id: Option<String>,
    pub client: Client,
}

impl Doer {
    /// Whoever sits at the command line of the server.
    pub fn operator() -> Self {
        Self {
            id: None,
            client: Client::command_line(),
        }
    }

    fn actor(&self) -> Actor<'_> {
        Actor {
            id: self.id.as_deref(),
            client: &self.client,
        }
    }
}

/// What is to change about a person; what is `None` stays.
#[derive(Clone, Default)]
pub struct Changes {
    /// Normalised, as are the two below (see [`account`]).
    pub username: Option<String>,
    pub email: Option<String>,
    pub name: Option<String>,
    pub role: Option<Role>,
    /// The hash of a password that the person has to change.
    pub password_hash: Option<String>,
    pub disabled: Option<bool>,
}

/// What came of it.
pub enum Outcome {
    Done(Box<Done>),
    /// There is no such person, or they have no such login.
    Unknown,
    Refused(Refusal),
}

/// What has been done.
pub struct Done {
    /// The person as they are now.
    pub user: User,
    /// Their logins that ended over it, and why.
    pub ended: Vec<Login>,
    pub cause: Cause,
    /// What their sessions remember of them is no longer so.
    pub is_renamed: bool,
}

/// Why a change is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody would be left to let anybody in again.
    LastAdmin,
    /// Administrators lock themselves out by accident only; another one can do it on purpose.
    Myself,
}

impl Refusal {
    /// As the texts name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastAdmin => "last_admin",
            Self::Myself => "myself",
        }
    }
}

/// What of a person is taken by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub username: bool,
    pub email: bool,
}

/// Adds a person.
///
/// # Errors
/// When the database refuses; a taken username or address is a unique violation (see [`or_taken`]).
pub fn create(conn: &mut AnyConnection, user: &User, doer: &Doer) -> QueryResult<()> {
    account::insert(conn, user)?;
    let created = Event::new(Kind::UserCreated, &user.id, user.created_at);
    audit::record(conn, &created.done_by(doer.actor()).about(&user.role))
}

/// Changes what is asked for, all of it or nothing.
///
/// # Errors
/// When the database refuses; a taken username or address is a unique violation (see [`or_taken`]).
pub fn change(
    conn: &mut AnyConnection,
    id: &str,
    changes: &Changes,
    doer: &Doer,
    now: Timestamp,
) -> QueryResult<Outcome> {
    hold_roles(conn)?;
    let Some(user) = account::by_id(conn, id)? else {
        return Ok(Outcome::Unknown);
    };
    let was_disabled = user.disabled_at.is_some();
    let role = changes.role.filter(|role| role.name() != user.role);
    let disabled = changes.disabled.filter(|wanted| *wanted != was_disabled);
    let is_demoted = role == Some(Role::User);
    if disabled == Some(true) || is_demoted || changes.password_hash.is_some() {
        if doer.id.as_deref() == Some(id) {
            return Ok(Outcome::Refused(Refusal::Myself));
        }
        let holds_the_keys = user.role == Role::Admin.name() && !was_disabled;
        if holds_the_keys
            && (disabled == Some(true) || is_demoted)
            && !account::has_other_admin(conn, id)?
        {
            return Ok(Outcome::Refused(Refusal::LastAdmin));
        }
    }
    let mut record = |kind, detail: &str| {
        let event = Event::new(kind, id, now).done_by(doer.actor());
        match detail {
            "" => audit::record(conn, &event),
            detail => audit::record(conn, &event.about(detail)),
        }
    };
    let renamed = renamed(&user, changes);
    for (what, _) in renamed.iter().filter(|(_, is_new)| *is_new) {
        record(Kind::UserChanged, what)?;
    }
    if let Some(role) = role {
        record(Kind::RoleChanged, role.name())?;
    }
    if changes.password_hash.is_some() {
        record(Kind::PasswordReset, "")?;
    }
    if let Some(disabled) = disabled {
        let kind = match disabled {
            true => Kind::UserDisabled,
            false => Kind::UserEnabled,
        };
        record(kind, "")?;
    }
    let is_renamed = renamed.iter().any(|(_, is_new)| *is_new);
    let user = apply(conn, user, changes, role, disabled, now)?;
    let cause = match disabled == Some(true) || is_demoted {
        true => Cause::Revoked,
        false => Cause::PasswordChanged,
    };
    // After the row has changed: who signs in at the same moment waits for that row, and is then
    // refused (see `login::begin`), or was there before and is found here.
    let ends = disabled == Some(true) || is_demoted || changes.password_hash.is_some();
    let ended = match ends {
        true => login::end_all_of(conn, id, cause, None, Some(doer.actor()), now)?,
        false => Vec::new(),
    };
    Ok(Outcome::Done(Box::new(Done {
        is_renamed: is_renamed || role.is_some(),
        user,
        ended,
        cause,
    })))
}

/// What would be called otherwise than before.
fn renamed(user: &User, changes: &Changes) -> [(&'static str, bool); 3] {
    let differs = |new: &Option<String>, old: &str| new.as_deref().is_some_and(|new| new != old);
    [
        ("username", differs(&changes.username, &user.username)),
        ("email", differs(&changes.email, &user.email)),
        ("name", differs(&changes.name, &user.name)),
    ]
}

fn apply(
    conn: &mut AnyConnection,
    mut user: User,
    changes: &Changes,
    role: Option<Role>,
    disabled: Option<bool>,
    now: Timestamp,
) -> QueryResult<User> {
    if renamed(&user, changes).iter().any(|(_, is_new)| *is_new) {
        let Changes {
            username,
            email,
            name,
            ..
        } = changes.clone();
        // An address is verified by its own mail.
        let is_same_address = email.as_deref().is_none_or(|email| email == user.email);
        user.email_verified = user.email_verified && is_same_address;
        user.username = username.unwrap_or(user.username);
        user.email = email.unwrap_or(user.email);
        user.name = name.unwrap_or(user.name);
        account::set_names(conn, &user)?;
    }
    if let Some(role) = role {
        account::set_role(conn, &user.id, role)?;
        user.role = role.name().to_owned();
    }
    if let Some(hash) = &changes.password_hash {
        account::set_temporary_password(conn, &user.id, hash)?;
        user.password_hash.clone_from(hash);
        user.must_change_password = true;
    }
    if changes.password_hash.is_some() || disabled == Some(false) {
        account::clear_failures(conn, &user.id)?;
    }
    if let Some(disabled) = disabled {
        user.disabled_at = disabled.then_some(now);
        account::set_disabled(conn, &user.id, user.disabled_at)?;
    }
    Ok(user)
}

/// Ends one login of a person, or all that live but the actor's own.
///
/// # Errors
/// When the database refuses.
pub fn end_logins(
    conn: &mut AnyConnection,
    id: &str,
    only: Option<&str>,
    doer: &Doer,
    own_login: &str,
    now: Timestamp,
) -> QueryResult<Outcome> {
    let Some(user) = account::by_id(conn, id)? else {
        return Ok(Outcome::Unknown);
    };
    let by = Some(doer.actor());
    let ended = match only {
        None => login::end_all_of(conn, id, Cause::Revoked, Some(own_login), by, now)?,
        Some(login_id) => {
            let login = login::by_id(conn, login_id)?.filter(|login| login.user_id == id);
            let Some(login) = login else {
                return Ok(Outcome::Unknown);
            };
            match login::end(conn, &login, Cause::Revoked, by, now)? {
                true => vec![login],
                false => Vec::new(),
            }
        }
    };
    Ok(Outcome::Done(Box::new(Done {
        user,
        ended,
        cause: Cause::Revoked,
        is_renamed: false,
    })))
}

/// Revokes every personal token of a person.
///
/// # Errors
/// When the database refuses.
pub fn revoke_tokens(
    conn: &mut AnyConnection,
    id: &str,
    doer: &Doer,
    now: Timestamp,
) -> QueryResult<Outcome> {
    let Some(user) = account::by_id(conn, id)? else {
        return Ok(Outcome::Unknown);
    };
    personal::revoke_all_of(conn, id, doer.actor(), now)?;
    Ok(Outcome::Done(Box::new(Done {
        user,
        ended: Vec::new(),
        cause: Cause::Revoked,
        is_renamed: false,
    })))
}

/// Makes known what has been done: logins that ended, and to the person's sessions what they are
/// called and may do now.
pub async fn announce(app: &App, done: &Done) {
    for login in &done.ended {
        app.announce(login, done.cause);
    }
    // Their personal tokens may be refused from now on.
    app.personal_tokens.forget();
    if done.is_renamed {
        keeper::retell(app, &done.user.id).await;
    }
}

/// A unique violation, as what it is about.
///
/// # Errors
/// Every other error, and where it cannot be asked.
pub async fn or_taken<T>(
    outcome: Result<T, DbError>,
    db: &Db,
    username: Option<&str>,
    email: Option<&str>,
    except: Option<&str>,
) -> Result<Result<T, Taken>, DbError> {
    match outcome {
        Err(DbError::Query(error)) if is_unique_violation(&error) => {
            let names = [username, email].map(|name| name.map(str::to_owned));
            let except = except.map(str::to_owned);
            let taken = db.read(move |conn| {
                let mut is_taken = |name: Option<String>| -> QueryResult<bool> {
                    let Some(name) = name else { return Ok(false) };
                    let holder = account::by_login_name(conn, &name)?;
                    Ok(holder.is_some_and(|holder| Some(holder.id) != except))
                };
                let [username, email] = names;
                Ok(Taken {
                    username: is_taken(username)?,
                    email: is_taken(email)?,
                })
            });
            Ok(Err(taken.await?))
        }
        outcome => Ok(Ok(outcome?)),
    }
}

/// A password made for somebody: 100 bits, in letters and digits that are not mistaken for each
/// other when they are read aloud.
pub fn temporary_password() -> Secret<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let letters: Vec<u8> = random::<20>()
        .iter()
        .map(|byte| LETTERS[usize::from(byte % 32)])
        .collect();
    let groups: Vec<_> = letters.chunks(5).map(String::from_utf8_lossy).collect();
    Secret::new(groups.join("-"))
}
