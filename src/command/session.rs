//! `gapura session …`: logins, by browser and by API alike. Servers that run follow within a second.

use clap::Subcommand;

use super::{say, user};
use crate::audit::Actor;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::db::{Db, DbError};
use crate::login::{self, Cause, Client, Login};

/// More than this is no list to read.
const MOST_LISTED: i64 = 1000;

/// What can be done with logins.
#[derive(Subcommand)]
pub enum Command {
    /// Lists the logins of a person that can still be used, the latest begun first, or shows one
    List {
        /// A username, or the id of a login
        of: String,
    },
    /// Ends a login, or all logins of a person
    Revoke {
        /// The id of a login, as `gapura session list` shows it, or a username
        of: String,
    },
}

/// Carries out one of them.
pub async fn run(config: &Config, command: Command) -> Result<(), String> {
    let db = super::migrate::open(config)?;
    let now = SystemClock.now();
    match command {
        Command::List { of } => {
            let logins = match by_id(&db, &of).await? {
                Some(login) => vec![login],
                None => {
                    let user = user::find(&db, &of).await?;
                    let idle_since = now - config.clocks.session_idle_timeout;
                    let logins = db.read(move |conn| {
                        login::usable_of(conn, &user.id, None, MOST_LISTED, idle_since, now)
                    });
                    logins.await.map_err(told)?
                }
            };
            if logins.is_empty() {
                say(format_args!("{of} is signed in nowhere."))?;
            }
            for login in logins {
                let state = match login.cause_of_end(now) {
                    Some(cause) => format!("over: {}", cause.name()),
                    None => format!("last active {}", login.last_activity_at.rfc3339()),
                };
                say(format_args!(
                    "{}  {:<7}  since {}  {state}  {:<15}  {}",
                    login.id,
                    login.kind,
                    login.started_at.rfc3339(),
                    login.ip,
                    login.device
                ))?;
            }
        }
        Command::Revoke { of } => match by_id(&db, &of).await? {
            Some(login) => {
                let ended = db.write(move |conn| {
                    let client = Client::command_line();
                    let by = Actor {
                        id: None,
                        client: &client,
                    };
                    login::end(conn, &login, Cause::Revoked, Some(by), now)
                });
                match ended.await.map_err(told)? {
                    true => say(format_args!("Ended {of}."))?,
                    false => say(format_args!("{of} was over already."))?,
                }
            }
            None => {
                let user = user::find(&db, &of).await?;
                let ended = db.write(move |conn| {
                    user::end_all_of(conn, &user.id, Cause::Revoked, now)
                });
                let ended = ended.await.map_err(told)?.len();
                say(format_args!("Ended {ended} logins of {of}."))?;
            }
        },
    }
    Ok(())
}

async fn by_id(db: &Db, id: &str) -> Result<Option<Login>, String> {
    let id = id.to_owned();
    let login = db.read(move |conn| login::by_id(conn, &id));
    login.await.map_err(told)
}

fn told(error: DbError) -> String {
    error.to_string()
}
