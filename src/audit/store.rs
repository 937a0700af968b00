use diesel::dsl::{count_star, exists, sql};
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use super::{Event, Filter, Kind};
use crate::clock::Timestamp;
use crate::db::schema::audit_events;
use crate::db::{AnyConnection, directly};
use crate::id;

/// Writes one line, in the caller's transaction.
pub fn record(conn: &mut AnyConnection, event: &Event) -> QueryResult<()> {
    diesel::insert_into(audit_events::table)
        .values(event)
        .execute(conn)
        .map(drop)
}

/// As [`record`], of several.
pub fn record_each(conn: &mut AnyConnection, events: &[Event]) -> QueryResult<()> {
    let insertion = diesel::insert_into(audit_events::table).values(events);
    directly!(conn, |conn| insertion.execute(conn)).map(drop)
}

/// When the latest event was.
pub fn latest(conn: &mut AnyConnection) -> QueryResult<Option<Timestamp>> {
    audit_events::table
        .order(audit_events::id.desc())
        .select(audit_events::at)
        .first(conn)
        .optional()
}

/// Of a query, the events that pass `filter`. A period is a range of ids, which every index here
/// ends with. (A macro, since the type of a boxed query cannot be named for both databases at once.)
macro_rules! passing {
    ($query:expr, $filter:expr) => {{
        let filter: &Filter = $filter;
        let mut events = $query.into_boxed();
        if let Some(user_id) = &filter.user_id {
            events = events.filter(audit_events::user_id.eq(user_id.clone()));
        }
        // One kind is a place in an index, in order; PostgreSQL takes a list of one for more.
        events = match &filter.kinds[..] {
            [] => events,
            [kind] => events.filter(audit_events::kind.eq(kind.name())),
            kinds => {
                let kinds: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                events.filter(audit_events::kind.eq_any(kinds))
            }
        };
        if let Some(from) = filter.from {
            events = events.filter(audit_events::id.ge(id::first_of(from).to_string()));
        }
        if let Some(to) = filter.to {
            events = events.filter(audit_events::id.lt(id::first_of(to).to_string()));
        }
        events
    }};
}

/// Of several kinds among everybody's events, each is asked for by itself: the index of kinds knows
/// the order of one, and not of several together. `None`: once will do.
fn each_kind(filter: &Filter) -> Option<impl Iterator<Item = Filter>> {
    let apart = filter.user_id.is_none() && filter.kinds.len() > 1;
    apart.then(|| {
        filter.kinds.iter().map(|kind| Filter {
            kinds: vec![*kind],
            ..filter.clone()
        })
    })
}

/// A piece of the log, newest first: those before the event `after`, or the newest of all.
pub fn page(
    conn: &mut AnyConnection,
    filter: &Filter,
    after: Option<&str>,
    limit: i64,
) -> QueryResult<Vec<Event>> {
    if let Some(apart) = each_kind(filter) {
        let mut events = Vec::new();
        for filter in apart {
            events.append(&mut page(conn, &filter, after, limit)?);
        }
        events.sort_by(|a, b| b.id.cmp(&a.id));
        events.truncate(usize::try_from(limit).unwrap_or(0));
        return Ok(events);
    }
    let mut events = passing!(audit_events::table, filter);
    if let Some(after) = after {
        events = events.filter(audit_events::id.lt(after.to_owned()));
    }
    events
        .order(audit_events::id.desc())
        .limit(limit)
        .select(Event::as_select())
        .load(conn)
}

/// Whether the login of `event` has had one of its kind.
pub fn has_kind(conn: &mut AnyConnection, event: &Event) -> QueryResult<bool> {
    let of_person = audit_events::table
        .filter(audit_events::user_id.eq(event.user_id.clone()))
        .filter(audit_events::kind.eq(event.kind.clone()))
        .filter(audit_events::login_id.eq(event.login_id.clone()));
    diesel::select(exists(of_person)).get_result(conn)
}

/// From which addresses something happened to a person.
pub fn addresses_of(
    conn: &mut AnyConnection,
    user_id: &str,
    kind: Kind,
) -> QueryResult<Vec<String>> {
    let addresses = audit_events::table
        .filter(audit_events::user_id.eq(user_id))
        .filter(audit_events::kind.eq(kind.name()))
        .select(audit_events::ip)
        .distinct()
        .load::<Option<String>>(conn)?;
    Ok(addresses.into_iter().flatten().collect())
}

/// The piece of the log right before the event `before` in a list that is newest first; its last
/// is the one next to `before`.
pub fn page_before(
    conn: &mut AnyConnection,
    filter: &Filter,
    before: &str,
    limit: i64,
) -> QueryResult<Vec<Event>> {
    if let Some(apart) = each_kind(filter) {
        let mut events = Vec::new();
        for filter in apart {
            events.append(&mut page_before(conn, &filter, before, limit)?);
        }
        events.sort_by(|a, b| a.id.cmp(&b.id));
        events.truncate(usize::try_from(limit).unwrap_or(0));
        events.reverse();
        return Ok(events);
    }
    let mut events: Vec<Event> = passing!(audit_events::table, filter)
        .filter(audit_events::id.gt(before.to_owned()))
        .order(audit_events::id.asc())
        .limit(limit)
        .select(Event::as_select())
        .load(conn)?;
    events.reverse();
    Ok(events)
}

/// How many events a day has, by the number of the day since 1970 (UTC); days without are left out.
pub fn per_day(conn: &mut AnyConnection, filter: &Filter) -> QueryResult<Vec<(i64, i64)>> {
    let day = || sql::<BigInt>("at / 86400000");
    let days = audit_events::table
        .group_by(day())
        .select((day(), count_star()));
    passing!(days, filter).load(conn)
}

/// How many events pass.
pub fn count(conn: &mut AnyConnection, filter: &Filter) -> QueryResult<i64> {
    passing!(audit_events::table.select(count_star()), filter).get_result(conn)
}

/// Forgets events from before `moment`, at most `most` of them.
pub fn delete_before(conn: &mut AnyConnection, moment: Timestamp, most: i64) -> QueryResult<usize> {
    let old: Vec<String> = audit_events::table
        .filter(audit_events::id.lt(id::first_of(moment).to_string()))
        .order(audit_events::id)
        .limit(most)
        .select(audit_events::id)
        .load(conn)?;
    diesel::delete(audit_events::table.filter(audit_events::id.eq_any(&old))).execute(conn)
}
