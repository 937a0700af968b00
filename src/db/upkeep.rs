//! What an operator asks of a database beside the servers that use it: how it is, and a copy.
//!
//! For a process of its own only: closing a file of SQLite drops the locks that the same process holds
//! on it by other connections. These wait as long as it takes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::sql_types::{Bool, Text};
use diesel::{Connection, QueryResult, QueryableByName, RunQueryDsl, SqliteConnection};

use super::schema::TABLES;
use super::{AnyConnection, BUSY_PATIENT, Manager};
use crate::config::DatabaseUrl;

/// What a database says of itself.
#[derive(QueryableByName)]
pub struct Condition {
    #[diesel(sql_type = Text)]
    pub version: String,
    /// Whether what was committed survives a power cut.
    #[diesel(sql_type = Bool)]
    pub is_durable: bool,
    #[diesel(sql_type = Bool)]
    pub takes_changes: bool,
}

/// Asks a database how it is.
///
/// # Errors
/// A sentence, when it cannot be asked.
pub fn examine(url: &DatabaseUrl) -> Result<Condition, String> {
    let mut conn = Manager::patient(url).open().map_err(told)?;
    let condition = match &mut conn {
        AnyConnection::Sqlite(conn) => diesel::sql_query(
            "SELECT 'SQLite ' || sqlite_version() AS version, TRUE AS is_durable, \
             TRUE AS takes_changes",
        )
        .get_result(conn),
        AnyConnection::Postgres(conn) => diesel::sql_query(
            "SELECT 'PostgreSQL ' || current_setting('server_version') AS version, \
             current_setting('synchronous_commit') <> 'off' AS is_durable, \
             current_setting('transaction_read_only') = 'off' AS takes_changes",
        )
        .get_result(conn),
    };
    condition.map_err(told)
}

/// Deletes nothing from each table, to see that all are there and that this user may.
///
/// # Errors
/// Of the first that is not, or where they may not.
pub fn delete_nothing(conn: &mut AnyConnection) -> QueryResult<()> {
    let only_here = matches!(conn, AnyConnection::Sqlite(_)).then_some("keystore");
    TABLES
        .into_iter()
        .chain(only_here)
        .try_for_each(|table| conn.batch_execute(&format!("DELETE FROM {table} WHERE 1 = 0")))
}

/// Tries whether PostgreSQL's disk has room, with a megabyte that is gone afterwards. (How much room SQLite
/// has is known.)
///
/// # Errors
/// Where it has not, or this user may make no temporary table.
pub fn find_room(conn: &mut AnyConnection) -> QueryResult<()> {
    match conn {
        AnyConnection::Sqlite(_) => Ok(()),
        AnyConnection::Postgres(conn) => conn.batch_execute(
            "CREATE TEMPORARY TABLE room ON COMMIT DROP AS \
             SELECT repeat(md5(i::text), 32) FROM generate_series(1, 1000) AS i",
        ),
    }
}

/// What SQLite finds wrong with a file, a few findings at the most; nothing for one that is whole.
///
/// # Errors
/// A sentence, when it cannot be read at all.
pub fn quick_check(file: &Path) -> Result<Vec<String>, String> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        quick_check: String,
    }
    let mut conn = SqliteConnection::establish(&file.to_string_lossy()).map_err(told)?;
    let patient = format!("PRAGMA busy_timeout = {}", BUSY_PATIENT.as_millis());
    conn.batch_execute(&patient).map_err(told)?;
    let rows = diesel::sql_query("PRAGMA quick_check(3)").load::<Row>(&mut conn);
    let found = rows.map_err(told)?.into_iter().map(|row| row.quick_check);
    Ok(found.filter(|finding| finding != "ok").collect())
}

/// Copies an SQLite database, as it is at one moment, to a new file that only its owner can read.
/// Servers that use it go on, writing too.
///
/// # Errors
/// A sentence; then there is no copy.
pub fn copy(from: &Path, to: &Path) -> Result<(), String> {
    // SQLite would make it readable by others. It takes an empty file for none.
    let mut new = OpenOptions::new();
    let new = new.write(true).create_new(true).mode(0o600).open(to);
    new.map_err(|error| format!("{}: {error}", to.display()))?;
    let copied = copy_into(from, to);
    if copied.is_err() {
        // Half a copy is none, and its name shall be free for the next.
        let _ = fs::remove_file(to);
    }
    copied
}

fn copy_into(from: &Path, to: &Path) -> Result<(), String> {
    let mut conn = SqliteConnection::establish(&from.to_string_lossy()).map_err(told)?;
    diesel::sql_query("VACUUM INTO ?")
        .bind::<Text, _>(to.to_string_lossy())
        .execute(&mut conn)
        .map_err(told)?;
    // Written without waiting for the disk.
    let directory = match to.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    for written in [to, directory] {
        let synced = File::open(written).and_then(|file| file.sync_all());
        synced.map_err(|error| format!("{}: {error}", written.display()))?;
    }
    match quick_check(to)?.first() {
        None => Ok(()),
        Some(finding) => Err(format!("the copy is not whole: {finding}")),
    }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
