use std::collections::{HashMap, HashSet};

use diesel::dsl::{count_star, exists, max, not};
use diesel::prelude::*;
use diesel::sql_types::{Array, Text};

use super::ended::{EndOfFeed, Revocation};
use super::{Cause, Kind, Login, UncountedEnd};
use crate::audit::Actor;
use crate::clock::Timestamp;
use crate::db::schema::{logins, revocations, rotating_tokens, uncounted_ends};
use crate::db::{AnyConnection, directly};

/// So many logins are ended by a statement: a journey to the database each would take too long, and a
/// statement has room for so many values.
const STEP: usize = 1000;

pub fn insert(conn: &mut AnyConnection, login: &Login) -> QueryResult<()> {
    diesel::insert_into(logins::table)
        .values(login)
        .execute(conn)
        .map(drop)
}

/// The login with that id.
pub fn by_id(conn: &mut AnyConnection, id: &str) -> QueryResult<Option<Login>> {
    logins::table
        .find(id)
        .select(Login::as_select())
        .first(conn)
        .optional()
}

/// Ends those of the logins that have not ended, and announces them to the feed. Which ones this call
/// ended.
pub fn end(
    conn: &mut AnyConnection,
    ids: &[&str],
    cause: Cause,
    now: Timestamp,
) -> QueryResult<HashSet<String>> {
    hold(conn, ids)?;
    let living = logins::table
        .filter(logins::id.eq_any(ids))
        .filter(logins::ended_at.is_null());
    let ending = diesel::update(living)
        .set((
            logins::ended_at.eq(now),
            logins::ended_cause.eq(cause.name()),
        ))
        .returning((
            logins::id,
            logins::kind,
            logins::started_at,
            logins::expires_at,
        ));
    let ended: Vec<(String, String, Timestamp, Timestamp)> =
        directly!(conn, |conn| ending.get_results(conn))?;
    if ended.is_empty() {
        return Ok(HashSet::new());
    }
    let announced = ended
        .iter()
        .map(|(id, _, _, expires_at)| (id.as_str(), *expires_at));
    announce_each(conn, announced, cause, now)?;
    let uncounted = ended.iter().map(|(id, kind, started_at, expires_at)| {
        // One that was over before somebody noticed lasted until then.
        let lasted = now.min(*expires_at).since(*started_at);
        (
            uncounted_ends::login_id.eq(id),
            uncounted_ends::kind.eq(kind),
            uncounted_ends::cause.eq(cause.name()),
            uncounted_ends::lasted.eq(lasted.as_millis() as i64),
            uncounted_ends::ended_at.eq(now),
        )
    });
    let uncounted: Vec<_> = uncounted.collect();
    let insertion = diesel::insert_into(uncounted_ends::table).values(&uncounted);
    directly!(conn, |conn| insertion.execute(conn))?;
    Ok(ended.into_iter().map(|(id, ..)| id).collect())
}

/// Keeps several logins as they are until the transaction ends. Always in the same order, so that two who
/// end the same ones never wait for each other.
fn hold(conn: &mut AnyConnection, ids: &[&str]) -> QueryResult<()> {
    if let AnyConnection::Postgres(conn) = conn
        && ids.len() > 1
    {
        // As strong as what follows, so that tokens can be added meanwhile.
        diesel::sql_query("SELECT 1 FROM logins WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE")
            .bind::<Array<Text>, _>(ids)
            .execute(conn)?;
    }
    Ok(())
}

/// Ends that nobody has counted, the oldest first.
pub fn uncounted(conn: &mut AnyConnection, most: i64) -> QueryResult<Vec<UncountedEnd>> {
    uncounted_ends::table
        .order(uncounted_ends::ended_at)
        .limit(most)
        .select(UncountedEnd::as_select())
        .load(conn)
}

/// Takes ends away to count them, and returns those that nobody else has taken.
pub fn take(
    conn: &mut AnyConnection,
    mut ends: Vec<UncountedEnd>,
) -> QueryResult<Vec<UncountedEnd>> {
    let ids: Vec<&str> = ends.iter().map(|end| end.login_id.as_str()).collect();
    let ours = uncounted_ends::table.filter(uncounted_ends::login_id.eq_any(ids));
    let taken = diesel::delete(ours).returning(uncounted_ends::login_id);
    let taken: Vec<String> = directly!(conn, |conn| taken.get_results(conn))?;
    let taken: HashSet<String> = taken.into_iter().collect();
    ends.retain(|end| taken.contains(&end.login_id));
    Ok(ends)
}

/// Forgets ends before `moment` that nobody counts, as where no node has its metrics on: at most `most`.
pub fn delete_uncounted(
    conn: &mut AnyConnection,
    moment: Timestamp,
    most: i64,
) -> QueryResult<usize> {
    let old: Vec<String> = uncounted_ends::table
        .filter(uncounted_ends::ended_at.lt(moment))
        .order(uncounted_ends::ended_at)
        .select(uncounted_ends::login_id)
        .limit(most)
        .load(conn)?;
    diesel::delete(uncounted_ends::table.filter(uncounted_ends::login_id.eq_any(&old)))
        .execute(conn)
}

#[diesel::dsl::auto_type]
fn living<'a>(user_id: &'a str, now: Timestamp) -> _ {
    logins::table
        .filter(logins::user_id.eq(user_id))
        .filter(logins::ended_at.is_null())
        .filter(logins::expires_at.gt(now))
}

/// The logins of a person that nobody has ended and that are not past their hard end.
pub fn living_of(
    conn: &mut AnyConnection,
    user_id: &str,
    now: Timestamp,
) -> QueryResult<Vec<Login>> {
    living(user_id, now).select(Login::as_select()).load(conn)
}

/// As [`living_of`], without the `most` latest; a few at a time.
pub fn living_beyond(
    conn: &mut AnyConnection,
    user_id: &str,
    most: i64,
    now: Timestamp,
) -> QueryResult<Vec<Login>> {
    living(user_id, now)
        .order(logins::id.desc())
        .offset(most)
        .limit(10)
        .select(Login::as_select())
        .load(conn)
}

/// How many logins live, by their kind.
pub fn count_living(conn: &mut AnyConnection, now: Timestamp) -> QueryResult<Vec<(String, i64)>> {
    logins::table
        .filter(logins::ended_at.is_null())
        .filter(logins::expires_at.gt(now))
        .group_by(logins::kind)
        .select((logins::kind, count_star()))
        .load(conn)
}

/// The ids of the browser logins that have not ended and began between `since` and `until`, the latest
/// first.
pub fn latest_browsers(
    conn: &mut AnyConnection,
    (since, until): (Timestamp, Timestamp),
    most: i64,
) -> QueryResult<Vec<String>> {
    logins::table
        .filter(logins::kind.eq(Kind::Browser.name()))
        .filter(logins::ended_at.is_null())
        .filter(logins::expires_at.gt(until))
        .filter(logins::started_at.between(since, until))
        .order(logins::expires_at.desc())
        .limit(most)
        .select(logins::id)
        .load(conn)
}

/// As [`living_of`], of everybody, in order of their ids: those after `after`.
pub fn living_after(
    conn: &mut AnyConnection,
    after: &str,
    most: i64,
    now: Timestamp,
) -> QueryResult<Vec<Login>> {
    logins::table
        .filter(logins::id.gt(after))
        .filter(logins::ended_at.is_null())
        .filter(logins::expires_at.gt(now))
        .order(logins::id)
        .limit(most)
        .select(Login::as_select())
        .load(conn)
}

/// Whether somebody can still use a login that has not ended: a browser where somebody was since
/// `$idle_since`, or any login with a token that would still be taken.
macro_rules! is_usable {
    ($idle_since:expr, $now:expr) => {
        (logins::kind
            .eq(Kind::Browser.name())
            .and(logins::last_activity_at.gt($idle_since)))
        .or(exists(
            rotating_tokens::table
                .filter(rotating_tokens::login_id.eq(logins::id))
                .filter(rotating_tokens::superseded_at.is_null())
                .filter(rotating_tokens::expires_at.gt($now))
                .select(rotating_tokens::counter),
        ))
    };
}

/// The living logins of a person that somebody can still use, the latest begun first: those begun
/// before `after`.
pub fn usable_of(
    conn: &mut AnyConnection,
    user_id: &str,
    after: Option<&str>,
    most: i64,
    idle_since: Timestamp,
    now: Timestamp,
) -> QueryResult<Vec<Login>> {
    let living = living(user_id, now)
        .filter(is_usable!(idle_since, now))
        .into_boxed();
    let living = match after {
        Some(after) => living.filter(logins::id.lt(after.to_owned())),
        None => living,
    };
    living
        .order(logins::id.desc())
        .limit(most)
        .select(Login::as_select())
        .load(conn)
}

/// The living logins of everybody that somebody can still use, among the `most` before `before`, the
/// latest begun first and none before `since`; and where the next such stretch begins. `None`: there
/// are no more.
pub fn usable_before(
    conn: &mut AnyConnection,
    before: &str,
    since: &str,
    most: i64,
    idle_since: Timestamp,
    now: Timestamp,
) -> QueryResult<Option<(Vec<Login>, String)>> {
    let ids: Vec<String> = logins::table
        .filter(logins::id.lt(before))
        .filter(logins::id.ge(since))
        .order(logins::id.desc())
        .limit(most)
        .select(logins::id)
        .load(conn)?;
    let Some(first) = ids.last() else {
        return Ok(None);
    };
    let usable = logins::table
        .filter(logins::id.lt(before))
        .filter(logins::id.ge(first))
        .filter(logins::ended_at.is_null())
        .filter(logins::expires_at.gt(now))
        .filter(is_usable!(idle_since, now))
        .order(logins::id.desc())
        .select(Login::as_select())
        .load(conn)?;
    Ok(Some((usable, first.clone())))
}

/// Until when tokens of these logins would still be taken, refresh and remember tokens alike; those
/// without any are left out.
pub fn tokens_until(
    conn: &mut AnyConnection,
    ids: &[&str],
) -> QueryResult<HashMap<String, Timestamp>> {
    let until: Vec<(String, Option<Timestamp>)> = rotating_tokens::table
        .filter(rotating_tokens::login_id.eq_any(ids))
        .filter(rotating_tokens::superseded_at.is_null())
        .group_by(rotating_tokens::login_id)
        .select((rotating_tokens::login_id, max(rotating_tokens::expires_at)))
        .load(conn)?;
    Ok(until
        .into_iter()
        .filter_map(|(id, until)| Some((id, until?)))
        .collect())
}

/// A stretch of all logins, in order of their ids.
pub struct Stretch {
    /// Of them, those that nobody has ended though they are over: past their hard end, or of no use
    /// any more.
    pub overdue: Vec<Login>,
    /// Where the next begins; `None`: there is none.
    pub next: Option<String>,
}

/// Looks for what is overdue among the `most` logins after `after`: so many and no more, since among
/// a million there may be none.
pub fn overdue(
    conn: &mut AnyConnection,
    after: &str,
    most: i64,
    idle_since: Timestamp,
    now: Timestamp,
) -> QueryResult<Stretch> {
    let ids: Vec<String> = logins::table
        .filter(logins::id.gt(after))
        .order(logins::id)
        .limit(most)
        .select(logins::id)
        .load(conn)?;
    let Some(last) = ids.last() else {
        return Ok(Stretch {
            overdue: Vec::new(),
            next: None,
        });
    };
    let overdue = logins::table
        .filter(logins::id.gt(after))
        .filter(logins::id.le(last))
        .filter(logins::ended_at.is_null())
        .filter(
            logins::expires_at
                .le(now)
                .or(not(is_usable!(idle_since, now))),
        )
        .order(logins::id)
        .select(Login::as_select())
        .load(conn)?;
    Ok(Stretch {
        overdue,
        next: Some(last.clone()),
    })
}

/// Ends the living logins of a person, and returns them; `by` is who did it.
pub fn end_all_of(
    conn: &mut AnyConnection,
    user_id: &str,
    cause: Cause,
    except: Option<&str>,
    by: Option<Actor<'_>>,
    now: Timestamp,
) -> QueryResult<Vec<Login>> {
    let mut living = living_of(conn, user_id, now)?;
    living.retain(|login| Some(login.id.as_str()) != except);
    // Whoever ends several steps at the same time takes them in the same order.
    living.sort_by(|a, b| a.id.cmp(&b.id));
    let mut ended = Vec::new();
    for step in living.chunks(STEP) {
        ended.extend(super::end_each(conn, step, cause, by, now)?);
    }
    Ok(ended)
}

/// Notes that a password was given again.
pub fn set_auth_time(conn: &mut AnyConnection, id: &str, at: Timestamp) -> QueryResult<()> {
    diesel::update(logins::table.find(id))
        .set(logins::auth_time.eq(at))
        .execute(conn)
        .map(drop)
}

/// Puts an end into the feed, of a login or of a single access token: the end is known to every node
/// within a second, and forgotten at `expires_at`, when what it ended would be dead by itself.
pub fn announce(
    conn: &mut AnyConnection,
    id: &str,
    cause: Cause,
    at: Timestamp,
    expires_at: Timestamp,
) -> QueryResult<()> {
    announce_each(conn, std::iter::once((id, expires_at)), cause, at)
}

fn announce_each<'a>(
    conn: &mut AnyConnection,
    ends: impl Iterator<Item = (&'a str, Timestamp)>,
    cause: Cause,
    at: Timestamp,
) -> QueryResult<()> {
    let lines = ends.map(|(id, expires_at)| {
        (
            revocations::subject.eq(id),
            revocations::cause.eq(cause.name()),
            revocations::revoked_at.eq(at),
            revocations::expires_at.eq(expires_at),
        )
    });
    let lines: Vec<_> = lines.collect();
    let insertion = diesel::insert_into(revocations::table).values(&lines);
    directly!(conn, |conn| insertion.execute(conn)).map(drop)
}

/// What the feed has after `seq`, in its order, at most `most` lines of it.
pub fn revocations_after(
    conn: &mut AnyConnection,
    seq: i64,
    most: i64,
    now: Timestamp,
) -> QueryResult<Vec<Revocation>> {
    revocations::table
        .filter(revocations::seq.gt(seq))
        .filter(revocations::expires_at.gt(now))
        .order(revocations::seq)
        .limit(most)
        .select(Revocation::as_select())
        .load(conn)
}

/// How far the feed goes.
pub fn end_of_feed(conn: &mut AnyConnection) -> QueryResult<EndOfFeed> {
    let transactions = match conn {
        // One writes after the other.
        AnyConnection::Sqlite(_) => "0 AS oldest, 0 AS next",
        AnyConnection::Postgres(_) => {
            "txid_snapshot_xmin(txid_current_snapshot()) AS oldest, \
             txid_snapshot_xmax(txid_current_snapshot()) AS next"
        }
    };
    let query = format!("SELECT coalesce(max(seq), 0) AS last, {transactions} FROM revocations");
    diesel::sql_query(query).get_result(conn)
}

/// Notes when somebody was last there; never earlier than known.
pub fn mark_activity(conn: &mut AnyConnection, id: &str, at: Timestamp) -> QueryResult<()> {
    let login = logins::table
        .filter(logins::id.eq(id))
        .filter(logins::ended_at.is_null())
        .filter(logins::last_activity_at.lt(at));
    diesel::update(login)
        .set(logins::last_activity_at.eq(at))
        .execute(conn)
        .map(drop)
}

/// Forgets logins that were over before `moment`, each after its tokens: at most `most` logins and as
/// many tokens. How many rows that were, and how many of them logins.
pub fn delete_old(
    conn: &mut AnyConnection,
    moment: Timestamp,
    most: i64,
) -> QueryResult<(usize, usize)> {
    let old: Vec<String> = logins::table
        .filter(logins::expires_at.lt(moment))
        .order(logins::expires_at)
        .select(logins::id)
        .limit(most)
        .load(conn)?;
    // A login that is refreshed every few minutes has hundreds.
    let tokens: Vec<Vec<u8>> = rotating_tokens::table
        .filter(rotating_tokens::login_id.eq_any(&old))
        .select(rotating_tokens::id)
        .limit(most)
        .load(conn)?;
    let gone = diesel::delete(rotating_tokens::table.filter(rotating_tokens::id.eq_any(&tokens)))
        .execute(conn)?;
    if i64::try_from(tokens.len()).is_ok_and(|found| found >= most) {
        return Ok((gone, 0));
    }
    let logins = diesel::delete(logins::table.filter(logins::id.eq_any(&old))).execute(conn)?;
    Ok((gone + logins, logins))
}

/// Forgets what the feed had to say until `moment`, at most `most` lines of it.
pub fn delete_old_ends(
    conn: &mut AnyConnection,
    moment: Timestamp,
    most: i64,
) -> QueryResult<usize> {
    let old: Vec<i64> = revocations::table
        .filter(revocations::expires_at.lt(moment))
        .order(revocations::expires_at)
        .select(revocations::seq)
        .limit(most)
        .load(conn)?;
    diesel::delete(revocations::table.filter(revocations::seq.eq_any(&old))).execute(conn)
}
