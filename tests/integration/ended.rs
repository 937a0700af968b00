//! What has ended is known on every node, in whatever order the database is told of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use diesel::connection::{InstrumentationEvent, SimpleConnection};
use diesel::{Connection, PgConnection};
use gapura::clock::{Clock, SystemClock, Timestamp};
use gapura::config::DatabaseUrl;
use gapura::db::{AnyConnection, Db, DbError};
use gapura::login::ended::{Ended, Reader};
use gapura::login::{self, Cause, Client};

use crate::harness::{Backend, Installation, TestApp};

/// Longer than it matters how long ago something was seen.
const LATER: Duration = Duration::from_secs(20);

/// A node that reads the feed, of a database in which somebody has ended a login and not yet committed,
/// when another end that came after it was read already.
struct Node {
    db: Db,
    reader: Reader,
    ended: Ended,
    slow: PgConnection,
    /// The database is gone with it.
    _installation: Installation,
}

impl Node {
    async fn with_an_end_under_way() -> Self {
        let installation = Installation::new(Backend::Shared);
        let config = installation.config(&[]);
        gapura::db::migrate(&config.database).expect("migrations apply");
        let DatabaseUrl::Postgres(url) = &config.database else {
            unreachable!("it is shared")
        };
        let connect = || PgConnection::establish(url.expose()).expect("PostgreSQL answers");
        let mut node = Self {
            db: Db::open(&config.database, 2).expect("PostgreSQL answers"),
            reader: Reader::default(),
            ended: Ended::new(Duration::from_secs(3600)),
            slow: connect(),
            _installation: installation,
        };
        node.slow.batch_execute("BEGIN").unwrap();
        end(&mut node.slow, 1);
        end(&mut connect(), 2);
        tokio::time::pause();
        node.read().await;
        assert_eq!(node.known(), [false, true]);
        node
    }

    async fn read(&mut self) {
        let read = self.reader.read(&self.db, &self.ended, SystemClock.now());
        read.await.expect("PostgreSQL answers");
    }

    fn known(&self) -> [bool; 2] {
        [1, 2].map(|number| self.ended.cause(&login_id(number)).unwrap().is_some())
    }

    /// Until nothing is read again, which takes as long as somebody writes who began before, also in
    /// another test's database.
    async fn settle(&mut self) {
        for _ in 0..600 {
            tokio::time::advance(LATER).await;
            self.read().await;
            if self.reads_again().await == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("it is read again and again");
    }

    /// What it reads again though it knows it.
    async fn reads_again(&mut self) -> usize {
        self.ended = Ended::new(Duration::from_secs(3600));
        self.read().await;
        self.ended.len()
    }
}

fn login_id(number: u8) -> String {
    format!("0199f0c1-2345-7abc-8def-{number:012}")
}

fn end(conn: &mut PgConnection, number: u8) {
    conn.batch_execute(&format!(
        "INSERT INTO revocations (subject, cause, revoked_at, expires_at) \
         VALUES ('{}', 'logged_out', 0, 9999999999999)",
        login_id(number)
    ))
    .unwrap();
}

#[actix_web::test]
async fn an_end_that_was_committed_while_a_node_could_not_read_is_known_there_afterwards() {
    let mut node = Node::with_an_end_under_way().await;
    node.slow.batch_execute("COMMIT").unwrap();
    tokio::time::advance(LATER).await;
    node.read().await;
    assert_eq!(node.known(), [true, true]);
}

#[actix_web::test]
async fn an_end_that_takes_long_to_commit_is_known_and_what_is_known_is_not_read_again() {
    let mut node = Node::with_an_end_under_way().await;
    for _ in 0..3 {
        tokio::time::advance(LATER).await;
        node.read().await;
        assert_eq!(node.known(), [false, true]);
    }
    node.slow.batch_execute("COMMIT").unwrap();
    node.read().await;
    assert_eq!(node.known(), [true, true]);
    node.settle().await;
}

/// As where a replica that has not heard all is promoted.
#[actix_web::test]
async fn an_end_whose_number_was_given_before_is_known() {
    let mut node = Node::with_an_end_under_way().await;
    node.slow.batch_execute("ROLLBACK").unwrap();
    node.settle().await;
    node.slow
        .batch_execute("TRUNCATE revocations RESTART IDENTITY")
        .unwrap();
    node.read().await;
    end(&mut node.slow, 1);
    node.read().await;
    assert!(node.known()[0]);
}

/// The one that answers next may be another, and be as far by then.
#[actix_web::test]
async fn after_a_failed_reading_all_is_read_again() {
    let mut node = Node::with_an_end_under_way().await;
    node.slow.batch_execute("COMMIT").unwrap();
    node.settle().await;
    let rename = |from, to| format!("ALTER TABLE {from} RENAME TO {to}");
    node.slow
        .batch_execute(&rename("revocations", "away"))
        .unwrap();
    let read = node.reader.read(&node.db, &node.ended, SystemClock.now());
    assert!(read.await.is_err());
    node.slow
        .batch_execute(&rename("away", "revocations"))
        .unwrap();
    assert_eq!(node.reads_again().await, 2);
}

/// Whoever has more could not be disabled: it would take longer than it is given.
#[actix_web::test]
async fn nobody_has_more_logins_than_can_be_ended_at_once() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (now, hour) = (app.now(), Duration::from_secs(3600));
        let begun = app.app.db.write(move |conn| {
            let ada = gapura::account::by_login_name(conn, "ada")?.expect("ada");
            many_logins(conn, &ada.id, login::MOST_LIVING + 3, now)?;
            let (kind, client) = (login::Kind::Api, Client::command_line());
            let begun = login::begin(conn, &ada, kind, &client, hour, now)?.expect("a login");
            let living = login::living_of(conn, &ada.id, now)?;
            let ended = login::by_id(conn, "0000000001")?.expect("the oldest");
            Ok((begun, living, ended))
        });
        let (begun, living, ended) = begun.await.unwrap();
        assert_eq!(living.len(), usize::try_from(login::MOST_LIVING).unwrap());
        assert!(living.iter().any(|login| login.id == begun.id));
        assert_eq!(ended.ended_cause.as_deref(), Some("revoked"));
    }
}

fn many_logins(
    conn: &mut AnyConnection,
    user_id: &str,
    count: i64,
    now: Timestamp,
) -> diesel::QueryResult<()> {
    let (numbers, id) = match conn {
        AnyConnection::Sqlite(_) => (
            format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
            ),
            "printf('%010d', i)",
        ),
        AnyConnection::Postgres(_) => (
            format!("WITH n (i) AS (SELECT generate_series(1, {count}))"),
            "lpad(i::text, 10, '0')",
        ),
    };
    let (now, later) = (now.millis(), now.millis() + 3_600_000);
    conn.batch_execute(&format!(
        "{numbers} INSERT INTO logins (id, user_id, kind, device, ip, started_at, auth_time, last_activity_at, expires_at) \
         SELECT {id}, '{user_id}', 'api', '', '', {now}, {now}, {now}, {later} FROM n"
    ))
}

/// Otherwise somebody with many logins could not be logged out of them in time.
#[actix_web::test]
async fn thousands_of_logins_are_ended_by_few_statements() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (now, asked) = (app.now(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let ended = app.app.db.write(move |conn| {
            let ada = gapura::account::by_login_name(conn, "ada")?
                .expect("ada")
                .id;
            many_logins(conn, &ada, 2500, now)?;
            if let AnyConnection::Postgres(conn) = conn {
                conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
                    if let InstrumentationEvent::StartQuery { .. } = event {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            login::end_all_of(conn, &ada, Cause::Revoked, Some("0000000007"), None, now)
        });
        let ended = ended.await.unwrap();
        assert_eq!(ended.len(), 2499);
        assert!(ended.iter().all(|login| login.id != "0000000007"));
        let asked = asked.load(Ordering::SeqCst);
        assert!(asked < 30, "{asked}");
        assert_eq!(backend == Backend::Shared, asked > 0);
    }
}

/// Who is told that nothing was done may do it again.
#[actix_web::test]
async fn what_was_not_done_in_time_is_not_done_afterwards() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (done, is_done) = mpsc::channel();
        let slow = app.app.db.write(move |conn| {
            conn.batch_execute("UPDATE users SET name = 'Somebody else'")?;
            std::thread::sleep(Duration::from_millis(1600));
            let _ = done.send(());
            Ok(())
        });
        assert!(matches!(slow.await, Err(DbError::Unavailable(_))));
        actix_web::web::block(move || is_done.recv())
            .await
            .unwrap()
            .unwrap();
        // Whoever writes next comes after it.
        let ada = app.app.db.write(|conn| {
            conn.batch_execute("UPDATE users SET theme = 'dark'")?;
            gapura::account::by_login_name(conn, "ada")
        });
        assert_ne!(ada.await.unwrap().unwrap().name, "Somebody else");
    }
}
