//! Personal tokens, for programs: `<id>|gpr_<40 characters><checksum>`. A secret scanner recognises
//! one, and a typo is told without asking the database. Here are the rules; what was looked up is
//! remembered for a moment in [`memory`], handlers are in `http.rs`, rows in `store.rs`.

pub mod http;
pub mod memory;
mod store;

use std::time::Duration;

use aws_lc_rs::constant_time;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use diesel::prelude::*;
use uuid::Uuid;

pub use self::store::{count_living, delete_old, of_user, page_of_user};
use crate::account::is_invisible;
use crate::audit::{self, Actor, Event, Kind};
use crate::caller::scope::{Scope, Scopes};
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::db::{AnyConnection, hold_user};
use crate::id;
use crate::login::{self, Client, Login};
use crate::vault::{Secrets, random};

const PREFIX: &str = "gpr_";
/// 240 bits, as many as 40 characters carry that need no escaping anywhere (base64url). Letters and
/// digits alone would make 238.
const RANDOM_BYTES: usize = 30;
const RANDOM_CHARACTERS: usize = 40;
/// As many digits in base 62 as a CRC-32 can have.
const CHECKSUM_CHARACTERS: usize = 6;
const LONGEST_NAME: usize = 100;
/// What a token is called that came with the login of a device without a name.
const NAMELESS: &str = "API";
const DAY: Duration = Duration::from_secs(86_400);

/// As tokens of other services end, so that scanners know the scheme: a CRC-32 in base 62.
fn checksum(text: &str) -> String {
    let digits = base62::encode(crc32fast::hash(text.as_bytes()));
    format!("{digits:0>CHECKSUM_CHARACTERS$}")
}

/// A presented text that has the shape of a personal token. Whether there is such a token is another
/// question.
pub struct Candidate {
    id: String,
    mac: [u8; 32],
}

impl Candidate {
    /// Whether a bearer means to be a personal token: no other kind has that sign in it.
    pub fn is_meant(text: &str) -> bool {
        text.contains('|')
    }

    /// Reads a presented text, without I/O. `None`: mistyped, or something else.
    pub fn read(secrets: &Secrets, text: &str) -> Option<Self> {
        let end = text.len().checked_sub(CHECKSUM_CHARACTERS)?;
        let (body, sum) = text.split_at_checked(end)?;
        let (id, secret) = body.split_once('|')?;
        let secret = secret.strip_prefix(PREFIX)?;
        let of_alphabet = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let well_formed = id.len() == uuid::fmt::Hyphenated::LENGTH
            && Uuid::try_parse(id).is_ok()
            && secret.len() == RANDOM_CHARACTERS
            && secret.chars().all(of_alphabet)
            && checksum(body) == sum;
        well_formed.then(|| Self {
            id: id.to_owned(),
            mac: secrets.personal_token_mac(text),
        })
    }
}

/// A personal token as it is stored.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = crate::db::schema::personal_tokens)]
pub struct Token {
    /// UUIDv7.
    pub id: String,
    pub user_id: String,
    /// The login that it ends with, if it came with one.
    pub login_id: Option<String>,
    pub name: String,
    scopes: String,
    mac: Vec<u8>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
    pub last_used_ip: Option<String>,
    pub revoked_at: Option<Timestamp>,
}

impl Token {
    /// A new token, and its text, which exists nowhere else.
    pub fn new(
        secrets: &Secrets,
        id: Uuid,
        user_id: &str,
        draft: &Draft,
        now: Timestamp,
    ) -> (Self, Secret<String>) {
        let secret = BASE64_URL_SAFE_NO_PAD.encode(random::<RANDOM_BYTES>());
        let body = format!("{id}|{PREFIX}{secret}");
        let text = format!("{body}{}", checksum(&body));
        let token = Self {
            id: id.to_string(),
            user_id: user_id.to_owned(),
            login_id: None,
            name: draft.name.clone(),
            scopes: draft.scopes.names().join(" "),
            mac: secrets.personal_token_mac(&text).to_vec(),
            created_at: now,
            expires_at: now + draft.lifetime,
            last_used_at: None,
            last_used_ip: None,
            revoked_at: None,
        };
        (token, Secret::new(text))
    }

    /// The token that comes with a login whose password has just been given, and ends with it: for
    /// every scope, under the name of the device.
    pub fn of_login(secrets: &Secrets, login: &Login, longest: Duration) -> (Self, Secret<String>) {
        let now = login.started_at;
        let name = match login.device.as_str() {
            "" => NAMELESS,
            device => device,
        };
        let draft = Draft {
            name: name.to_owned(),
            scopes: Scopes::all(),
            lifetime: longest.min(now.until(login.expires_at)),
        };
        let (token, text) = Self::new(secrets, id::new(now), &login.user_id, &draft, now);
        let login_id = Some(login.id.clone());
        (Self { login_id, ..token }, text)
    }

    /// What it may do.
    pub fn scopes(&self) -> Scopes {
        Scopes::known(self.scopes.split(' '))
    }

    /// Whether `candidate` is this token; in constant time.
    fn is(&self, candidate: &Candidate) -> bool {
        constant_time::verify_slices_are_equal(&self.mac, &candidate.mac).is_ok()
    }
}

/// A token that somebody wants, checked.
#[derive(Debug)]
pub struct Draft {
    name: String,
    scopes: Scopes,
    lifetime: Duration,
}

/// What is wrong with a wanted token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    NoName,
    LongName,
    InvisibleName,
    NoScopes,
    UnknownScope,
    Days,
}

impl Flaw {
    /// The field it is about.
    pub const fn field(self) -> &'static str {
        match self {
            Self::NoName | Self::LongName | Self::InvisibleName => "name",
            Self::NoScopes | Self::UnknownScope => "scopes",
            Self::Days => "expires_in_days",
        }
    }

    /// Where its sentence is among the texts.
    pub const fn key(self) -> &'static str {
        match self {
            Self::NoName => "tokens.flaw.no_name",
            Self::LongName => "tokens.flaw.long_name",
            Self::InvisibleName => "tokens.flaw.invisible_name",
            Self::NoScopes => "tokens.flaw.no_scopes",
            Self::UnknownScope => "tokens.flaw.unknown_scope",
            Self::Days => "tokens.flaw.days",
        }
    }
}

/// The most days that may be asked for, where a token lives for `longest` at most.
pub fn most_days(longest: Duration) -> u64 {
    longest.as_secs().div_ceil(DAY.as_secs())
}

impl Draft {
    /// Checks what somebody wants. Without scopes it is every scope, without days the longest life.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(
        name: &str,
        scopes: Option<&[String]>,
        days: Option<u64>,
        longest: Duration,
    ) -> Result<Self, Vec<Flaw>> {
        let name = name.trim();
        let mut flaws = Vec::new();
        if name.is_empty() {
            flaws.push(Flaw::NoName);
        } else if name.chars().count() > LONGEST_NAME {
            flaws.push(Flaw::LongName);
        } else if name.chars().any(is_invisible) {
            flaws.push(Flaw::InvisibleName);
        }
        let named = scopes.map_or_else(
            || Some(Scopes::all()),
            |names| Scopes::named(names.iter().map(String::as_str)),
        );
        if named.is_none() {
            flaws.push(match scopes {
                Some([]) => Flaw::NoScopes,
                _ => Flaw::UnknownScope,
            });
        }
        if days.is_some_and(|days| !(1..=most_days(longest)).contains(&days)) {
            flaws.push(Flaw::Days);
        }
        match named {
            Some(scopes) if flaws.is_empty() => Ok(Self {
                name: name.to_owned(),
                scopes,
                lifetime: days.map_or(longest, |days| {
                    longest.min(Duration::from_secs(days.saturating_mul(DAY.as_secs())))
                }),
            }),
            _ => Err(flaws),
        }
    }
}

/// Adds a token that was asked for from a login; `false` if that login has ended by now: whoever
/// ended it, with the tokens or for fear of theft, must not find this one afterwards.
///
/// # Errors
/// When the database refuses; a unique violation if there is a token with that id.
pub fn create(
    conn: &mut AnyConnection,
    token: &Token,
    from_login: &str,
    client: &Client,
) -> QueryResult<bool> {
    hold_user(conn, &token.user_id)?;
    let login = login::by_id(conn, from_login)?;
    if login.is_none_or(|login| login.cause_of_end(token.created_at).is_some()) {
        return Ok(false);
    }
    store::insert(conn, token)?;
    let event = Event::new(Kind::TokenCreated, &token.user_id, token.created_at)
        .by(&token.user_id, client)
        .of_login(from_login);
    audit::record(conn, &event.about(&token.name))?;
    Ok(true)
}

/// Adds the token that came with a login, in the place of those that came with earlier logins of a
/// device of that name. Whoever calls this then lets the node forget what it remembers
/// ([`memory::Memory::forget`]).
///
/// # Errors
/// When the database refuses.
pub fn replace(
    conn: &mut AnyConnection,
    token: &Token,
    login: &Login,
    client: &Client,
) -> QueryResult<()> {
    for before in store::of_device(conn, &token.user_id, &token.name)? {
        let by = Actor::person(&token.user_id, client);
        revoke_as(conn, &before, by, token.created_at)?;
    }
    create(conn, token, &login.id, client).map(drop)
}

/// Revokes one token of a person; `false`: they have no such token.
///
/// # Errors
/// When the database refuses.
pub fn revoke(
    conn: &mut AnyConnection,
    user_id: &str,
    id: &str,
    client: &Client,
    now: Timestamp,
) -> QueryResult<bool> {
    match store::by_id(conn, id)?.filter(|token| token.user_id == user_id) {
        Some(token) => revoke_as(conn, &token, Actor::person(user_id, client), now),
        None => Ok(false),
    }
}

/// Revokes every token of a person, and tells how many. Whoever calls this then lets the node forget
/// what it remembers ([`memory::Memory::forget`]).
///
/// # Errors
/// When the database refuses.
pub fn revoke_all_of(
    conn: &mut AnyConnection,
    user_id: &str,
    by: Actor<'_>,
    now: Timestamp,
) -> QueryResult<usize> {
    let mut revoked = 0;
    for token in of_user(conn, user_id)? {
        revoked += usize::from(revoke_as(conn, &token, by, now)?);
    }
    Ok(revoked)
}

fn revoke_as(
    conn: &mut AnyConnection,
    token: &Token,
    by: Actor<'_>,
    now: Timestamp,
) -> QueryResult<bool> {
    if !store::revoke(conn, &token.id, now)? {
        return Ok(false);
    }
    let event = Event::new(Kind::TokenRevoked, &token.user_id, now).done_by(by);
    audit::record(conn, &event.about(&token.name))?;
    Ok(true)
}

/// The scopes that a page offers, those of administrators to administrators alone: to others they
/// would be of no use.
pub fn offered(is_admin: bool) -> impl Iterator<Item = Scope> {
    let of_admins = [Scope::UsersRead, Scope::UsersWrite];
    Scope::ALL
        .into_iter()
        .filter(move |scope| is_admin || !of_admins.contains(scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        Secrets::derive(&Secret::new(vec![7; 32]))
    }

    fn new(secrets: &Secrets) -> (Token, Secret<String>) {
        let draft = Draft::check("x", None, None, DAY).expect("a draft");
        let now = Timestamp::from_seconds(1_800_000_000);
        Token::new(secrets, crate::id::new(now), "somebody", &draft, now)
    }

    #[test]
    fn a_token_has_its_shape_and_is_recognised() {
        let secrets = secrets();
        for _ in 0..200 {
            let (token, text) = new(&secrets);
            let text = text.expose();
            let (id, rest) = text.split_once('|').expect("a bar");
            assert_eq!(id, token.id);
            assert_eq!(rest.len(), "gpr_".len() + 40 + 6);
            let candidate = Candidate::read(&secrets, text).expect("the shape");
            assert!(token.is(&candidate));
            assert!(!new(&secrets).0.is(&candidate));
        }
    }

    #[test]
    fn every_typo_is_told() {
        let secrets = secrets();
        let (_, text) = new(&secrets);
        let text = text.expose();
        for at in 0..text.len() {
            for other in ['A', 'b', '0', '-', '|', ' ', 'é'] {
                let mut typo: Vec<char> = text.chars().collect();
                if typo[at] != other {
                    typo[at] = other;
                    let typo: String = typo.into_iter().collect();
                    assert!(Candidate::read(&secrets, &typo).is_none(), "{typo}");
                }
            }
            assert!(Candidate::read(&secrets, &text[..at]).is_none());
        }
    }

    #[test]
    fn a_wanted_token_is_checked() {
        let year = 365 * DAY;
        let check = |name: &str, scopes: Option<&[&str]>, days| {
            let scopes: Option<Vec<String>> =
                scopes.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            Draft::check(name, scopes.as_deref(), days, year)
                .map(|draft| (draft.scopes.names(), draft.lifetime))
        };
        assert_eq!(check(" ci ", None, None), Ok((vec!["*"], year)));
        let two = ["verify", "profile:read", "verify"];
        let each_once = vec!["profile:read", "verify"];
        assert_eq!(check("ci", Some(&two), Some(1)), Ok((each_once, DAY)));
        let all = Some(&["verify", "*"][..]);
        assert_eq!(check("ci", all, Some(365)), Ok((vec!["*"], year)));
        assert_eq!(check(" ", None, None), Err(vec![Flaw::NoName]));
        let long = "x".repeat(101);
        assert_eq!(check(&long, None, None), Err(vec![Flaw::LongName]));
        assert_eq!(
            check("a\u{202e}b", Some(&[]), Some(0)),
            Err(vec![Flaw::InvisibleName, Flaw::NoScopes, Flaw::Days])
        );
        assert_eq!(
            check("ci", Some(&["verify", "root"]), Some(366)),
            Err(vec![Flaw::UnknownScope, Flaw::Days])
        );
    }
}
