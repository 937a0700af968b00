//! The one thread that writes to SQLite, committing in groups.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use diesel::connection::{AnsiTransactionManager, TransactionManager};
use diesel::sql_types::BigInt;
use diesel::{Connection, QueryResult, QueryableByName, RunQueryDsl};
use tokio::sync::oneshot;

use super::{AnyConnection, DbError, Manager};

/// Jobs committed together at the most: bounds how long the first of a group waits.
const LARGEST_GROUP: usize = 64;

type Reply = Box<dyn FnOnce(Result<(), DbError>) + Send>;
/// Runs a job in a savepoint and returns what to tell its caller once the group is committed.
type Job = Box<dyn FnOnce(&mut AnyConnection) -> Reply + Send>;

enum Message {
    Write(Job),
    ChangedByOthers(oneshot::Sender<Result<bool, DbError>>),
}

/// A handle to the writer thread. Cheap to clone; the thread ends with the last handle.
#[derive(Clone)]
pub struct Writer(mpsc::Sender<Message>);

impl Writer {
    pub fn start(conn: AnyConnection, manager: Manager) -> Self {
        let (sender, receiver) = mpsc::channel();
        std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || run(conn, &manager, &receiver))
            .expect("the system starts a thread at start-up");
        Self(sender)
    }

    pub async fn submit<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> QueryResult<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel::<Result<T, DbError>>();
        let job: Job = Box::new(move |conn| {
            let outcome = conn.transaction(job);
            Box::new(move |committed| {
                // The caller may have given up waiting: then nobody listens.
                let _ = sender.send(outcome.map_err(DbError::from).and_then(|value| {
                    committed?;
                    Ok(value)
                }));
            })
        });
        self.send(Message::Write(job))?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    pub async fn changed_by_others(&self) -> Result<bool, DbError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::ChangedByOthers(sender))?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    fn send(&self, message: Message) -> Result<(), DbError> {
        self.0.send(message).map_err(|_| stopped())
    }
}

fn stopped() -> DbError {
    DbError::Unavailable("the transaction could not be carried out".into())
}

/// Begins a transaction that writes, so that it never has to upgrade from reading (which fails at
/// once when another process writes, however long the busy timeout).
pub fn begin(conn: &mut AnyConnection) -> QueryResult<()> {
    match conn {
        AnyConnection::Sqlite(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")
        }
        AnyConnection::Postgres(conn) => AnsiTransactionManager::begin_transaction(conn),
    }
}

/// Commits, or rolls back.
pub fn finish(conn: &mut AnyConnection, commit: bool) -> QueryResult<()> {
    match (conn, commit) {
        (AnyConnection::Sqlite(conn), true) => AnsiTransactionManager::commit_transaction(conn),
        (AnyConnection::Sqlite(conn), false) => AnsiTransactionManager::rollback_transaction(conn),
        (AnyConnection::Postgres(conn), true) => AnsiTransactionManager::commit_transaction(conn),
        (AnyConnection::Postgres(conn), false) => {
            AnsiTransactionManager::rollback_transaction(conn)
        }
    }
}

fn run(mut conn: AnyConnection, manager: &Manager, inbox: &mpsc::Receiver<Message>) {
    let mut version = data_version(&mut conn).ok();
    let mut is_sound = true;
    while let Ok(first) = inbox.recv() {
        if !is_sound && let Ok(fresh) = manager.open() {
            conn = fresh;
            version = data_version(&mut conn).ok();
            is_sound = true;
        }
        let waiting = inbox.try_iter().take(LARGEST_GROUP - 1);
        let mut jobs = Vec::new();
        for message in std::iter::once(first).chain(waiting) {
            match message {
                Message::Write(job) => jobs.push(job),
                Message::ChangedByOthers(reply) => {
                    let current = data_version(&mut conn);
                    let changed = current.map_err(DbError::from).map(|current| {
                        let before = version.replace(current);
                        before != Some(current)
                    });
                    let _ = reply.send(changed);
                }
            }
        }
        if jobs.is_empty() {
            continue;
        }
        // After a job that panicked or a group that could not be committed, Diesel's count of
        // savepoints need not be SQLite's: callers hear that the database is unavailable, and the
        // next group starts on a new connection.
        let committed = catch_unwind(AssertUnwindSafe(|| commit_together(&mut conn, jobs)));
        is_sound = committed.unwrap_or(false);
    }
}

/// Whether the group was committed.
fn commit_together(conn: &mut AnyConnection, jobs: Vec<Job>) -> bool {
    let mut replies = Vec::with_capacity(jobs.len());
    let outcome = begin(conn).and_then(|()| {
        replies.extend(jobs.into_iter().map(|job| job(conn)));
        finish(conn, true)
    });
    if outcome.is_err() {
        let _ = finish(conn, false);
    }
    let is_committed = outcome.is_ok();
    let cause = outcome.err().map(|error| error.to_string());
    for reply in replies {
        reply(match &cause {
            None => Ok(()),
            Some(cause) => Err(DbError::Unavailable(cause.clone())),
        });
    }
    is_committed
}

/// Changes when, and only when, another connection has changed the file.
fn data_version(conn: &mut AnyConnection) -> QueryResult<i64> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        data_version: i64,
    }
    match conn {
        AnyConnection::Sqlite(conn) => diesel::sql_query("PRAGMA data_version")
            .get_result::<Row>(conn)
            .map(|row| row.data_version),
        AnyConnection::Postgres(_) => Ok(0),
    }
}
