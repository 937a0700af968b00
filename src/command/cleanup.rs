//! `gapura cleanup`, which the server also does by itself.

use std::time::Duration;

use diesel::QueryResult;
use tokio::time::Instant;

use super::say;
use crate::app::App;
use crate::audit;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::Config;
use crate::db::{AnyConnection, Db, DbError};
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
/// Logins deleted in one transaction, with as many of their tokens, or so many other rows: few
/// milliseconds, since others' writes wait for it.
const STEP: i64 = 200;
/// Logins looked at by one query.
const STRETCH: i64 = 1000;
/// A pause is so many times as long as the step before it: most of the time is the others'.
const REST: u32 = 2;

/// Deletes what has expired and says how much.
pub async fn run(config: &Config) -> Result<(), String> {
    let db = super::migrate::open(config)?;
    let deleted = sweep(&db, config, SystemClock.now()).await;
    let Deleted {
        logins,
        tokens,
        events,
        ..
    } = deleted.map_err(|error| error.to_string())?;
    say(format_args!(
        "Deleted {logins} old logins, {tokens} old personal tokens and {events} old audit events."
    ))?;
    Ok(())
}

/// How much was deleted.
#[derive(Default)]
pub struct Deleted {
    pub logins: usize,
    pub tokens: usize,
    pub events: usize,
    /// How long others' writes waited for a step at the most.
    pub longest_step: Duration,
}

/// Deletes what has expired, in small steps with pauses between them: logins with their tokens,
/// what the feed said of them, personal tokens, audit events, figures and signing keys.
///
/// # Errors
/// When the database cannot be asked; the next time goes on from there.
pub async fn sweep(db: &Db, config: &Config, now: Timestamp) -> Result<Deleted, DbError> {
    let mut deleted = Deleted::default();
    let longest = &mut deleted.longest_step;
    let lifetime = config.clocks.login_lifetime;
    db.write(move |conn| keys::delete_old(conn, lifetime, now))
        .await?;
    let oldest = now - config.audit_retention;
    db.write(move |conn| figures::delete_before(conn, figures::day_of(oldest)))
        .await?;
    let moment = now - KEPT_AFTER_END;
    let step = move |conn: &mut _| login::delete_old(conn, moment, STEP);
    deleted.logins = in_steps(db, longest, step).await?;
    let step = move |conn: &mut _| once(login::delete_old_ends(conn, moment, STEP));
    in_steps(db, longest, step).await?;
    let moment = now - ENDS_KEPT;
    let step = move |conn: &mut _| once(login::delete_uncounted(conn, moment, STEP));
    in_steps(db, longest, step).await?;
    let moment = now - TOKENS_KEPT;
    let step = move |conn: &mut _| once(personal::delete_old(conn, moment, STEP));
    deleted.tokens = in_steps(db, longest, step).await?;
    let step = move |conn: &mut _| once(audit::delete_before(conn, oldest, STEP));
    deleted.events = in_steps(db, longest, step).await?;
    Ok(deleted)
}

/// Rows of which each counts.
fn once(rows: QueryResult<usize>) -> QueryResult<(usize, usize)> {
    rows.map(|rows| (rows, rows))
}

/// Repeats a step until it finds no more rows, and tells how many of them counted.
async fn in_steps<F>(db: &Db, longest: &mut Duration, step: F) -> Result<usize, DbError>
where
    F: Fn(&mut AnyConnection) -> QueryResult<(usize, usize)> + Copy + Send + 'static,
{
    let mut total = 0;
    loop {
        let began = Instant::now();
        let (rows, counted) = db.write(step).await?;
        *longest = began.elapsed().max(*longest);
        total += counted;
        if rows == 0 {
            return Ok(total);
        }
        rest(began).await;
    }
}

/// Leaves the database to others for a while after a step.
async fn rest(began: Instant) {
    tokio::time::sleep(began.elapsed() * REST).await;
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
        let (began, from) = (Instant::now(), after);
        let stretch = app
            .db
            .read(move |conn| login::overdue(conn, &from, STRETCH, idle_since, now))
            .await?;
        for login in stretch.overdue {
            end_one(app, login, now).await?;
        }
        let Some(next) = stretch.next else {
            return Ok(());
        };
        after = next;
        rest(began).await;
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
