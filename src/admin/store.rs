use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};

use crate::account::User;
use crate::audit;
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::db::schema::{audit_events, logins, users};
use crate::login::Kind;

diesel::define_sql_function!(fn lower(text: Text) -> Text);

/// A piece of everybody whose username, address or name contains `wanted`, by username: those after
/// `after`.
pub fn search(
    conn: &mut AnyConnection,
    wanted: &str,
    after: Option<&str>,
    most: i64,
) -> QueryResult<Vec<User>> {
    let mut query = users::table.into_boxed();
    if !wanted.is_empty() {
        let containing = |text: &str| {
            let text = text.replace('\\', r"\\").replace('%', r"\%");
            format!("%{}%", text.replace('_', r"\_"))
        };
        let small = containing(&wanted.to_lowercase());
        query = query.filter(
            users::username
                .like(small.clone())
                .escape('\\')
                .or(users::email.like(small.clone()).escape('\\'))
                .or(lower(users::name).like(small).escape('\\'))
                // SQLite knows the small letters of ASCII only.
                .or(users::name.like(containing(wanted)).escape('\\')),
        );
    }
    if let Some(after) = after {
        query = query.filter(users::username.gt(after.to_owned()));
    }
    query
        .order(users::username)
        .limit(most)
        .select(User::as_select())
        .load(conn)
}

/// When each of these people last logged in, as far back as anything is known of it.
pub fn last_logins(
    conn: &mut AnyConnection,
    ids: &[&str],
) -> QueryResult<HashMap<String, Timestamp>> {
    // The latest of each by an index: somebody may have thousands.
    let latest_login = logins::table
        .filter(logins::user_id.eq(users::id))
        .order(logins::started_at.desc())
        .limit(1)
        .select(logins::started_at)
        .single_value();
    let known: Vec<(String, Option<Timestamp>)> = users::table
        .filter(users::id.eq_any(ids))
        .select((users::id, latest_login))
        .load(conn)?;
    let found = |(id, at): (String, Option<Timestamp>)| Some((id, at?));
    let mut last: HashMap<String, Timestamp> = known.into_iter().filter_map(found).collect();
    // Old logins are forgotten long before the events are.
    let unknown = ids.iter().filter(|id| !last.contains_key(**id));
    let unknown: Vec<&str> = unknown.copied().collect();
    if !unknown.is_empty() {
        let latest_event = audit_events::table
            .filter(audit_events::user_id.eq(users::id.nullable()))
            // Looked for among the person's events, not among everybody's logins: a text that is put
            // together is no index's business.
            .filter(audit_events::kind.concat("").eq(audit::Kind::Login.name()))
            .order(audit_events::id.desc())
            .limit(1)
            .select(audit_events::at)
            .single_value();
        let remembered: Vec<(String, Option<Timestamp>)> = users::table
            .filter(users::id.eq_any(unknown))
            .select((users::id, latest_event))
            .load(conn)?;
        last.extend(remembered.into_iter().filter_map(found));
    }
    Ok(last)
}

/// So many of that name, on that day or in that class.
#[derive(QueryableByName)]
pub struct Counted {
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = BigInt)]
    pub class: i64,
    #[diesel(sql_type = BigInt)]
    pub total: i64,
}

/// Counts by a query of our own; both databases read `$1`.
fn counted(conn: &mut AnyConnection, sql: &str, values: [i64; 2]) -> QueryResult<Vec<Counted>> {
    let [first, second] = values;
    match conn {
        AnyConnection::Sqlite(conn) => sql_query(sql)
            .bind::<BigInt, _>(first)
            .bind::<BigInt, _>(second)
            .load(conn),
        AnyConnection::Postgres(conn) => sql_query(sql)
            .bind::<BigInt, _>(first)
            .bind::<BigInt, _>(second)
            .load(conn),
    }
}

/// How many logins that were over between two moments had lasted how long, by kind. Classes are the
/// hours before the last one began, and after 24 hours the days, from 101 on: what lasted exactly a
/// day is in class 23.
pub fn durations(
    conn: &mut AnyConnection,
    since: Timestamp,
    now: Timestamp,
) -> QueryResult<Vec<Counted>> {
    counted(
        conn,
        "SELECT kind AS name, class, COUNT(*) AS total FROM ( \
           SELECT kind, CASE WHEN lasted <= 86400000 THEN (lasted - 1) / 3600000 \
             ELSE 100 + (lasted - 1) / 86400000 END AS class FROM ( \
             SELECT kind, COALESCE(ended_at, expires_at) - started_at AS lasted FROM logins \
             WHERE COALESCE(ended_at, expires_at) >= $1 AND COALESCE(ended_at, expires_at) <= $2 \
           ) AS over_by_now \
         ) AS classes GROUP BY kind, class",
        [since.millis(), now.millis()],
    )
}

/// Living logins by kind: a browser's only while its person is not away for too long.
pub fn living(
    conn: &mut AnyConnection,
    idle_since: Timestamp,
    now: Timestamp,
) -> QueryResult<(i64, i64)> {
    let living = || {
        logins::table
            .filter(logins::ended_at.is_null())
            .filter(logins::expires_at.gt(now))
    };
    let browsers = living()
        .filter(logins::kind.eq(Kind::Browser.name()))
        .filter(logins::last_activity_at.gt(idle_since))
        .count()
        .get_result(conn)?;
    let api = living()
        .filter(logins::kind.eq(Kind::Api.name()))
        .count()
        .get_result(conn)?;
    Ok((browsers, api))
}
