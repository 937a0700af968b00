use diesel::prelude::*;

use super::Token;
use crate::account::User;
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::db::schema::{logins, personal_tokens, users};
use crate::login::Login;

/// Adds a token.
pub fn insert(conn: &mut AnyConnection, token: &Token) -> QueryResult<()> {
    diesel::insert_into(personal_tokens::table)
        .values(token)
        .execute(conn)
        .map(drop)
}

/// The token with that id.
pub fn by_id(conn: &mut AnyConnection, id: &str) -> QueryResult<Option<Token>> {
    personal_tokens::table
        .find(id)
        .select(Token::as_select())
        .first(conn)
        .optional()
}

/// The token with that id, its person, and the login it ends with.
pub fn with_owner(
    conn: &mut AnyConnection,
    id: &str,
) -> QueryResult<Option<(Token, User, Option<Login>)>> {
    personal_tokens::table
        .inner_join(users::table)
        .left_join(logins::table)
        .filter(personal_tokens::id.eq(id))
        .select((
            Token::as_select(),
            User::as_select(),
            Option::<Login>::as_select(),
        ))
        .first(conn)
        .optional()
}

/// The tokens of a person that have neither been revoked nor ended with their login, the newest first.
pub fn of_user(conn: &mut AnyConnection, user_id: &str) -> QueryResult<Vec<Token>> {
    page_of_user(conn, user_id, None, i64::MAX)
}

/// A piece of [`of_user`]: the tokens made before `after`.
pub fn page_of_user(
    conn: &mut AnyConnection,
    user_id: &str,
    after: Option<&str>,
    most: i64,
) -> QueryResult<Vec<Token>> {
    let tokens = personal_tokens::table
        .left_join(logins::table)
        .filter(personal_tokens::user_id.eq(user_id))
        .filter(personal_tokens::revoked_at.is_null())
        .filter(logins::ended_at.is_null())
        .into_boxed();
    let tokens = match after {
        Some(after) => tokens.filter(personal_tokens::id.lt(after.to_owned())),
        None => tokens,
    };
    tokens
        .order(personal_tokens::id.desc())
        .limit(most)
        .select(Token::as_select())
        .load(conn)
}

/// How many tokens of a person are good.
pub fn count_living(conn: &mut AnyConnection, user_id: &str, now: Timestamp) -> QueryResult<i64> {
    personal_tokens::table
        .left_join(logins::table)
        .filter(personal_tokens::user_id.eq(user_id))
        .filter(personal_tokens::revoked_at.is_null())
        .filter(personal_tokens::expires_at.gt(now))
        .filter(logins::ended_at.is_null())
        .count()
        .get_result(conn)
}

/// The tokens that came with logins of a device of that name and have not been revoked.
pub fn of_device(conn: &mut AnyConnection, user_id: &str, name: &str) -> QueryResult<Vec<Token>> {
    personal_tokens::table
        .filter(personal_tokens::user_id.eq(user_id))
        .filter(personal_tokens::name.eq(name))
        .filter(personal_tokens::login_id.is_not_null())
        .filter(personal_tokens::revoked_at.is_null())
        .select(Token::as_select())
        .load(conn)
}

/// Revokes a token, once.
pub fn revoke(conn: &mut AnyConnection, id: &str, now: Timestamp) -> QueryResult<bool> {
    let living = personal_tokens::table
        .filter(personal_tokens::id.eq(id))
        .filter(personal_tokens::revoked_at.is_null());
    let revoked = diesel::update(living)
        .set(personal_tokens::revoked_at.eq(now))
        .execute(conn)?;
    Ok(revoked == 1)
}

/// Notes a use, unless one since `before` is known already: of many nodes that try, one writes.
pub fn note_use(
    conn: &mut AnyConnection,
    id: &str,
    ip: &str,
    now: Timestamp,
    before: Timestamp,
) -> QueryResult<()> {
    let unknown = personal_tokens::last_used_at.is_null();
    let token = personal_tokens::table
        .filter(personal_tokens::id.eq(id))
        .filter(unknown.or(personal_tokens::last_used_at.assume_not_null().le(before)));
    diesel::update(token)
        .set((
            personal_tokens::last_used_at.eq(now),
            personal_tokens::last_used_ip.eq(ip),
        ))
        .execute(conn)
        .map(drop)
}

/// Forgets tokens that expired or were revoked before `moment`, at most `most` of them.
pub fn delete_old(conn: &mut AnyConnection, moment: Timestamp, most: i64) -> QueryResult<usize> {
    let ids = || personal_tokens::table.select(personal_tokens::id);
    // Each by an index of its own.
    let mut old: Vec<String> = ids()
        .filter(personal_tokens::expires_at.lt(moment))
        .limit(most)
        .load(conn)?;
    if old.is_empty() {
        old = ids()
            .filter(personal_tokens::revoked_at.is_not_null())
            .filter(personal_tokens::revoked_at.assume_not_null().lt(moment))
            .limit(most)
            .load(conn)?;
    }
    diesel::delete(personal_tokens::table.filter(personal_tokens::id.eq_any(&old))).execute(conn)
}
