use diesel::prelude::*;

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
    pub retired_at: Option<Timestamp>,
}

/// All keys, newest first.
pub fn all(conn: &mut AnyConnection) -> QueryResult<Vec<Row>> {
    keys::table
        .order((keys::created_at.desc(), keys::id.desc()))
        .load(conn)
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
