//! Brings the database's tables up to date: one node at a time, all or nothing.

use diesel::connection::SimpleConnection;
use diesel::{Connection, QueryResult};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{AnyConnection, Db, Manager, writer};
use crate::config::DatabaseUrl;

const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
/// Any number, the same for every node: the advisory lock that nodes queue at.
const MIGRATION_LOCK: i64 = 7_463_851_209;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Applies what is pending and returns the names of what was applied.
///
/// # Errors
/// When the database cannot be reached or a migration fails; then nothing was applied.
pub fn migrate(url: &DatabaseUrl) -> Result<Vec<String>, BoxError> {
    let mut conn = Manager(url.clone()).open()?;
    match &mut conn {
        AnyConnection::Sqlite(_) => {
            writer::begin(&mut conn)?;
            let applied = pending(&mut conn);
            writer::finish(&mut conn, applied.is_ok())?;
            applied
        }
        AnyConnection::Postgres(_) => {
            let mut failure = None;
            let outcome = conn.transaction(|conn| -> QueryResult<_> {
                conn.batch_execute(&format!(
                    "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '60s'; \
                     SELECT pg_advisory_xact_lock({MIGRATION_LOCK});"
                ))?;
                pending(conn).map_err(|error| {
                    failure = Some(error);
                    diesel::result::Error::RollbackTransaction
                })
            });
            match failure {
                Some(error) => Err(error),
                None => Ok(outcome?),
            }
        }
    }
}

fn pending(conn: &mut AnyConnection) -> Result<Vec<String>, BoxError> {
    let applied = match conn {
        AnyConnection::Sqlite(conn) => conn.run_pending_migrations(SQLITE)?,
        AnyConnection::Postgres(conn) => conn.run_pending_migrations(POSTGRES)?,
    };
    Ok(applied.iter().map(ToString::to_string).collect())
}

impl Db {
    /// Whether every migration has been applied.
    pub async fn is_up_to_date(&self) -> Result<bool, super::DbError> {
        self.read(|conn| {
            let pending = match conn {
                AnyConnection::Sqlite(conn) => conn.has_pending_migration(SQLITE),
                AnyConnection::Postgres(conn) => conn.has_pending_migration(POSTGRES),
            };
            pending
                .map(|pending| !pending)
                .map_err(diesel::result::Error::QueryBuilderError)
        })
        .await
    }
}
