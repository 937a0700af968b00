//! Rotation: how a refresh or remember token is exchanged for its successor, so that an honest
//! client is never logged out and a thief never stays. The six rules are in the product
//! description; [`decide`] is rules 1 to 4, as a pure function; [`rotate`] carries its decision out
//! in one transaction (rule 6). A token is an id and a MAC of it (rule 5), so that the server can
//! give any token of a line again without having stored it, and a forged one costs no query.

mod store;
pub mod together;

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use diesel::QueryResult;

pub use self::store::{forget, has_live};
use self::together::Presented;
use super::{Cause, Client, Login, log_name};
use crate::account::User;
use crate::audit::{self, Event, Kind as EventKind};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::request;
use crate::vault::{Secrets, random};

/// After this many siblings, the last is given again and again.
pub const MOST_SIBLINGS: i32 = 5;
/// A time and 128 random bits.
const ID_LENGTH: usize = 22;
const MAC_LENGTH: usize = 32;
/// How many new tokens a login may be given within [`WINDOW`]: far more than any client needs.
const MOST_IN_WINDOW: usize = 30;
const WINDOW: Duration = Duration::from_secs(60);

/// What a line of tokens is for. Each has MACs of its own: one never passes for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Refresh,
    Remember,
}

impl Purpose {
    /// As stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Remember => "remember",
        }
    }
}

/// A token as a client holds it. Exists on its way in and out only; prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PlainToken(String);

impl PlainToken {
    /// The text itself, to be sent to its holder.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainToken")
    }
}

/// The id of a token whose MAC has been checked: proof that this server made it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenId {
    purpose: Purpose,
    id: [u8; ID_LENGTH],
}

impl TokenId {
    /// Begins with the time, so that the ids of one moment lie together in the database's indexes: a
    /// commit writes few pages then, however many tokens there are.
    fn new(purpose: Purpose, now: Timestamp) -> Self {
        let mut id = [0; ID_LENGTH];
        let (time, unique) = id.split_at_mut(6);
        time.copy_from_slice(&now.millis().to_be_bytes()[2..]);
        unique.copy_from_slice(&random::<16>());
        Self { purpose, id }
    }

    /// Reads what a client presented; `None` for what this server never made. Costs no query.
    pub fn read(secrets: &Secrets, purpose: Purpose, presented: &str) -> Option<Self> {
        if presented.len() != (ID_LENGTH + MAC_LENGTH) / 3 * 4 {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(presented).ok()?;
        let (id, mac) = bytes.split_first_chunk::<ID_LENGTH>()?;
        let genuine = secrets.token_mac_is_valid(purpose.name(), id, mac);
        genuine.then_some(Self { purpose, id: *id })
    }

    /// The token as its holder will present it.
    pub fn to_token(self, secrets: &Secrets) -> PlainToken {
        let mac = secrets.token_mac(self.purpose.name(), &self.id);
        PlainToken(BASE64_URL_SAFE_NO_PAD.encode([&self.id[..], &mac[..]].concat()))
    }

    /// As it stands in the database and in a session.
    pub fn as_bytes(&self) -> &[u8] {
        &self.id
    }

    /// From the database or a session of ours.
    pub fn from_stored(purpose: Purpose, bytes: &[u8]) -> Option<Self> {
        let id = bytes.try_into().ok()?;
        Some(Self { purpose, id })
    }
}

/// Where a presented token stands in its line: all that the rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The cause, if its login is over.
    pub login_over: Option<Cause>,
    /// Another successor of the same parent was used.
    pub sibling_won: bool,
    pub expires_at: Timestamp,
    /// When it was exchanged, if it was.
    pub superseded_at: Option<Timestamp>,
    /// When its latest successor was first given.
    pub successor_given_at: Option<Timestamp>,
    /// How many successors it has been given.
    pub successors: i32,
    /// One of them was presented.
    pub successor_used: bool,
}

/// What the rules say of a presented token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Rule 1: live; a successor is made.
    Advance,
    /// Rule 2: within the grace; the newest of its line is given.
    Newest,
    /// Rule 3: the answer was lost on its way; another successor is made.
    NewSibling,
    /// Rule 3, within a grace of the last sibling, or after the fifth: that one is given again.
    SameSibling,
    /// Rule 4: the login ends.
    Theft,
    /// Too old to be used.
    Expired,
}

/// Rules 1 to 4. `grace` zero is strict mode: rules 2 and 3 are off.
pub fn decide(token: &Standing, grace: Duration, now: Timestamp) -> Decision {
    match token.login_over {
        Some(cause) if cause.is_expiry() => return Decision::Expired,
        Some(_) => return Decision::Theft,
        None if token.sibling_won => return Decision::Theft,
        None => {}
    }
    let expired = token.expires_at <= now;
    let (Some(superseded_at), Some(given_at)) = (token.superseded_at, token.successor_given_at)
    else {
        return if expired {
            Decision::Expired
        } else {
            Decision::Advance
        };
    };
    // Within a grace of it on either side: neither a node whose clock is a little behind nor a clock
    // set back by hours finds an old token young again.
    if now.since(superseded_at) + superseded_at.since(now) < grace {
        return Decision::Newest;
    }
    if grace.is_zero() || token.successor_used {
        return Decision::Theft;
    }
    if expired {
        return Decision::Expired;
    }
    if now.since(given_at) < grace || token.successors >= MOST_SIBLINGS {
        return Decision::SameSibling;
    }
    Decision::NewSibling
}

/// How a line is to be rotated.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a superseded token still leads to its successor.
    pub grace: Duration,
    /// Life of each successor, counted from its making; `None`: it inherits its parent's end.
    pub lifetime: Option<Duration>,
    /// Whether a login may be given only so many tokens a minute.
    pub limited: bool,
}

/// What a client gets to go on with.
#[derive(Clone)]
pub struct Next {
    pub login: Login,
    pub user: User,
    pub token: TokenId,
    pub expires_at: Timestamp,
    /// How long ago the presented token was made.
    pub presented_age: Duration,
}

/// What came of presenting a token.
pub enum Rotation {
    /// Rule 1.
    Fresh(Next),
    /// Rule 2.
    Newest(Next),
    /// Rule 3.
    Sibling(Next),
    /// Too many in too short a time; nothing was changed. When it makes sense to come back.
    TooMany(Duration),
    /// Rule 4: the login has ended, in this very transaction (or had before).
    Reused {
        login: Login,
        /// Nothing had come back to this login before.
        is_first: bool,
    },
    /// It, or its login, had reached its end.
    Expired,
    /// Genuine once, but long forgotten.
    Unknown,
}

impl Rotation {
    /// In a word, for the metrics.
    pub fn outcome(&self, now: Timestamp) -> &'static str {
        match self {
            Self::Fresh(_) => "rotated",
            Self::Newest(_) => "grace",
            Self::Sibling(_) => "sibling",
            Self::TooMany(_) => "too_many",
            Self::Reused { login, .. } if login.cause_of_end(now).is_some() => "ended",
            Self::Reused { .. } => "reused",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }
}

/// Tells the log of a token that came back after its successor had been used ([`Rotation::Reused`]): once for
/// each login, however often it comes. Returns why its login is over.
pub fn came_back(purpose: Purpose, login: &Login, is_first: bool, now: Timestamp) -> Cause {
    let (id, name, user) = (request::id(), purpose.name(), &login.user_id);
    let request_id = id.as_deref();
    let login_name = log_name(&login.id);
    let over = login.cause_of_end(now);
    if over.is_none() {
        tracing::warn!(
            request_id,
            login = login_name,
            user,
            "a rotated {name} token came back; its login was ended"
        );
    } else if is_first {
        tracing::info!(
            request_id,
            login = login_name,
            user,
            "a {name} token came back whose login was over"
        );
    }
    over.unwrap_or(Cause::Theft)
}

/// Begins a line for a new login: its first token.
///
/// # Errors
/// When the database refuses.
pub fn begin(
    conn: &mut AnyConnection,
    login: &Login,
    purpose: Purpose,
    lifetime: Duration,
    now: Timestamp,
) -> QueryResult<(TokenId, Timestamp)> {
    let token = TokenId::new(purpose, now);
    let expires_at = login.expires_at.min(now + lifetime);
    let row = store::Token::new(&token, &login.id, None, 0, expires_at, now);
    store::insert(conn, &row)?;
    Ok((token, expires_at))
}

/// Moves the line of a living login on, although nobody presented its token: for new ids where the
/// person is known by other means. By the rules, a client that never gets the new token goes on with
/// the old one, and one that gets and uses it leaves a stolen copy of the old one worthless. `None`:
/// the login has no live token. The caller holds the login's row.
///
/// # Errors
/// When the database refuses.
pub fn advance(
    conn: &mut AnyConnection,
    login: &Login,
    purpose: Purpose,
    rules: Rules,
    now: Timestamp,
) -> QueryResult<Option<(TokenId, Timestamp)>> {
    let Some(live) = store::latest_live(conn, &login.id, purpose, now)? else {
        return Ok(None);
    };
    let successor = store::give_successor(conn, &live, login, rules, now)?;
    let token = TokenId {
        purpose,
        id: successor.id_bytes(),
    };
    Ok(Some((token, successor.expires_at)))
}

/// Presents tokens to rule 1 alone, all at once: `None` for each of which there is more to be said,
/// which is for [`rotate`]; then nothing was done for it. PostgreSQL only.
///
/// # Errors
/// As [`rotate`]; then nothing was done for any.
pub fn advance_together(
    conn: &mut AnyConnection,
    presented: &[Presented],
    rules: Rules,
) -> QueryResult<Vec<Option<Next>>> {
    let (AnyConnection::Postgres(conn), Some(lifetime)) = (conn, rules.lifetime) else {
        return Ok(presented.iter().map(|_| None).collect());
    };
    // Whether a younger one comes of a burst has to be counted.
    let settled = if rules.limited {
        WINDOW
    } else {
        Duration::ZERO
    };
    let plans: Vec<store::Plan<'_>> = presented
        .iter()
        .map(|presented| store::Plan {
            presented,
            made_by: presented.at - settled,
            successor: TokenId::new(Purpose::Refresh, presented.at),
            ends: presented.at + lifetime,
        })
        .collect();
    let advanced = store::advance(conn, &plans)?;
    let next = |plan: &store::Plan<'_>, advanced: Option<store::Advanced>| {
        advanced.map(|(expires_at, issued_at, login, user)| Next {
            login,
            user,
            token: plan.successor,
            expires_at,
            presented_age: plan.presented.at.since(issued_at),
        })
    };
    let advanced = plans.iter().zip(advanced);
    Ok(advanced.map(|(plan, done)| next(plan, done)).collect())
}

/// Presents a token: one transaction, in which theft also ends the login.
///
/// # Errors
/// When the database refuses; then nothing happened, and the client can go on with what it holds.
pub fn rotate(
    conn: &mut AnyConnection,
    presented: TokenId,
    rules: Rules,
    client: &Client,
    now: Timestamp,
) -> QueryResult<Rotation> {
    // From here on nobody else moves this login's tokens or ends it before we are done.
    store::lock_login_of(conn, &presented)?;
    let Some(found) = store::load(conn, &presented)? else {
        return Ok(Rotation::Unknown);
    };
    let store::Found {
        token, login, user, ..
    } = found;
    let disabled = user.disabled_at.map(|_| Cause::Revoked);
    let standing = Standing {
        login_over: login.cause_of_end(now).or(disabled),
        sibling_won: found.sibling_won,
        expires_at: token.expires_at,
        superseded_at: token.superseded_at,
        successor_given_at: token.successor_given_at,
        successors: token.successors,
        successor_used: found.successor_used,
    };
    let presented_age = now.since(token.issued_at);
    let next = |token: &store::Token, login, user| Next {
        presented_age,
        login,
        user,
        token: TokenId {
            purpose: presented.purpose,
            id: token.id_bytes(),
        },
        expires_at: token.expires_at,
    };
    let decision = decide(&standing, rules.grace, now);
    let makes_one = matches!(decision, Decision::Advance | Decision::NewSibling);
    // A token that is older than the window is not the last of a burst.
    if makes_one && rules.limited && token.issued_at + WINDOW > now {
        let lately = store::latest_issued(conn, &login.id, MOST_IN_WINDOW)?;
        if let Some(first) = lately.get(MOST_IN_WINDOW - 1)
            && *first + WINDOW > now
        {
            return Ok(Rotation::TooMany(now.until(*first + WINDOW)));
        }
    }
    Ok(match decision {
        Decision::Advance => {
            let successor = store::give_successor(conn, &token, &login, rules, now)?;
            Rotation::Fresh(next(&successor, login, user))
        }
        Decision::NewSibling => {
            let sibling = store::give_successor(conn, &token, &login, rules, now)?;
            Rotation::Sibling(next(&sibling, login, user))
        }
        // A grace leads to the newest token, but not beyond that one's own end.
        Decision::Newest | Decision::SameSibling => {
            let newest = store::newest_from(conn, token)?;
            if newest.expires_at <= now {
                Rotation::Expired
            } else if decision == Decision::Newest {
                Rotation::Newest(next(&newest, login, user))
            } else {
                Rotation::Sibling(next(&newest, login, user))
            }
        }
        Decision::Expired => {
            // Nobody came back in time: with its last token a login by API is over.
            if presented.purpose == Purpose::Refresh
                && !store::has_live(conn, &login.id, Purpose::Refresh, now)?
            {
                super::end(conn, &login, Cause::Unused, None, now)?;
            }
            Rotation::Expired
        }
        Decision::Theft => {
            super::end(conn, &login, Cause::Theft, None, now)?;
            let event = Event::new(EventKind::RefreshReused, &login.user_id, now)
                .of_login(&login.id)
                .seen_from(client)
                .because(presented.purpose.name());
            // Once for each login: whoever holds a dead token could fill the log with it.
            let is_first = !audit::has_kind(conn, &event)?;
            if is_first {
                audit::record(conn, &event)?;
            }
            Rotation::Reused { login, is_first }
        }
    })
}

/// Counts a token as used without presenting it: what came with it has been seen in use. A sibling
/// that has already lost stays lost.
///
/// # Errors
/// When the database refuses.
pub fn mark_used(conn: &mut AnyConnection, token: TokenId, now: Timestamp) -> QueryResult<()> {
    store::lock_login_of(conn, &token)?;
    match store::load(conn, &token)? {
        Some(found) if found.token.used_at.is_none() && !found.sibling_won => {
            store::set_used(conn, &found.token, now)
        }
        _ => Ok(()),
    }
}

/// The login that a token belongs to.
///
/// # Errors
/// When the database refuses.
pub fn login_of(conn: &mut AnyConnection, token: &TokenId) -> QueryResult<Option<Login>> {
    Ok(store::load(conn, token)?.map(|found| found.login))
}

/// The login and the person of a token that would be exchanged by rule 1, and the token's own end.
///
/// # Errors
/// When the database refuses.
pub fn live(
    conn: &mut AnyConnection,
    token: &TokenId,
    now: Timestamp,
) -> QueryResult<Option<(Login, User, Timestamp)>> {
    let found = store::load(conn, token)?.filter(|found| {
        found.login.cause_of_end(now).is_none()
            && found.user.disabled_at.is_none()
            && found.token.superseded_at.is_none()
            && !found.sibling_won
            && found.token.expires_at > now
    });
    Ok(found.map(|found| (found.login, found.user, found.token.expires_at)))
}
