//! The database, SQLite or PostgreSQL behind one connection type.
//!
//! [`Db::read`] and [`Db::write`] run a closure on a thread that may block, within a time limit. A
//! write is one transaction: `Ok` means committed, `Err` means nothing happened (or, after a time
//! limit, that nobody knows).
//!
//! SQLite has one writer at a time by nature, so here all writes of the process go through one
//! thread, which commits those that wait together as one group: nobody ever meets "database is
//! locked", and thirty-two rotations share one fsync. A job inside a group is a savepoint of its own.

mod migrations;
pub mod schema;
pub mod upkeep;
mod writer;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::result::{ConnectionError, ConnectionResult, DatabaseErrorKind};
use diesel::{Connection, PgConnection, QueryResult, SqliteConnection};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::migrations::{Compared, Migrated, compared, migrate, migrate_by};
use self::writer::Writer;
use crate::clock::Timestamp;
use crate::config::{DatabaseUrl, Secret};
use crate::metrics::Timing;
use crate::request::{self, TIME_LIMIT};

/// How long a start or a command waits, which nobody is kept waiting by.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long SQLite waits while another process writes; for requests and for commands.
const BUSY: Duration = Duration::from_secs(1);
const BUSY_PATIENT: Duration = Duration::from_secs(10);
/// After which it is tried again where it does not.
const RETRY: Duration = Duration::from_millis(10);
/// A connection that answered so lately is not asked whether it still lives: where it does not, its
/// next transaction says so, and it is dropped.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// KiB of an SQLite file that a connection for reading keeps: there may be many, and the system keeps the file once for all.
const READER_CACHE: u32 = 512;
/// How long a request waits for a free connection.
const CHECKOUT_LIMIT: Duration = Duration::from_millis(1000);
/// How many connections may be held by what nobody waits for: where commits hang, it alone never holds them all.
const NOTES: usize = 4;

/// Any number, the same for every node; another than that of the migrations.
const ROLES_LOCK: i64 = 7_463_851_210;

/// Runs a query on the very connection that it is. Diesel knows its SQL by the type of the query then,
/// where [`AnyConnection`] writes the text anew each time: for what is asked thousands of times a second.
macro_rules! directly {
    ($conn:expr, |$inner:ident| $query:expr) => {
        match $conn {
            $crate::db::AnyConnection::Sqlite($inner) => $query,
            $crate::db::AnyConnection::Postgres($inner) => $query,
        }
    };
}
pub(crate) use directly;

/// A connection to either database.
#[derive(diesel::MultiConnection)]
pub enum AnyConnection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Why the database gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// It cannot be reached, is too slow, full, or closed on us: come back later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The query itself failed.
    #[error(transparent)]
    Query(diesel::result::Error),
}

impl DbError {
    fn too_late() -> Self {
        Self::Unavailable("no answer within the time limit".to_owned())
    }

    /// What the database or its client said.
    pub fn cause(self) -> String {
        match self {
            Self::Unavailable(cause) => cause,
            Self::Query(error) => error.to_string(),
        }
    }
}

impl From<diesel::result::Error> for DbError {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::Error;
        match &error {
            Error::RollbackTransaction => Self::too_late(),
            Error::DatabaseError(
                DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::UnableToSendCommand
                | DatabaseErrorKind::ReadOnlyTransaction
                | DatabaseErrorKind::SerializationFailure
                | DatabaseErrorKind::Unknown,
                _,
            )
            | Error::BrokenTransactionManager
            | Error::RollbackErrorOnCommit { .. } => Self::Unavailable(error.to_string()),
            _ => Self::Query(error),
        }
    }
}

/// The database of this process. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: r2d2::Pool<Manager>,
    writer: Option<Writer>,
    notes: Arc<Semaphore>,
    timing: Timing,
    limit: Duration,
}

impl Db {
    /// Opens the database for requests; the first connection is made here, so a wrong address is told
    /// at once.
    pub fn open(url: &DatabaseUrl, readers: u32) -> Result<Self, DbError> {
        Self::open_by(Manager::new(url), readers)
    }

    /// Opens it for a command: beside a server that writes without a pause it waits for its turn.
    pub fn open_patient(url: &DatabaseUrl, readers: u32) -> Result<Self, DbError> {
        Ok(Self::open_by(Manager::patient(url), readers)?.patient())
    }

    /// The same database, for what no request waits for: it may take its time on a slow disk.
    pub fn patient(&self) -> Self {
        Self {
            limit: PATIENCE,
            ..self.clone()
        }
    }

    fn open_by(manager: Manager, readers: u32) -> Result<Self, DbError> {
        let unavailable = |error: &dyn std::fmt::Display| DbError::Unavailable(error.to_string());
        let first = manager.open().map_err(|error| unavailable(&error))?;
        let writer = match &manager.url {
            // It tries again by itself for those who wait longer.
            DatabaseUrl::Sqlite(_) => Some(Writer::start(first, Manager::new(&manager.url))),
            DatabaseUrl::Postgres(_) => None,
        };
        let pool = r2d2::Pool::builder()
            .max_size(readers)
            .min_idle(Some(0))
            .connection_timeout(CHECKOUT_LIMIT)
            .error_handler(Box::new(QuietPool))
            .build(manager)
            .map_err(|error| unavailable(&error))?;
        Ok(Self {
            pool,
            writer,
            notes: Arc::new(Semaphore::new(NOTES)),
            timing: Timing::default(),
            limit: TIME_LIMIT,
        })
    }

    /// How long it took, and how often there was no answer.
    pub const fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Runs a query that changes nothing.
    pub async fn read<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> QueryResult<T> + Send + 'static,
    {
        self.timed("read", Box::pin(self.on_a_connection(job)))
            .await
    }

    /// On the heap, since the many requests that need no database would carry the room for it along.
    async fn timed<T>(
        &self,
        operation: &'static str,
        work: Pin<Box<impl Future<Output = Result<T, DbError>>>>,
    ) -> Result<T, DbError> {
        let is_outage = |error: &DbError| matches!(error, DbError::Unavailable(_));
        self.timing.time(operation, work, is_outage).await
    }

    async fn on_a_connection<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> QueryResult<T> + Send + 'static,
    {
        let pool = self.pool.clone();
        self.in_time(actix_web::web::block(move || {
            let mut pooled = checkout(&pool)?;
            let outcome = job(&mut pooled.conn);
            // What came too late is no fault of the connection's.
            let is_late = matches!(outcome, Err(diesel::result::Error::RollbackTransaction));
            let outcome = outcome.map_err(DbError::from);
            pooled.is_broken = !is_late && matches!(outcome, Err(DbError::Unavailable(_)));
            pooled.used_at = Instant::now();
            outcome
        }))
        .await?
        .unwrap_or_else(|error| Err(DbError::Unavailable(error.to_string())))
    }

    /// Runs a transaction. `Ok` is committed; an `Err` of the job rolls it back. A job that has taken longer
    /// than it was waited for is undone as well: who was told that nothing was done may try again. (What
    /// waits after that, for the commit or for the rest of a group, may yet be done.)
    pub async fn write<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> QueryResult<T> + Send + 'static,
    {
        let until = self.deadline();
        self.timed("write", Box::pin(self.write_by(until, job)))
            .await
    }

    /// As [`Self::write`], for those who wait for it by [`Self::written`], of whom the first is told that nothing was
    /// done at `until`.
    pub async fn write_by<T, F>(&self, until: Instant, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> QueryResult<T> + Send + 'static,
    {
        let in_time = move || match Instant::now() < until {
            true => Ok(()),
            false => Err(diesel::result::Error::RollbackTransaction),
        };
        let job = move |conn: &mut _| {
            in_time()?;
            let value = job(conn)?;
            in_time()?;
            Ok(value)
        };
        match &self.writer {
            Some(writer) => self.in_time(writer.submit(until, job)).await?,
            None => {
                self.on_a_connection(move |conn| conn.transaction(job))
                    .await
            }
        }
    }

    /// Runs one statement that changes something and that nobody waits for, so that it may be lost: a few
    /// at a time, for where the database is slow they must not take all connections from those who ask.
    ///
    /// # Errors
    /// Nothing was noted, or after a time limit nobody knows.
    pub async fn note<F>(&self, statement: F) -> Result<(), DbError>
    where
        F: FnOnce(&mut AnyConnection) -> QueryResult<()> + Send + 'static,
    {
        if self.writer.is_some() {
            return self.write(statement).await;
        }
        let turn = self.in_time(Arc::clone(&self.notes).acquire_owned());
        let turn = turn.await?.map_err(|_| DbError::too_late())?;
        let noted = self.on_a_connection(move |conn| {
            let noted = statement(conn);
            // Not before: who gave up waiting has not given back the connection.
            drop(turn);
            noted
        });
        self.timed("write", Box::pin(noted)).await
    }

    /// Waits for what is written for several who ask, no longer than whoever asks may.
    ///
    /// # Errors
    /// Those of the writing, or when there is no answer by then.
    pub async fn written<T>(
        &self,
        work: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, DbError> {
        let work = async { self.in_time(work).await? };
        self.timed("write", Box::pin(work)).await
    }

    /// Whether what is committed later also has the higher number of a sequence: with one writer at a
    /// time.
    pub const fn commits_in_order(&self) -> bool {
        self.writer.is_some()
    }

    /// Waits for an answer of the database no longer than whoever asks may.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, DbError> {
        let (began, left) = (Instant::now(), self.left());
        let answer = tokio::time::timeout(left, work).await;
        request::waited(began.elapsed());
        answer.map_err(|_| DbError::too_late())
    }

    /// When whoever asks now is told that there was no answer.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.left()
    }

    fn left(&self) -> Duration {
        request::left().map_or(self.limit, |left| left.min(self.limit))
    }

    /// What time it is by the database's own clock, where it is another than ours.
    ///
    /// # Errors
    /// When there is no sign of life, or it takes no changes, as after a failover.
    pub async fn clock(&self) -> Result<Option<Timestamp>, DbError> {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            clock: i64,
            #[diesel(sql_type = diesel::sql_types::Bool)]
            takes_changes: bool,
        }
        let asked = self.read(|conn| match conn {
            AnyConnection::Sqlite(conn) => conn.batch_execute("SELECT 1").map(|()| None),
            AnyConnection::Postgres(conn) => diesel::RunQueryDsl::get_result::<Row>(
                diesel::sql_query(
                    "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock, \
                     current_setting('transaction_read_only') = 'off' AS takes_changes",
                ),
                conn,
            )
            .map(Some),
        });
        match asked.await? {
            Some(Row {
                takes_changes: false,
                ..
            }) => Err(DbError::Unavailable("it takes no changes".to_owned())),
            row => Ok(row.map(|row| Timestamp::from_millis(row.clock))),
        }
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// As [`Self::clock`].
    pub async fn ping(&self) -> Result<(), DbError> {
        self.clock().await.map(drop)
    }

    /// The file of an SQLite database has been changed by another process since the last call.
    pub async fn changed_by_others(&self) -> Result<bool, DbError> {
        match &self.writer {
            Some(writer) => self.in_time(writer.changed_by_others()).await?,
            None => Ok(false),
        }
    }
}

fn checkout(pool: &r2d2::Pool<Manager>) -> Result<r2d2::PooledConnection<Manager>, DbError> {
    pool.get()
        .map_err(|error| DbError::Unavailable(error.to_string()))
}

/// Keeps a person's row as it is until the transaction ends: who disables them or changes their
/// password waits, and then also finds what this transaction made.
pub fn hold_user(conn: &mut AnyConnection, user_id: &str) -> QueryResult<()> {
    use diesel::RunQueryDsl;
    if let AnyConnection::Postgres(conn) = conn {
        diesel::sql_query("SELECT 1 FROM users WHERE id = $1 FOR SHARE")
            .bind::<diesel::sql_types::Text, _>(user_id)
            .execute(conn)?;
    }
    Ok(())
}

/// Lets those who change who may do what in one at a time, until the transaction ends: what one reads
/// of the others' roles still holds when it commits. SQLite has a single writer anyway.
pub fn hold_roles(conn: &mut AnyConnection) -> QueryResult<()> {
    if let AnyConnection::Postgres(conn) = conn {
        conn.batch_execute(&format!("SELECT pg_advisory_xact_lock({ROLES_LOCK})"))?;
    }
    Ok(())
}

/// Whether `error` says that a value that must be unique is taken.
pub fn is_unique_violation(error: &diesel::result::Error) -> bool {
    use diesel::result::Error;
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)
    )
}

/// The pool complains with every attempt of its own; whoever asks the database is told, too.
#[derive(Debug)]
struct QuietPool;

impl r2d2::HandleError<ConnectionError> for QuietPool {
    fn handle_error(&self, error: ConnectionError) {
        tracing::debug!(%error, "could not open a database connection");
    }
}

/// A connection in the pool.
pub(crate) struct Pooled {
    conn: AnyConnection,
    used_at: Instant,
    /// Its last transaction met trouble that may be the connection's own.
    is_broken: bool,
}

/// Opens connections: a match on the address, since a derived `establish` would take
/// `postgres://…` for the name of an SQLite file.
#[derive(Clone)]
pub(crate) struct Manager {
    url: DatabaseUrl,
    busy: Duration,
}

impl Manager {
    fn new(url: &DatabaseUrl) -> Self {
        Self {
            url: url.clone(),
            busy: BUSY,
        }
    }

    fn patient(url: &DatabaseUrl) -> Self {
        Self {
            url: url.clone(),
            busy: BUSY_PATIENT,
        }
    }

    fn open(&self) -> ConnectionResult<AnyConnection> {
        match &self.url {
            DatabaseUrl::Sqlite(path) => open_sqlite(path, self.busy).map(AnyConnection::Sqlite),
            DatabaseUrl::Postgres(url) => open_postgres(url).map(AnyConnection::Postgres),
        }
    }
}

fn open_sqlite(path: &Path, busy: Duration) -> ConnectionResult<SqliteConnection> {
    // Made here, since SQLite would make it readable by others; its side files take after it. One that
    // exists is never opened: closing it again would drop the locks that SQLite holds on it in this
    // process, and another process would take the database for abandoned.
    let mut new = OpenOptions::new();
    match new.write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            let problem = format!("{}: {error}", path.display());
            return Err(ConnectionError::BadConnection(problem));
        }
        _ => {}
    }
    let mut conn = SqliteConnection::establish(&path.to_string_lossy())?;
    let pragmas = format!(
        "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 4000;",
        busy.as_millis()
    );
    // Who changes a new file to WAL while another does is told that it is locked at once, whatever the timeout.
    // It is not tried for longer than that: where SQLite does wait, one try takes as long.
    let began = Instant::now();
    while let Err(error) = conn.batch_execute(&pragmas) {
        if began.elapsed() >= busy || !error.to_string().contains("locked") {
            return Err(ConnectionError::CouldntSetupConfiguration(error));
        }
        std::thread::sleep(RETRY);
    }
    Ok(conn)
}

fn open_postgres(url: &Secret<String>) -> ConnectionResult<PgConnection> {
    let separator = if url.expose().contains('?') { '&' } else { '?' };
    let url = format!(
        "{}{separator}connect_timeout=2&tcp_user_timeout=2000&keepalives_idle=2\
         &keepalives_interval=1&keepalives_count=3&application_name=gapura",
        url.expose()
    );
    let mut conn = PgConnection::establish(&url)?;
    conn.batch_execute(
        // What is asked often is found by an index. A plan made while a table was small would read all
        // of it for as long as the connection lasts, or until statistics are gathered anew.
        // Where it reads a whole table all the same, the fancied cost of that must not call for a compiler,
        // which takes a fifth of a second.
        "SET statement_timeout = '5s'; SET lock_timeout = '2s'; SET enable_seqscan = off; SET jit = off; \
         SET idle_in_transaction_session_timeout = '5s'; SET client_min_messages = 'warning';",
    )
    .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

impl r2d2::ManageConnection for Manager {
    type Connection = Pooled;
    type Error = ConnectionError;

    fn connect(&self) -> Result<Pooled, ConnectionError> {
        let mut conn = self.open()?;
        if let AnyConnection::Sqlite(conn) = &mut conn {
            conn.batch_execute(&format!("PRAGMA cache_size = -{READER_CACHE}"))
                .map_err(ConnectionError::CouldntSetupConfiguration)?;
        }
        Ok(Pooled {
            conn,
            used_at: Instant::now(),
            is_broken: false,
        })
    }

    fn is_valid(&self, pooled: &mut Pooled) -> Result<(), ConnectionError> {
        match &mut pooled.conn {
            AnyConnection::Postgres(conn) if pooled.used_at.elapsed() > TRUSTED_FOR => conn
                .batch_execute("SELECT 1")
                .map_err(ConnectionError::CouldntSetupConfiguration),
            _ => Ok(()),
        }
    }

    fn has_broken(&self, pooled: &mut Pooled) -> bool {
        pooled.is_broken || std::thread::panicking()
    }
}
