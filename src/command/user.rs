//! `gapura user …`. Passwords are prompted for or read from standard input, never an argument.

use std::io::{IsTerminal, Read};

use clap::Subcommand;
use diesel::QueryResult;

use super::say;
use crate::account::password::{self, Hasher, normalise};
use crate::account::{self, Role, User};
use crate::admin::{self, Changes, Doer, Outcome, Refusal};
use crate::audit::{self, Actor, Event, Kind};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{Config, Secret};
use crate::db::{AnyConnection, Db, DbError, is_unique_violation};
use crate::i18n::Lang;
use crate::login::{self, Cause, Client, Login};

/// What can be done with people.
#[derive(Subcommand)]
pub enum Command {
    /// Adds a person; the password is prompted for, or read from standard input
    Add {
        username: String,
        #[arg(long)]
        email: String,
        /// Display name; the username where it is not given
        #[arg(long)]
        name: Option<String>,
        /// user or admin
        #[arg(long, default_value = "user")]
        role: String,
    },
    /// Lists everybody, and who is disabled or closed after a hundred wrong passwords in a row
    List,
    /// Sets a new password, prompted for or read from standard input, and ends the person's logins;
    /// opens an account that wrong passwords have closed
    SetPassword { username: String },
    /// Sets a role, user or admin; who is an administrator no longer is logged out everywhere
    SetRole { username: String, role: String },
    /// Refuses a person from now on and ends their logins
    Disable { username: String },
    /// Lets a person in again
    Enable { username: String },
}

/// Carries out one of them.
pub async fn run(config: &Config, command: Command) -> Result<(), String> {
    let db = match &command {
        // The first person may be there before the first server.
        Command::Add { .. } => super::migrate::open_or_make(config)?,
        _ => super::migrate::open(config)?,
    };
    match command {
        Command::Add {
            username,
            email,
            name,
            role,
        } => {
            let role = named_role(&role)?;
            let username = account::username(&username)?;
            let email = account::email(&email)?;
            let name = account::display_name(name.as_deref().unwrap_or(&username))?;
            let password = ask_password()?;
            let hash = hash(config, &password, &[&username, &email, &name]).await?;
            let now = SystemClock.now();
            let user = User::new(username.clone(), email, name, role, hash, now);
            add(&db, user).await?;
            say(format_args!("Added {username}."))?;
        }
        Command::List => {
            let users = db.read(account::all).await.map_err(told)?;
            for user in users {
                let closed = format!("closed by {} failures in a row", user.failures_in_a_row);
                let state: Vec<&str> = [
                    user.disabled_at.map(|_| "disabled"),
                    user.is_closed().then_some(&closed),
                ]
                .into_iter()
                .flatten()
                .collect();
                say(format_args!(
                    "{:<24} {:<6} {:<32} {:<24} {}",
                    user.username,
                    user.role,
                    user.email,
                    user.name,
                    state.join(", ")
                ))?;
            }
        }
        Command::SetPassword { username } => {
            let user = find(&db, &username).await?;
            let password = ask_password()?;
            let hash = hash(
                config,
                &password,
                &[&user.username, &user.email, &user.name],
            )
            .await?;
            let now = SystemClock.now();
            let changed = db.write(move |conn| {
                if !account::set_password_hash(conn, &user.id, &user.password_hash, &hash)? {
                    return Ok(None);
                }
                account::clear_failures(conn, &user.id)?;
                record(conn, Kind::PasswordChanged, &user.id, now)?;
                end_all_of(conn, &user.id, Cause::PasswordChanged, now).map(Some)
            });
            let ended = changed.await.map_err(told)?;
            let ended =
                ended.ok_or("somebody changed this password at the same moment; try again")?;
            say(format_args!(
                "Changed the password of {username} and ended {} logins.",
                ended.len()
            ))?;
        }
        Command::SetRole { username, role } => {
            let role = named_role(&role)?;
            let changes = Changes {
                role: Some(role),
                ..Changes::default()
            };
            let ended = change(&db, &username, changes).await?;
            let role = role.name();
            say(format_args!(
                "The role of {username} is {role} now; ended {ended} logins."
            ))?;
        }
        Command::Disable { username } => {
            let changes = Changes {
                disabled: Some(true),
                ..Changes::default()
            };
            let ended = change(&db, &username, changes).await?;
            say(format_args!(
                "Disabled {username} and ended {ended} logins."
            ))?;
        }
        Command::Enable { username } => {
            let changes = Changes {
                disabled: Some(false),
                ..Changes::default()
            };
            change(&db, &username, changes).await?;
            say(format_args!("Enabled {username}."))?;
        }
    }
    Ok(())
}

fn named_role(role: &str) -> Result<Role, String> {
    Role::named(role).ok_or_else(|| "the role must be user or admin".to_owned())
}

/// Changes a person by the rules that administrators have, and tells how many logins ended.
async fn change(db: &Db, username: &str, changes: Changes) -> Result<usize, String> {
    let user = find(db, username).await?;
    let now = SystemClock.now();
    let changed =
        db.write(move |conn| admin::change(conn, &user.id, &changes, &Doer::operator(), now));
    match changed.await.map_err(told)? {
        Outcome::Done(done) => Ok(done.ended.len()),
        Outcome::Unknown => Err(format!("there is nobody called {username}")),
        Outcome::Refused(Refusal::LastAdmin | Refusal::Myself) => Err(format!(
            "{username} is the only administrator who can log in; make somebody else one first"
        )),
    }
}

/// Adds a person, with the event that says so.
pub async fn add(db: &Db, user: User) -> Result<(), String> {
    let added = db.write(move |conn| admin::create(conn, &user, &Doer::operator()));
    added.await.map_err(|error| match error {
        DbError::Query(error) if is_unique_violation(&error) => {
            "somebody has this username or address already".to_owned()
        }
        error => told(error),
    })
}

fn record(conn: &mut AnyConnection, kind: Kind, user_id: &str, now: Timestamp) -> QueryResult<()> {
    let event = Event::new(kind, user_id, now).seen_from(&Client::command_line());
    audit::record(conn, &event)
}

/// Ends every login of a person, for an operator.
pub fn end_all_of(
    conn: &mut AnyConnection,
    user_id: &str,
    cause: Cause,
    now: Timestamp,
) -> QueryResult<Vec<Login>> {
    let client = Client::command_line();
    let by = Actor {
        id: None,
        client: &client,
    };
    login::end_all_of(conn, user_id, cause, None, Some(by), now)
}

/// The person with that username, address or, as the log has it, id.
pub async fn find(db: &Db, username: &str) -> Result<User, String> {
    let name = username.to_owned();
    let found = db.read(move |conn| match account::by_login_name(conn, &name)? {
        None => account::by_id(conn, &name),
        found => Ok(found),
    });
    let found = found.await.map_err(told)?;
    found.ok_or_else(|| format!("there is nobody called {username}"))
}

async fn hash(
    config: &Config,
    password: &Secret<String>,
    names: &[&str],
) -> Result<String, String> {
    let weak = password::check(password, names, config.password_min_length).err();
    if let Some(weakness) = weak {
        return Err(weakness.sentence(Lang::English));
    }
    let hashed = Hasher::new(config)?.hash(password.clone()).await;
    hashed.map_err(|error| {
        error
            .cause()
            .unwrap_or("the password cannot be hashed")
            .to_owned()
    })
}

fn ask_password() -> Result<Secret<String>, String> {
    let told = |error: std::io::Error| format!("the password cannot be read: {error}");
    if std::io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ").map_err(told)?;
        let again = rpassword::prompt_password("Once more: ").map_err(told)?;
        if password != again {
            return Err("the two passwords differ".to_owned());
        }
        return Ok(normalise(&password));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .map_err(told)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.contains(char::is_control) {
        return Err(
            "the password must be one line, without characters that cannot be typed".to_owned(),
        );
    }
    Ok(normalise(password))
}

fn told(error: DbError) -> String {
    error.to_string()
}
