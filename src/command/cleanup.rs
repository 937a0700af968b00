//! `gapura cleanup`, which the server also does by itself.

use std::time::Duration;

use super::say;
use crate::app::App;
use crate::audit;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::Config;
use crate::db::{Db, DbError};
use crate::error::AppError;
use crate::figures;
use crate::keys;
use crate::login::rotation::{self, Purpose};
use crate::login::{self, Cause, Kind, Login};
use crate::session;
use crate::token::personal;

/// How long a login is kept after its hard end: a token of it that comes back is still recognised,
/// and the person can still be told what became of it.
const KEPT_AFTER_END: Duration = Duration::from_secs(7 * 86_400);
/// How long a personal token is kept that has expired or was revoked: its program is told why it is
/// refused, and its person sees which one it was.
const TOKENS_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// How long the end of a login waits for a node that counts it.
const ENDS_KEPT: Duration = Duration::from_secs(86_400);
/// Rows deleted in one transaction, so that nobody waits for long.
const STEP: i64 = 200;

/// Deletes what has expired and says how much.
pub async fn run(config: &Config) -> Result<(), String> {
    let db = super::migrate::open(config)?;
    let deleted = sweep(&db, config, SystemClock.now()).await;
    let Deleted {
        logins,
        tokens,
        events,
    } = deleted.map_err(|error| error.to_string())?;
    say(format_args!(
        "Deleted {logins} old logins, {tokens} old personal tokens and {events} old audit events."
    ))?;
    Ok(())
}

/// How much was deleted.
pub struct Deleted {
    pub logins: usize,
    pub tokens: usize,
    pub events: usize,
}

/// Deletes what has expired: logins with their tokens, personal tokens, audit events, figures
/// and signing keys.
pub async fn sweep(db: &Db, config: &Config, now: Timestamp) -> Result<Deleted, DbError> {
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
    let lifetime = config.clocks.login_lifetime;
    db.write(move |conn| keys::delete_old(conn, lifetime, now))
        .await?;
    let tokens = db
        .write(move |conn| personal::delete_old(conn, now - TOKENS_KEPT))
        .await?;
    db.write(move |conn| login::delete_uncounted(conn, now - ENDS_KEPT))
        .await?;
    let oldest = now - config.audit_retention;
    db.write(move |conn| figures::delete_before(conn, figures::day_of(oldest)))
        .await?;
    let mut events = 0;
    loop {
        let step = db
            .write(move |conn| audit::delete_before(conn, oldest, STEP))
            .await?;
        events += step;
        if (step as i64) < STEP {
            break;
        }
    }
    Ok(Deleted {
        logins,
        tokens,
        events,
    })
}

/// Ends the logins that are over though nobody came back to be told, so that the log says when and
/// why. Whether a browser is idle is for its activity key to say, not for the copy in the database.
///
/// # Errors
/// When database or keystore cannot be asked; the next time goes on from there.
pub async fn end_overdue(app: &App, now: Timestamp) -> Result<(), AppError> {
    let idle_since = now - app.config.clocks.session_idle_timeout;
    let mut after = String::new();
    loop {
        let from = after.clone();
        let over = app
            .db
            .read(move |conn| login::overdue(conn, &from, STEP, idle_since, now))
            .await?;
        let Some(last) = over.last() else {
            return Ok(());
        };
        after.clone_from(&last.id);
        for login in over {
            end_one(app, login, now).await?;
        }
    }
}

async fn end_one(app: &App, login: Login, now: Timestamp) -> Result<(), AppError> {
    if login.kind == Kind::Browser.name() {
        let [activity] = app
            .keystore
            .get([&*session::activity_key(&login.id)])
            .await?;
        let activity = activity.and_then(|text| text.parse().ok());
        let activity = activity.map(Timestamp::from_seconds);
        if let Some(at) = activity {
            app.persist_activity(&login.id, at);
        }
        session::conclude(app, login.id, activity, now).await?;
        return Ok(());
    }
    let cause = match login.expires_at <= now {
        true => Cause::Lifetime,
        false => Cause::Unused,
    };
    let ending = login.clone();
    let ended = app.db.write(move |conn| {
        // Refreshed in the meantime, it is in use again.
        let unused = !rotation::has_live(conn, &ending.id, Purpose::Refresh, now)?;
        Ok((cause == Cause::Lifetime || unused) && login::end(conn, &ending, cause, None, now)?)
    });
    if ended.await? {
        app.announce(&login, cause);
    }
    Ok(())
}
