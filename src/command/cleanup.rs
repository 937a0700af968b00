//! `gapura cleanup`, which the server also does by itself.

use std::time::Duration;

use super::say;
use crate::audit;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::Config;
use crate::db::{Db, DbError};
use crate::figures;
use crate::login;

/// How long a login is kept after its hard end: a token of it that comes back is still recognised,
/// and the person can still be told what became of it.
const KEPT_AFTER_END: Duration = Duration::from_secs(7 * 86_400);
/// Logins deleted in one transaction, so that nobody waits for long.
const STEP: i64 = 200;

/// Deletes what has expired and says how much.
pub async fn run(config: &Config) -> Result<(), String> {
    let db = super::migrate::open(config)?;
    let deleted = sweep(&db, config, SystemClock.now()).await;
    let (logins, events) = deleted.map_err(|error| error.to_string())?;
    say(format_args!(
        "Deleted {logins} old logins and {events} old audit events."
    ))?;
    Ok(())
}

/// Deletes what has expired: logins with their tokens, audit events and figures.
pub async fn sweep(db: &Db, config: &Config, now: Timestamp) -> Result<(usize, usize), DbError> {
    let mut logins = 0;
    loop {
        let step = db
            .write(move |conn| login::delete_old(conn, now - KEPT_AFTER_END, STEP))
            .await?;
        logins += step;
        if (step as i64) < STEP {
            break;
        }
    }
    let oldest = now - config.audit_retention;
    let events = db
        .write(move |conn| {
            figures::delete_before(conn, figures::day_of(oldest))?;
            audit::delete_before(conn, oldest)
        })
        .await?;
    Ok((logins, events))
}
