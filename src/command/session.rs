//! `gapura session …`: logins, by browser and by API alike. Servers that run follow within a second.

use std::collections::HashMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{say, user};
use crate::account;
use crate::audit::Actor;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{Config, parse_duration};
use crate::db::{Db, DbError};
use crate::id;
use crate::login::{self, Cause, Client, Login};

/// More than this is no list to read.
const MOST_LISTED: usize = 1000;
/// Of everybody's logins so many are listed unless more are asked for.
const LISTED: usize = 100;
/// Logins looked at by one query.
const STRETCH: i64 = 1000;
/// Logins ended in one transaction where all are, so that nobody waits for long.
const STEP: i64 = 100;

/// What can be done with logins.
#[derive(Subcommand)]
pub enum Command {
    /// Lists the logins that can still be used, the latest begun first, or shows one
    List {
        /// A username, an email address or the id of a login; everybody's where it is not given
        of: Option<String>,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Ends a login, all logins of a person, or all there are
    Revoke {
        /// The id of a login, as `gapura session list` shows it, or a username
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        of: Option<String>,
        /// Logs everybody out, as after a leak or a restored backup
        #[arg(long)]
        all: bool,
    },
}

/// Which logins are listed.
#[derive(Args)]
pub struct Wanted {
    /// Only those that began within this time, as in 90s, 10m, 20h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Only those that were in use within this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    active_since: Option<Duration>,
    /// How many at most, 1000 or less; 100 of everybody's where it is not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: Option<u16>,
}

impl Wanted {
    fn has(&self, login: &Login, now: Timestamp) -> bool {
        let lately = |within: Option<Duration>, at| within.is_none_or(|within| at >= now - within);
        lately(self.since, login.started_at) && lately(self.active_since, login.last_activity_at)
    }

    const fn in_words(&self) -> &str {
        match (self.since, self.active_since) {
            (None, None) => "",
            _ => " by a login like that",
        }
    }
}

/// Carries out one of them.
pub async fn run(config: &Config, command: Command) -> Result<(), String> {
    let db = super::migrate::open(config)?;
    let now = SystemClock.now();
    let idle_since = now - config.clocks.session_idle_timeout;
    match command {
        Command::List { of: None, wanted } => list_all(&db, &wanted, idle_since, now).await?,
        Command::List {
            of: Some(of),
            wanted,
        } => {
            if let Some(login) = by_id(&db, &of).await? {
                return show(&login, None, now);
            }
            let user = user::find(&db, &of).await?;
            let most = MOST_LISTED as i64;
            let logins =
                db.read(move |conn| login::usable_of(conn, &user.id, None, most, idle_since, now));
            let mut logins = logins.await.map_err(told)?;
            let is_cut_off = logins.len() == MOST_LISTED;
            logins.retain(|login| wanted.has(login, now));
            let limit = wanted.limit.map_or(MOST_LISTED, usize::from);
            let more = logins.len().saturating_sub(limit);
            logins.truncate(limit);
            if logins.is_empty() {
                say(format_args!(
                    "{of} is signed in nowhere{}.",
                    wanted.in_words()
                ))?;
            }
            for login in &logins {
                show(login, None, now)?;
            }
            if is_cut_off {
                say(format_args!(
                    "These are among the latest {MOST_LISTED}; there may be more."
                ))?;
            } else if more > 0 {
                say(format_args!("{}.", there_are(more)))?;
            }
        }
        Command::Revoke { of: None, .. } => {
            let ended = end_all(&db, now).await.map_err(told)?;
            say(format_args!("Ended {ended} logins."))?;
        }
        Command::Revoke { of: Some(of), .. } => match by_id(&db, &of).await? {
            Some(login) => {
                let ended = db.write(move |conn| {
                    let client = Client::command_line();
                    login::end(conn, &login, Cause::Revoked, Some(operator(&client)), now)
                });
                match ended.await.map_err(told)? {
                    true => say(format_args!("Ended {of}."))?,
                    false => say(format_args!("{of} was over already."))?,
                }
            }
            None => {
                let user = user::find(&db, &of).await?;
                let ended =
                    db.write(move |conn| user::end_all_of(conn, &user.id, Cause::Revoked, now));
                let ended = ended.await.map_err(told)?.len();
                say(format_args!("Ended {ended} logins of {of}."))?;
            }
        },
    }
    Ok(())
}

/// Lists everybody's logins, stretch by stretch: there may be a million.
async fn list_all(
    db: &Db,
    wanted: &Wanted,
    idle_since: Timestamp,
    now: Timestamp,
) -> Result<(), String> {
    let limit = wanted.limit.map_or(LISTED, usize::from);
    let began = wanted.since.map(|since| id::first_of(now - since));
    let since = began.map(|id| id.to_string()).unwrap_or_default();
    let mut before = Uuid::max().to_string();
    let (mut listed, mut more) = (Vec::new(), 0);
    loop {
        let since = since.clone();
        let stretch = db.read(move |conn| {
            login::usable_before(conn, &before, &since, STRETCH, idle_since, now)
        });
        let Some((usable, next)) = stretch.await.map_err(told)? else {
            break;
        };
        for login in usable.into_iter().filter(|login| wanted.has(login, now)) {
            match listed.len() < limit {
                true => listed.push(login),
                false => more += 1,
            }
        }
        before = next;
    }
    if listed.is_empty() {
        return say(format_args!("Nobody is signed in{}.", wanted.in_words()));
    }
    let ids: Vec<String> = listed.iter().map(|login| login.user_id.clone()).collect();
    let users = db.read(move |conn| {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        account::by_ids(conn, &ids)
    });
    let users = users.await.map_err(told)?;
    let names: HashMap<_, _> = users
        .iter()
        .map(|user| (&user.id, &*user.username))
        .collect();
    for login in &listed {
        show(login, names.get(&login.user_id).copied(), now)?;
    }
    if more > 0 {
        say(format_args!(
            "{}: --limit shows more of them, --since and --active-since fewer.",
            there_are(more)
        ))?;
    }
    Ok(())
}

fn there_are(more: usize) -> String {
    match more {
        1 => "There is 1 more".to_owned(),
        _ => format!("There are {more} more"),
    }
}

/// Prints a login, and whose it is where that is not clear.
fn show(login: &Login, username: Option<&str>, now: Timestamp) -> Result<(), String> {
    let state = match login.cause_of_end(now) {
        Some(cause) => format!("over: {}", cause.name()),
        None => format!("last active {}", login.last_activity_at.rfc3339()),
    };
    let username = username
        .map(|name| format!("{name:<16}  "))
        .unwrap_or_default();
    say(format_args!(
        "{}  {username}{:<7}  since {}  {state}  {:<15}  {}",
        login.id,
        login.kind,
        login.started_at.rfc3339(),
        login.ip,
        login.device
    ))
}

/// Ends every login there is, and tells how many.
async fn end_all(db: &Db, now: Timestamp) -> Result<usize, DbError> {
    let (mut after, mut count) = (String::new(), 0);
    loop {
        let from = after.clone();
        let ended = db.write(move |conn| {
            let client = Client::command_line();
            let living = login::living_after(conn, &from, STEP, now)?;
            login::end_each(conn, &living, Cause::Revoked, Some(operator(&client)), now)?;
            Ok(living)
        });
        let ended = ended.await?;
        let Some(last) = ended.last() else {
            return Ok(count);
        };
        after.clone_from(&last.id);
        count += ended.len();
    }
}

/// Somebody at the command line of the server.
const fn operator(client: &Client) -> Actor<'_> {
    Actor { id: None, client }
}

async fn by_id(db: &Db, id: &str) -> Result<Option<Login>, String> {
    let id = id.to_owned();
    let login = db.read(move |conn| login::by_id(conn, &id));
    login.await.map_err(told)
}

fn told(error: DbError) -> String {
    error.to_string()
}
