use diesel::prelude::*;

use super::{ROOT, SIGNING};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::db::schema::keys;

#[derive(Queryable, Insertable)]
#[diesel(table_name = keys)]
pub struct Row {
    pub id: String,
    pub purpose: String,
    pub algorithm: String,
    pub sealed: Vec<u8>,
    pub created_at: Timestamp,
    /// Of a signing key; of others, when they were made.
    pub signs_from: Timestamp,
}

/// All keys, the one that begins to sign last first.
pub fn all(conn: &mut AnyConnection) -> QueryResult<Vec<Row>> {
    keys::table
        .order((keys::signs_from.desc(), keys::id.desc()))
        .load(conn)
}

/// The signing keys, the one that begins to sign last first.
pub fn signing(conn: &mut AnyConnection) -> QueryResult<Vec<Row>> {
    keys::table
        .filter(keys::purpose.eq(SIGNING))
        .order((keys::signs_from.desc(), keys::id.desc()))
        .load(conn)
}

/// Keeps others from changing the keys until the transaction ends: a write that changes nothing.
pub fn lock(conn: &mut AnyConnection) -> QueryResult<()> {
    let root = keys::table.filter(keys::id.eq(ROOT));
    diesel::update(root)
        .set(keys::purpose.eq(ROOT))
        .execute(conn)
        .map(drop)
}

pub fn insert(conn: &mut AnyConnection, row: &Row) -> QueryResult<()> {
    diesel::insert_into(keys::table)
        .values(row)
        .execute(conn)
        .map(drop)
}

pub fn reseal(conn: &mut AnyConnection, id: &str, sealed: &[u8]) -> QueryResult<()> {
    let key = keys::table.filter(keys::id.eq(id));
    diesel::update(key)
        .set(keys::sealed.eq(sealed))
        .execute(conn)
        .map(drop)
}

/// Brings the beginning of a key forward.
pub fn set_signs_from(conn: &mut AnyConnection, id: &str, moment: Timestamp) -> QueryResult<()> {
    let key = keys::table.filter(keys::id.eq(id));
    diesel::update(key)
        .set(keys::signs_from.eq(moment))
        .execute(conn)
        .map(drop)
}

/// Deletes a signing key.
pub fn delete(conn: &mut AnyConnection, id: &str) -> QueryResult<()> {
    let key = keys::table.filter(keys::id.eq(id).and(keys::purpose.eq(SIGNING)));
    diesel::delete(key).execute(conn).map(drop)
}
