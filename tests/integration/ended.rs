//! What has ended is known on every node, in whatever order the database is told of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use diesel::connection::{InstrumentationEvent, SimpleConnection};
use diesel::{Connection, PgConnection};
use gapura::clock::{Clock, SystemClock};
use gapura::config::DatabaseUrl;
use gapura::db::{AnyConnection, Db, DbError};
use gapura::login::ended::{Ended, Reader};
use gapura::login::{self, Cause};

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
    assert_eq!(node.reads_again().await, 0);
}

/// Otherwise somebody with many logins could not be logged out of them in time.
#[actix_web::test]
async fn thousands_of_logins_are_ended_by_few_statements() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (now, asked) = (app.now(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let ended = app.app.db.write(move |conn| {
            let ada = gapura::account::by_login_name(conn, "ada")?.expect("ada").id;
            let numbers = match conn {
                AnyConnection::Sqlite(_) => {
                    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
                }
                AnyConnection::Postgres(_) => "WITH n (i) AS (SELECT generate_series(1, 2500))",
            };
            let (now_ms, later) = (now.millis(), now.millis() + 3_600_000);
            conn.batch_execute(&format!(
                "{numbers} INSERT INTO logins (id, user_id, kind, device, ip, started_at, auth_time, last_activity_at, \
                 expires_at) SELECT 'many' || i, '{ada}', 'api', '', '', {now_ms}, {now_ms}, {now_ms}, {later} FROM n"
            ))?;
            if let AnyConnection::Postgres(conn) = conn {
                conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
                    if let InstrumentationEvent::StartQuery { .. } = event {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            login::end_all_of(conn, &ada, Cause::Revoked, Some("many7"), None, now)
        });
        let ended = ended.await.unwrap();
        assert_eq!(ended.len(), 2499);
        assert!(ended.iter().all(|login| login.id != "many7"));
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
