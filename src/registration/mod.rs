//! Signing up, where `GAPURA_REGISTRATION` is open: a stranger becomes a person who is signed in, in
//! one transaction. Handlers in `http.rs`.

pub mod http;

use std::time::Duration;

use diesel::QueryResult;

use crate::account::password::{self, Weakness, normalise};
use crate::account::{self, Role, User};
use crate::app::App;
use crate::audit::{self, Event, Kind};
use crate::config::Secret;
use crate::db::AnyConnection;
use crate::error::AppError;
use crate::login::{Client, sign_in};

/// Well-formed attempts within [`WINDOW`] from one address. Each may make an account, and tells
/// whether a name is taken, so they are few; a family behind one address still gets by.
const MOST: u64 = 10;
const WINDOW: Duration = Duration::from_secs(3600);

/// What somebody who signs up sends.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub username: &'a str,
    pub email: &'a str,
    pub name: &'a str,
    pub password: &'a str,
}

/// The same, checked and normalised.
pub struct Checked {
    username: String,
    email: String,
    name: String,
    password: Secret<String>,
}

/// What is wrong with what was sent, field by field.
#[derive(Default)]
pub struct Wrong {
    pub username: Option<&'static str>,
    pub email: Option<&'static str>,
    pub name: Option<&'static str>,
    pub password: Option<Weakness>,
}

impl Wanted<'_> {
    /// Checks every field, without asking anybody.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(self, least: usize) -> Result<Checked, Wrong> {
        let mut wrong = Wrong::default();
        let username = account::username(self.username);
        let username = username.map_err(|error| wrong.username = Some(error));
        let email = account::email(self.email).map_err(|error| wrong.email = Some(error));
        let name = account::display_name(self.name).map_err(|error| wrong.name = Some(error));
        let password = normalise(self.password);
        // As typed: also the names that are not right yet are the person's own.
        let names = [self.username, self.email, self.name];
        let strong = password::check(&password, &names, least);
        let strong = strong.map_err(|weakness| wrong.password = Some(weakness));
        match (username, email, name, strong) {
            (Ok(username), Ok(email), Ok(name), Ok(())) => Ok(Checked {
                username,
                email,
                name,
                password,
            }),
            _ => Err(wrong),
        }
    }
}

/// Makes the person, not yet stored. The password is hashed before anybody looks whether the name is
/// taken: what that costs tells nothing.
///
/// # Errors
/// 429 after too many attempts from this address, 503 when too many passwords wait to be hashed.
pub async fn make(app: &App, checked: Checked, client: &Client) -> Result<User, AppError> {
    let key = format!("gapura:registrations:{}", sign_in::network(&client.ip));
    if app.config.rate_limits {
        let count = app.keystore.count_whatever_happens(&key, WINDOW).await;
        if count.number > MOST {
            return Err(AppError::RateLimited {
                retry_after: count.resets_in,
            });
        }
    }
    let hash = app.hasher.hash(checked.password).await?;
    let (username, email, name) = (checked.username, checked.email, checked.name);
    let now = app.clock.now();
    Ok(User::new(username, email, name, Role::User, hash, now))
}

/// Stores the person, with the event that says so; a taken name or address is a unique violation.
///
/// # Errors
/// When the database refuses.
pub fn store(conn: &mut AnyConnection, user: &User, client: &Client) -> QueryResult<()> {
    account::insert(conn, user)?;
    let event = Event::new(Kind::UserCreated, &user.id, user.created_at).by(&user.id, client);
    audit::record(conn, &event)
}

/// Which of the two somebody has already.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    pub username: bool,
    pub email: bool,
}

/// Looks which it was, after the database has refused both together.
///
/// # Errors
/// When the database cannot be asked.
pub async fn taken(app: &App, user: &User) -> Result<Taken, AppError> {
    let (username, email) = (user.username.clone(), user.email.clone());
    let taken = app.db.read(move |conn| {
        Ok(Taken {
            username: account::by_login_name(conn, &username)?.is_some(),
            email: account::by_login_name(conn, &email)?.is_some(),
        })
    });
    Ok(taken.await?)
}
