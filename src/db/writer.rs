//! The one thread that writes to SQLite, committing in groups.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use diesel::connection::{AnsiTransactionManager, TransactionManager};
use diesel::sql_types::BigInt;
use diesel::{Connection, QueryResult, QueryableByName, RunQueryDsl};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{AnyConnection, BUSY, DbError, Manager, RETRY};

/// Jobs committed together at the most: bounds how long the first of a group waits.
const LARGEST_GROUP: usize = 64;

type Reply = Box<dyn FnOnce(Result<(), DbError>) + Send>;
/// Runs a job in a savepoint, or takes note that no transaction could begin, and returns what to tell its
/// caller once the group is committed.
type Job = Box<dyn FnOnce(Result<&mut AnyConnection, DbError>) -> Reply + Send>;

struct Waiting {
    job: Job,
    until: Instant,
}

enum Message {
    Write(Waiting),
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

    /// Runs a transaction, in a group with others. Where another process writes for long it is tried anew
    /// as long as there is time for that before `until`.
    pub async fn submit<T, F>(&self, until: Instant, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> QueryResult<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel::<Result<T, DbError>>();
        let job: Job = Box::new(move |conn| {
            let outcome = conn.and_then(|conn| conn.transaction(job).map_err(DbError::from));
            Box::new(move |committed| {
                // The caller may have given up waiting: then nobody listens.
                let _ = sender.send(outcome.and_then(|value| {
                    committed?;
                    Ok(value)
                }));
            })
        });
        self.send(Message::Write(Waiting { job, until }))?;
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
    let mut jobs = Vec::new();
    loop {
        // With jobs that are tried again nothing need come for another group.
        let first = match jobs.is_empty() {
            true => match inbox.recv() {
                Ok(first) => Some(first),
                Err(_) => return,
            },
            false => None,
        };
        if !is_sound && let Ok(fresh) = manager.open() {
            conn = fresh;
            // What others have done meanwhile is not known.
            version = None;
            is_sound = true;
        }
        let more = LARGEST_GROUP.saturating_sub(jobs.len() + usize::from(first.is_some()));
        for message in first.into_iter().chain(inbox.try_iter().take(more)) {
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
        if let Err(error) = begin(&mut conn) {
            let _ = finish(&mut conn, false);
            is_sound = false;
            jobs = put_off(jobs, &error.to_string());
            continue;
        }
        // After a job that panicked or a group that could not be committed, Diesel's count of
        // savepoints need not be SQLite's: callers hear that the database is unavailable, and the
        // next group starts on a new connection.
        let group = std::mem::take(&mut jobs);
        let committed = catch_unwind(AssertUnwindSafe(|| commit_together(&mut conn, group)));
        is_sound = committed.unwrap_or(false);
    }
}

/// What may be tried again, since another process writes and there is time for another wait as long as
/// this one; the others hear that there is no transaction.
fn put_off(jobs: Vec<Waiting>, cause: &str) -> Vec<Waiting> {
    let another = Instant::now() + BUSY;
    let (again, over): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .partition(|waiting| cause.contains("locked") && waiting.until > another);
    for Waiting { job, .. } in over {
        job(Err(DbError::Unavailable(cause.to_owned())))(Ok(()));
    }
    if !again.is_empty() {
        // Where SQLite has not waited by itself.
        std::thread::sleep(RETRY);
    }
    again
}

/// Whether the group was committed.
fn commit_together(conn: &mut AnyConnection, jobs: Vec<Waiting>) -> bool {
    let run = |Waiting { job, .. }| job(Ok(&mut *conn));
    let replies: Vec<_> = jobs.into_iter().map(run).collect();
    let outcome = finish(conn, true);
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
