use diesel::prelude::*;

use super::{Event, Kind};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::db::schema::audit_events;

/// Writes one line, in the caller's transaction.
pub fn record(conn: &mut AnyConnection, event: &Event) -> QueryResult<()> {
    diesel::insert_into(audit_events::table)
        .values(event)
        .execute(conn)
        .map(drop)
}

/// A person's latest events, newest first.
pub fn of_user(conn: &mut AnyConnection, user_id: &str, most: i64) -> QueryResult<Vec<Event>> {
    audit_events::table
        .filter(audit_events::user_id.eq(user_id))
        .order(audit_events::id.desc())
        .limit(most)
        .select(Event::as_select())
        .load(conn)
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

/// Forgets what is older than the retention.
pub fn delete_before(conn: &mut AnyConnection, moment: Timestamp) -> QueryResult<usize> {
    diesel::delete(audit_events::table.filter(audit_events::at.lt(moment))).execute(conn)
}
