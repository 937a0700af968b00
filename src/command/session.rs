//! `gapura session …`: logins, by browser and by API alike. Servers that run follow within a second.

use clap::Subcommand;

use super::{say, user};
use crate::audit::Actor;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::Config;
use crate::db::{Db, DbError};
use crate::login::{self, Cause, Client, Login};

/// More than this is no list to read.
const MOST_LISTED: i64 = 1000;
/// Logins ended in one transaction where all are, so that nobody waits for long.
const STEP: i64 = 100;

/// What can be done with logins.
#[derive(Subcommand)]
pub enum Command {
    /// Lists the logins of a person that can still be used, the latest begun first, or shows one
    List {
        /// A username, or the id of a login
        of: String,
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
            let is_cut_off = logins.len() as i64 == MOST_LISTED;
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
            if is_cut_off {
                say(format_args!(
                    "These are the latest {MOST_LISTED}; there may be more."
                ))?;
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

/// Ends every login there is, and tells how many.
async fn end_all(db: &Db, now: Timestamp) -> Result<usize, DbError> {
    let (mut after, mut count) = (String::new(), 0);
    loop {
        let from = after.clone();
        let ended = db.write(move |conn| {
            let client = Client::command_line();
            let living = login::living_after(conn, &from, STEP, now)?;
            for login in &living {
                login::end(conn, login, Cause::Revoked, Some(operator(&client)), now)?;
            }
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
