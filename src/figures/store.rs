use diesel::prelude::*;

use crate::db::AnyConnection;
use crate::db::schema::daily_figures::dsl::{daily_figures, day, name, total};

/// Adds to a day's figure.
pub fn add(conn: &mut AnyConnection, on: i64, of: &str, amount: i64) -> QueryResult<()> {
    let changed = diesel::update(daily_figures.find((on, of)))
        .set(total.eq(total + amount))
        .execute(conn)?;
    if changed == 0 {
        diesel::insert_into(daily_figures)
            .values((day.eq(on), name.eq(of), total.eq(amount)))
            .execute(conn)?;
    }
    Ok(())
}

/// Every figure from that day on: its day, its name, how much.
pub fn since(conn: &mut AnyConnection, first: i64) -> QueryResult<Vec<(i64, String, i64)>> {
    daily_figures
        .filter(day.ge(first))
        .order((day, name))
        .select((day, name, total))
        .load(conn)
}

/// Forgets the days before that one.
pub fn delete_before(conn: &mut AnyConnection, first: i64) -> QueryResult<usize> {
    diesel::delete(daily_figures.filter(day.lt(first))).execute(conn)
}
