//! Brings the database's tables up to date: one node at a time, beside others that go on serving.
//!
//! Programs of two releases use one database while nodes are exchanged one after the other, so that a
//! migration only ever adds to what is there (README, "Upgrading"). A program takes no notice of
//! migrations that it does not know: it serves, and starts, on a database that is newer than itself.

use std::time::Duration;

use diesel::backend::Backend;
use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_types::{BigInt, Bool, Text};
use diesel::sqlite::Sqlite;
use diesel::{PgConnection, QueryableByName, RunQueryDsl, sql_query};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::time::Instant;

use super::{AnyConnection, Manager, directly, writer};
use crate::config::DatabaseUrl;

const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
/// Any number, the same for every node: the advisory lock that nodes queue at.
const MIGRATION_LOCK: i64 = 7_463_851_209;
/// How long a start waits for other nodes, and for tables that are in use.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a migration waits for a table. Every request that comes meanwhile queues behind it, so
/// this is much less than a request may wait; and less than after what PostgreSQL looks for circles
/// of waiting transactions (1 s), so that of those it is never a request's that is given up.
const TABLE_WAIT: Duration = Duration::from_millis(300);
/// How long those that queued have to get on before the next attempt.
const PAUSE: Duration = Duration::from_millis(700);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The migrations of a program beside those that a database knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Those that the database has yet to see.
    pub pending: Vec<String>,
    /// Those that only the database knows: it is newer than the program.
    pub unknown: Vec<String>,
}

impl Compared {
    fn new(known: &[String], ours: &[(String, String)]) -> Self {
        let pending = ours.iter().filter(|(version, _)| !known.contains(version));
        let is_ours = |version: &&String| ours.iter().any(|(our, _)| our == *version);
        Self {
            pending: pending.map(|(_, name)| name.clone()).collect(),
            unknown: known.iter().filter(|it| !is_ours(it)).cloned().collect(),
        }
    }
}

/// What a start or `gapura migrate` found and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Names of what was applied.
    pub applied: Vec<String>,
    /// As [`Compared::unknown`].
    pub unknown: Vec<String>,
}

/// Applies what is pending.
///
/// # Errors
/// When the database cannot be reached or a migration fails; of that one nothing was applied.
pub fn migrate(url: &DatabaseUrl) -> Result<Migrated, BoxError> {
    match url {
        DatabaseUrl::Sqlite(_) => migrate_by(url, &SQLITE),
        DatabaseUrl::Postgres(_) => migrate_by(url, &POSTGRES),
    }
}

/// As [`migrate`], by migrations of one's own: for tests of what a later program may bring.
///
/// # Errors
/// As [`migrate`].
pub fn migrate_by<S>(url: &DatabaseUrl, source: &S) -> Result<Migrated, BoxError>
where
    S: MigrationSource<Sqlite> + MigrationSource<Pg>,
{
    let mut conn = Manager::patient(url).open()?;
    // An old program starts at once, also while a newer one is at work.
    let Compared { pending, unknown } = compare(&mut conn, source)?;
    let applied = match &mut conn {
        _ if pending.is_empty() => Vec::new(),
        AnyConnection::Sqlite(inner) => {
            let wait = PATIENCE.as_millis();
            inner.batch_execute(&format!("PRAGMA busy_timeout = {wait}"))?;
            writer::begin(&mut conn)?;
            let applied = apply_to_sqlite(&mut conn, source);
            writer::finish(&mut conn, applied.is_ok())?;
            applied?
        }
        // Its lock goes with the connection.
        AnyConnection::Postgres(conn) => {
            wait_for_others(conn)?;
            apply_to_postgres(conn, source)?
        }
    };
    Ok(Migrated { applied, unknown })
}

fn apply_to_sqlite(
    conn: &mut AnyConnection,
    source: &impl MigrationSource<Sqlite>,
) -> Result<Vec<String>, BoxError> {
    let AnyConnection::Sqlite(conn) = conn else {
        return Ok(Vec::new());
    };
    let mut applied = Vec::new();
    for migration in pending(conn, source)? {
        conn.run_migration(&migration)?;
        applied.push(migration.name().to_string());
    }
    Ok(applied)
}

/// Each in a transaction of its own, so that no table is held while another is waited for.
fn apply_to_postgres(
    conn: &mut PgConnection,
    source: &impl MigrationSource<Pg>,
) -> Result<Vec<String>, BoxError> {
    let mut applied = Vec::new();
    for migration in pending(conn, source)? {
        match migration.metadata().run_in_transaction() {
            true => apply_in_turns(conn, &migration)?,
            false => apply_alongside(conn, &migration)?,
        }
        applied.push(migration.name().to_string());
    }
    Ok(applied)
}

/// What the database has yet to see, in order.
fn pending<B: Backend>(
    conn: &mut impl MigrationHarness<B>,
    source: &impl MigrationSource<B>,
) -> Result<Vec<Box<dyn Migration<B>>>, BoxError> {
    let known = conn.applied_migrations()?;
    let mut pending = source.migrations()?;
    pending.retain(|migration| !known.contains(&migration.name().version().as_owned()));
    pending.sort_by(|a, b| a.name().version().cmp(&b.name().version()));
    Ok(pending)
}

/// Tries until the tables are free for a moment; whoever waits for them meanwhile gets on between.
fn apply_in_turns(conn: &mut PgConnection, migration: &dyn Migration<Pg>) -> Result<(), BoxError> {
    let wait = TABLE_WAIT.as_millis();
    conn.batch_execute(&format!(
        "SET lock_timeout = '{wait}ms'; SET statement_timeout = '60s'"
    ))?;
    let began = Instant::now();
    loop {
        let tried = Instant::now();
        match conn.run_migration(migration) {
            Ok(_) => return Ok(()),
            // Diesel does not tell which error it was, and its text is in the server's language; but
            // one that came sooner is not that of a lock.
            Err(error) if tried.elapsed() < TABLE_WAIT => return Err(error),
            Err(error) if began.elapsed() > PATIENCE => {
                return Err(format!(
                    "{}: {error}; if a table is in use, by `pg_dump` for example, let it end (see pg_stat_activity) and start again",
                    migration.name()
                )
                .into());
            }
            Err(error) => {
                tracing::info!(%error, migration = %migration.name(), "a table is in use, trying again");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// An index that is built CONCURRENTLY keeps nobody from anything, however long it takes. One that was
/// begun and not finished is of no use, and in the way of its own name.
fn apply_alongside(conn: &mut PgConnection, migration: &dyn Migration<Pg>) -> Result<(), BoxError> {
    #[derive(QueryableByName)]
    struct Index {
        #[diesel(sql_type = Text)]
        name: String,
    }
    tracing::info!(migration = %migration.name(), "an index is being built, which may take long");
    conn.batch_execute("SET lock_timeout = 0; SET statement_timeout = 0")?;
    let unfinished = sql_query(
        "SELECT quote_ident(relname) AS name FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
         WHERE NOT indisvalid AND relnamespace = current_schema()::regnamespace \
         AND relname NOT LIKE '%\\_ccnew%' AND relname NOT LIKE '%\\_ccold%'",
    );
    for Index { name } in unfinished.load::<Index>(conn)? {
        conn.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {name}"))?;
    }
    conn.run_migration(migration)?;
    Ok(())
}

/// By asking again and again: a statement that waits would be waited for by CREATE INDEX CONCURRENTLY,
/// and so the two for each other.
fn wait_for_others(conn: &mut PgConnection) -> Result<(), BoxError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        is_ours: bool,
    }
    let began = Instant::now();
    loop {
        let lock = sql_query("SELECT pg_try_advisory_lock($1) AS is_ours");
        let lock = lock.bind::<BigInt, _>(MIGRATION_LOCK);
        if lock.get_result::<Row>(conn)?.is_ours {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err("another node is migrating it, and has not finished in a minute".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Compares, and unlike Diesel's own functions changes nothing, not even a database that is empty.
fn compare<S>(conn: &mut AnyConnection, source: &S) -> Result<Compared, BoxError>
where
    S: MigrationSource<Sqlite> + MigrationSource<Pg>,
{
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        tables: i64,
    }
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        version: String,
    }
    let (ours, tables) = match conn {
        AnyConnection::Sqlite(_) => (
            names(&MigrationSource::<Sqlite>::migrations(source)?),
            "SELECT count(*) AS tables FROM sqlite_master WHERE name = '__diesel_schema_migrations'",
        ),
        AnyConnection::Postgres(_) => (
            names(&MigrationSource::<Pg>::migrations(source)?),
            "SELECT count(to_regclass('__diesel_schema_migrations')) AS tables",
        ),
    };
    let known = "SELECT version FROM __diesel_schema_migrations ORDER BY version";
    let known = directly!(conn, |conn| {
        match sql_query(tables).get_result::<Count>(conn)?.tables {
            0 => Vec::new(),
            _ => sql_query(known).load::<Row>(conn)?,
        }
    });
    let known: Vec<_> = known.into_iter().map(|row| row.version).collect();
    Ok(Compared::new(&known, &ours))
}

/// Versions and names, in order.
fn names<B: Backend>(migrations: &[Box<dyn Migration<B>>]) -> Vec<(String, String)> {
    let names = migrations.iter().map(|migration| migration.name());
    let mut names: Vec<_> = names
        .map(|name| (name.version().to_string(), name.to_string()))
        .collect();
    names.sort();
    names
}

/// The program's migrations beside those that a database knows.
///
/// # Errors
/// When it cannot be asked.
pub fn compared(url: &DatabaseUrl) -> Result<Compared, BoxError> {
    let mut conn = Manager::patient(url).open()?;
    match url {
        DatabaseUrl::Sqlite(_) => compare(&mut conn, &SQLITE),
        DatabaseUrl::Postgres(_) => compare(&mut conn, &POSTGRES),
    }
}
