//! My logins, by browser and by API: which there are, and ending them. Handlers in `http.rs`.

pub mod http;

use diesel::QueryResult;

use crate::audit::Actor;
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::login::{self, Cause, Client, Login};

/// Ends one login of a person, if it is theirs and alive.
///
/// # Errors
/// When the database refuses.
pub fn end_one(
    conn: &mut AnyConnection,
    user_id: &str,
    login_id: &str,
    client: &Client,
    now: Timestamp,
) -> QueryResult<Option<Login>> {
    let login = login::by_id(conn, login_id)?.filter(|login| login.user_id == user_id);
    let by = Some(Actor::person(user_id, client));
    match login {
        Some(login) if login::end(conn, &login, Cause::Revoked, by, now)? => Ok(Some(login)),
        _ => Ok(None),
    }
}
