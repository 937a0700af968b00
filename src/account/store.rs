use diesel::prelude::*;

use super::{Role, User};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::db::schema::users;

/// The person whose username or address this is.
pub fn by_login_name(conn: &mut AnyConnection, name: &str) -> QueryResult<Option<User>> {
    let name = name.trim().to_lowercase();
    // PostgreSQL cannot be asked about a NUL.
    if name.contains('\0') {
        return Ok(None);
    }
    let query = users::table.into_boxed();
    let query = match name.contains('@') {
        true => query.filter(users::email.eq(name)),
        false => query.filter(users::username.eq(name)),
    };
    query.select(User::as_select()).first(conn).optional()
}

/// The person with that id.
pub fn by_id(conn: &mut AnyConnection, id: &str) -> QueryResult<Option<User>> {
    users::table
        .find(id)
        .select(User::as_select())
        .first(conn)
        .optional()
}

/// The people with these ids.
pub fn by_ids(conn: &mut AnyConnection, ids: &[&str]) -> QueryResult<Vec<User>> {
    users::table
        .filter(users::id.eq_any(ids))
        .select(User::as_select())
        .load(conn)
}

/// Everybody, in order of joining.
pub fn all(conn: &mut AnyConnection) -> QueryResult<Vec<User>> {
    users::table
        .order(users::id)
        .select(User::as_select())
        .load(conn)
}

/// How many people there are.
pub fn count(conn: &mut AnyConnection) -> QueryResult<i64> {
    users::table.count().get_result(conn)
}

/// Whether there is anybody at all.
pub fn is_anybody(conn: &mut AnyConnection) -> QueryResult<bool> {
    let first: Option<String> = users::table
        .order(users::id)
        .select(users::id)
        .first(conn)
        .optional()?;
    Ok(first.is_some())
}

/// Adds a person; a taken username or address is a unique violation.
pub fn insert(conn: &mut AnyConnection, user: &User) -> QueryResult<()> {
    diesel::insert_into(users::table)
        .values(user)
        .execute(conn)
        .map(drop)
}

/// Replaces the hash, if it is still the one that was read: of two changes at once, one wins.
pub fn set_password_hash(
    conn: &mut AnyConnection,
    id: &str,
    from: &str,
    to: &str,
) -> QueryResult<bool> {
    let user = users::table
        .filter(users::id.eq(id))
        .filter(users::password_hash.eq(from));
    let changed = diesel::update(user)
        .set(users::password_hash.eq(to))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Sets a password that the person chose, if the old hash is still the one that was read.
pub fn set_own_password(
    conn: &mut AnyConnection,
    id: &str,
    from: &str,
    to: &str,
) -> QueryResult<bool> {
    if !set_password_hash(conn, id, from, to)? {
        return Ok(false);
    }
    let chosen = users::must_change_password.eq(false);
    diesel::update(users::table.find(id))
        .set(chosen)
        .execute(conn)?;
    Ok(true)
}

/// What is to change of a profile; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, AsChangeset)]
#[diesel(table_name = users)]
pub struct Changes {
    pub name: Option<String>,
    /// `Some(None)`: the browser's choice from now on.
    pub locale: Option<Option<String>>,
    pub theme: Option<String>,
}

/// Changes a profile, field by field: of two changes to different fields at once, both stay.
pub fn set_profile(conn: &mut AnyConnection, id: &str, changes: &Changes) -> QueryResult<()> {
    diesel::update(users::table.find(id))
        .set(changes)
        .execute(conn)
        .map(drop)
}

/// Sets a password that somebody else knows too: it has to be changed before anything else. Nobody has
/// guessed at it so far.
pub fn set_temporary_password(conn: &mut AnyConnection, id: &str, hash: &str) -> QueryResult<()> {
    diesel::update(users::table.find(id))
        .set((
            users::password_hash.eq(hash),
            users::must_change_password.eq(true),
            users::failures_in_a_row.eq(0),
        ))
        .execute(conn)
        .map(drop)
}

/// Sets what somebody is called; a taken username or address is a unique violation.
pub fn set_names(conn: &mut AnyConnection, user: &User) -> QueryResult<()> {
    diesel::update(users::table.find(&user.id))
        .set((
            users::username.eq(&user.username),
            users::email.eq(&user.email),
            users::email_verified.eq(user.email_verified),
            users::name.eq(&user.name),
        ))
        .execute(conn)
        .map(drop)
}

/// Sets a role.
pub fn set_role(conn: &mut AnyConnection, id: &str, role: Role) -> QueryResult<()> {
    diesel::update(users::table.find(id))
        .set(users::role.eq(role.name()))
        .execute(conn)
        .map(drop)
}

/// Whether there is an administrator besides `id` who is let in.
pub fn has_other_admin(conn: &mut AnyConnection, id: &str) -> QueryResult<bool> {
    let other: Option<String> = users::table
        .filter(users::role.eq(Role::Admin.name()))
        .filter(users::disabled_at.is_null())
        .filter(users::id.ne(id))
        .select(users::id)
        .first(conn)
        .optional()?;
    Ok(other.is_some())
}

/// Disables from a moment on, or enables.
pub fn set_disabled(conn: &mut AnyConnection, id: &str, at: Option<Timestamp>) -> QueryResult<()> {
    let user = users::table.filter(users::id.eq(id));
    diesel::update(user)
        .set(users::disabled_at.eq(at))
        .execute(conn)
        .map(drop)
}

/// Counts a failed login; how many in a row that makes, within the transaction.
pub fn count_failure(conn: &mut AnyConnection, id: &str) -> QueryResult<i32> {
    let user = users::table.find(id);
    diesel::update(user)
        .set(users::failures_in_a_row.eq(users::failures_in_a_row + 1))
        .execute(conn)?;
    let count = user.select(users::failures_in_a_row).first(conn);
    Ok(count.optional()?.unwrap_or_default())
}

/// Begins the count of failed logins anew: after a success, or by an administrator.
pub fn clear_failures(conn: &mut AnyConnection, id: &str) -> QueryResult<()> {
    diesel::update(users::table.find(id))
        .set(users::failures_in_a_row.eq(0))
        .execute(conn)
        .map(drop)
}
