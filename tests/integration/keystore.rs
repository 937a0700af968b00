//! One set of cases that both keystores are held to; then what is peculiar to each.

#![expect(
    clippy::disallowed_methods,
    reason = "how long a call takes is measured as the caller feels it"
)]
#![expect(clippy::unwrap_used, reason = "these are tests, and what they share")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use futures_util::FutureExt;
use futures_util::future::{join, join_all};
use gapura::clock::{Clock, FakeClock, SystemClock, Timestamp};
use gapura::config::{Config, DatabaseUrl};
use gapura::db::{self, Db};
use gapura::keystore::{Count, EmbeddedStore, Keystore};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A keystore, and how to look at it from outside.
struct Store {
    keys: Keystore,
    clock: Arc<FakeClock>,
    /// SQLite's file, for the embedded one.
    file: Option<tempfile::TempDir>,
}

impl std::ops::Deref for Store {
    type Target = Keystore;
    fn deref(&self) -> &Keystore {
        &self.keys
    }
}

impl Store {
    async fn embedded() -> Self {
        let file = tempfile::tempdir().unwrap();
        db::migrate(&url_in(&file)).unwrap();
        let clock = Arc::new(FakeClock::at(Timestamp::from_seconds(1_800_000_000)));
        let keys = open_embedded(&file, &clock).await;
        let file = Some(file);
        Self { keys, clock, file }
    }

    async fn redis() -> Self {
        let url = std::env::var("GAPURA_TEST_REDIS_URL")
            .expect("GAPURA_TEST_REDIS_URL is set, as tests/run does");
        Self::redis_at(&url).await
    }

    async fn redis_at(url: &str) -> Self {
        let settings = [("REDIS_URL".to_owned(), url.to_owned())];
        let config = Config::from_sources("", settings).unwrap();
        let file = tempfile::tempdir().unwrap();
        let db = Db::open(&url_in(&file), 1).unwrap();
        let clock = Arc::new(FakeClock::at(SystemClock.now()));
        let keys = Keystore::open(&config, &db, clock.clone()).await.unwrap();
        let file = None;
        Self { keys, clock, file }
    }

    /// As after a restart.
    async fn reopened(&self) -> Keystore {
        match &self.file {
            Some(file) => open_embedded(file, &self.clock).await,
            None => self.keys.clone(),
        }
    }

    /// How long `key` has left; `None`: it is not there.
    async fn time_left(&self, key: &str) -> Option<Duration> {
        let Keystore::Redis(store) = &self.keys else {
            self.flush().await.unwrap();
            let expires_at = "SELECT expires_at AS number FROM keystore WHERE key = ?";
            let rows: Vec<Row> = self.sql(expires_at, key);
            let ends = Timestamp::from_millis(rows.first()?.number);
            let left = self.clock.now().until(ends);
            return (!left.is_zero()).then_some(left);
        };
        let mut connection = store
            .client()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let left: i64 = redis::cmd("PTTL")
            .arg(key)
            .query_async(&mut connection)
            .await
            .unwrap();
        u64::try_from(left).ok().map(Duration::from_millis)
    }

    async fn value(&self, key: &str) -> Option<String> {
        let [value] = self.get([key]).await.unwrap();
        value
    }

    /// Runs a statement about `key` as an operator does, past the store.
    fn sql(&self, statement: &str, key: &str) -> Vec<Row> {
        let mut conn = self.another_connection();
        let statement = diesel::sql_query(statement).bind::<Text, _>(key);
        statement.load(&mut conn).unwrap()
    }

    fn delete_from_outside(&self, key: &str) {
        let deleted = self.sql(
            "DELETE FROM keystore WHERE key = ? RETURNING 1 AS number",
            key,
        );
        assert_eq!(deleted.len(), 1);
    }

    fn another_connection(&self) -> SqliteConnection {
        let file = self.file.as_ref().unwrap().path().join("test.db");
        let mut conn = SqliteConnection::establish(&file.to_string_lossy()).unwrap();
        conn.batch_execute("PRAGMA busy_timeout = 2000").unwrap();
        conn
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn url_in(directory: &tempfile::TempDir) -> DatabaseUrl {
    DatabaseUrl::Sqlite(directory.path().join("test.db"))
}

async fn open_embedded(file: &tempfile::TempDir, clock: &Arc<FakeClock>) -> Keystore {
    let db = Db::open(&url_in(file), 2).unwrap();
    Keystore::Embedded(EmbeddedStore::open(db, clock.clone()).await.unwrap())
}

/// A key that no other test uses.
fn fresh(name: &str) -> String {
    format!("test:{name}:{}", uuid::Uuid::now_v7())
}

/// `left` is `whole`, less what the test may have taken since.
fn is_about(left: Option<Duration>, whole: Duration) -> bool {
    left.is_some_and(|left| left <= whole && left + Duration::from_secs(20) > whole)
}

macro_rules! on_both {
    ($($case:ident)*) => {
        mod embedded {
            $(#[actix_web::test] async fn $case() { super::$case(super::Store::embedded().await).await; })*
        }
        mod on_redis {
            $(#[actix_web::test] async fn $case() { super::$case(super::Store::redis().await).await; })*
        }
    };
}

on_both! {
    what_is_put_is_found_in_the_order_asked_for
    a_key_lives_as_long_as_it_was_given
    additions_at_once_are_all_kept
    replacing_needs_a_key
    raising_never_lowers_and_never_creates
    what_is_no_number_cannot_be_raised
    deleting_removes_all_and_is_not_undone_by_what_follows
    a_deleted_key_is_not_revived_by_what_was_under_way
    raises_at_once_leave_the_highest
    a_window_begins_with_its_first_count
    counts_at_once_are_all_counted
    what_is_stored_survives_a_restart
    calls_may_move_between_threads
}

async fn what_is_put_is_found_in_the_order_asked_for(store: Store) {
    let (a, b, missing) = (fresh("a"), fresh("b"), fresh("missing"));
    store.put(&a, "first", HOUR).await.unwrap();
    store.put(&b, "zwei\r\n\0 \u{1F511}", HOUR).await.unwrap();
    let [b2, none, a2] = store.get([&b, &missing, &a]).await.unwrap();
    assert_eq!(b2.as_deref(), Some("zwei\r\n\0 \u{1F511}"));
    assert_eq!(none, None);
    assert_eq!(a2.as_deref(), Some("first"));
    store.put(&a, "", HOUR).await.unwrap();
    assert_eq!(store.value(&a).await.as_deref(), Some(""));
    assert!(store.get([]).await.unwrap().is_empty());
    store.ping().await.unwrap();
}

async fn a_key_lives_as_long_as_it_was_given(store: Store) {
    let key = fresh("ttl");
    assert_eq!(store.time_left(&key).await, None);
    store.put(&key, "1", HOUR).await.unwrap();
    assert!(is_about(store.time_left(&key).await, HOUR));
    assert!(store.replace(&key, "2", 2 * HOUR).await.unwrap());
    assert!(is_about(store.time_left(&key).await, 2 * HOUR));
    assert_eq!(store.raise(&key, 3, 3 * HOUR).await.unwrap(), Some(3));
    assert!(is_about(store.time_left(&key).await, 3 * HOUR));
    assert_eq!(store.raise(&key, 3, 9 * HOUR).await.unwrap(), Some(3));
    assert!(is_about(store.time_left(&key).await, 3 * HOUR));
    store.put(&key, "4", MINUTE).await.unwrap();
    assert!(is_about(store.time_left(&key).await, MINUTE));
    // At either end of what can be asked for.
    store.put(&key, "5", Duration::MAX).await.unwrap();
    assert_eq!(store.value(&key).await.as_deref(), Some("5"));
    store.put(&key, "6", Duration::ZERO).await.unwrap();
    assert!(
        store
            .time_left(&key)
            .await
            .is_none_or(|left| left <= Duration::from_millis(1))
    );
}

async fn additions_at_once_are_all_kept(store: Store) {
    let key = fresh("append");
    store.append(&key, "0 ", HOUR).await.unwrap();
    assert!(is_about(store.time_left(&key).await, HOUR));
    let texts: Vec<String> = (1..50).map(|number| format!("{number} ")).collect();
    let additions = texts.iter().map(|text| store.append(&key, text, 2 * HOUR));
    for added in join_all(additions).await {
        added.unwrap();
    }
    assert!(is_about(store.time_left(&key).await, 2 * HOUR));
    let held = store.value(&key).await.unwrap();
    let mut numbers: Vec<u32> = held
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..50), "{held}");
    store.delete(&[&key]).await.unwrap();
    store.append(&key, "anew", HOUR).await.unwrap();
    assert_eq!(store.value(&key).await.as_deref(), Some("anew"));
}

async fn replacing_needs_a_key(store: Store) {
    let key = fresh("replace");
    assert!(!store.replace(&key, "1", HOUR).await.unwrap());
    assert_eq!(store.value(&key).await, None);
    store.put(&key, "1", HOUR).await.unwrap();
    assert!(store.replace(&key, "2", HOUR).await.unwrap());
    assert_eq!(store.value(&key).await.as_deref(), Some("2"));
}

async fn raising_never_lowers_and_never_creates(store: Store) {
    let key = fresh("raise");
    assert_eq!(store.raise(&key, 5, HOUR).await.unwrap(), None);
    assert_eq!(store.value(&key).await, None);
    store.put(&key, "-7", HOUR).await.unwrap();
    assert_eq!(store.raise(&key, -8, HOUR).await.unwrap(), Some(-7));
    assert_eq!(
        store.raise(&key, 1_800_000_000, HOUR).await.unwrap(),
        Some(1_800_000_000)
    );
    assert_eq!(
        store.raise(&key, 1_799_999_999, HOUR).await.unwrap(),
        Some(1_800_000_000)
    );
    assert_eq!(store.value(&key).await.as_deref(), Some("1800000000"));
}

async fn what_is_no_number_cannot_be_raised(store: Store) {
    let key = fresh("word");
    for word in ["word", "", "-", " 5", "0x10", "1e3", "nan"] {
        store.put(&key, word, HOUR).await.unwrap();
        assert_eq!(
            store.raise(&key, i64::from(u32::MAX), HOUR).await.unwrap(),
            None,
            "{word}"
        );
        assert_eq!(store.value(&key).await.as_deref(), Some(word));
    }
}

async fn deleting_removes_all_and_is_not_undone_by_what_follows(store: Store) {
    let (a, b) = (fresh("a"), fresh("b"));
    store.put(&a, "1", HOUR).await.unwrap();
    store.put(&b, "1", HOUR).await.unwrap();
    store.delete(&[]).await.unwrap();
    store
        .delete(&[&a, &fresh("missing"), &b, &a])
        .await
        .unwrap();
    assert_eq!(store.get([&a, &b]).await.unwrap(), [None, None]);
    assert!(!store.replace(&a, "2", HOUR).await.unwrap());
    assert_eq!(store.raise(&b, 2, HOUR).await.unwrap(), None);
    store.flush().await.unwrap();
    assert_eq!(
        store.reopened().await.get([&a, &b]).await.unwrap(),
        [None, None]
    );
    store.put(&a, "3", HOUR).await.unwrap();
    assert_eq!(store.value(&a).await.as_deref(), Some("3"));
}

async fn a_deleted_key_is_not_revived_by_what_was_under_way(store: Store) {
    let mut replaced = 0;
    for round in 0..400_usize {
        let key = fresh("race");
        store.put(&key, "1", HOUR).await.unwrap();
        // From no time at all to about as long as a change takes.
        let other = fresh("other");
        let wait = async |steps: usize| {
            for step in 0..steps {
                if step % 3 == 2 {
                    store.put(&other, "1", HOUR).await.unwrap();
                } else {
                    tokio::task::yield_now().await;
                }
            }
        };
        let delete = async {
            wait(round % 7).await;
            store.delete(&[&key]).await.unwrap();
            assert_eq!(store.value(&key).await, None, "round {round}, at once");
            // Nothing that begins now can, either.
            assert!(!store.replace(&key, "3", HOUR).await.unwrap());
            assert_eq!(store.raise(&key, 4, HOUR).await.unwrap(), None);
        };
        let replace = async {
            wait(round / 7 % 7).await;
            store.replace(&key, "2", HOUR).await.unwrap()
        };
        let raise = async {
            for number in 5..10 {
                store.raise(&key, number, HOUR).await.unwrap();
                wait(round / 49 % 5).await;
            }
        };
        let flush = async {
            wait(round / 3 % 11).await;
            store.flush().await.unwrap();
            if let Keystore::Embedded(store) = &store.keys {
                store.read_changes().await.unwrap();
            }
        };
        let ((), (did, ((), ()))) = join(delete, join(replace, join(raise, flush))).await;
        replaced += usize::from(did);
        assert_eq!(store.value(&key).await, None, "round {round}, in the end");
        if round % 20 == 0 {
            store.flush().await.unwrap();
            let [value] = store.reopened().await.get([&key]).await.unwrap();
            assert_eq!(value, None, "round {round}, after a restart");
        }
    }
    assert!(
        (1..400).contains(&replaced),
        "both orders are met: {replaced}"
    );
}

async fn raises_at_once_leave_the_highest(store: Store) {
    let key = fresh("highest");
    store.put(&key, "0", HOUR).await.unwrap();
    let raises = (0..300).map(|number| {
        let store = &store;
        let key = &key;
        async move {
            let held = store
                .raise(key, number * 7 % 300, HOUR)
                .await
                .unwrap()
                .unwrap();
            assert!(held >= number * 7 % 300);
            if number % 50 == 0 {
                store.flush().await.unwrap();
            }
        }
    });
    join_all(raises).await;
    assert_eq!(store.value(&key).await.as_deref(), Some("299"));
    store.flush().await.unwrap();
    let [value] = store.reopened().await.get([&key]).await.unwrap();
    assert_eq!(value.as_deref(), Some("299"));
}

async fn a_window_begins_with_its_first_count(store: Store) {
    let key = fresh("count");
    let first = store.count(&key, MINUTE).await.unwrap();
    assert_eq!(first.number, 1);
    assert!(is_about(Some(first.resets_in), MINUTE));
    let second = store.count(&key, 10 * MINUTE).await.unwrap();
    assert_eq!(second.number, 2);
    assert!(
        second.resets_in <= first.resets_in,
        "the first count decides: {second:?}"
    );
    assert!(is_about(store.time_left(&key).await, MINUTE));
    store.delete(&[&key]).await.unwrap();
    assert_eq!(store.count(&key, MINUTE).await.unwrap().number, 1);
}

async fn counts_at_once_are_all_counted(store: Store) {
    let key = fresh("many");
    let counts = join_all((0..200).map(|_| store.count(&key, HOUR))).await;
    let mut numbers: Vec<u64> = counts
        .into_iter()
        .map(|count| count.unwrap().number)
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
}

async fn what_is_stored_survives_a_restart(store: Store) {
    let (put, replaced, raised, counted) = (fresh("p"), fresh("r"), fresh("n"), fresh("c"));
    store.put(&put, "put", HOUR).await.unwrap();
    store.put(&replaced, "put", HOUR).await.unwrap();
    store.replace(&replaced, "replaced", HOUR).await.unwrap();
    store.put(&raised, "1", MINUTE).await.unwrap();
    store.raise(&raised, 2, HOUR).await.unwrap();
    store.count(&counted, HOUR).await.unwrap();
    store.count(&counted, HOUR).await.unwrap();
    store.flush().await.unwrap();
    store.clock.advance(2 * MINUTE);
    let again = store.reopened().await;
    let held = again
        .get([&put, &replaced, &raised, &counted])
        .await
        .unwrap();
    assert_eq!(held.map(Option::unwrap), ["put", "replaced", "2", "2"]);
    assert_eq!(again.count(&counted, HOUR).await.unwrap().number, 3);
}

async fn calls_may_move_between_threads(store: Store) {
    let keys = store.keys.clone();
    let key = fresh("threads");
    // Each thread ends with its runtime, and what was connected from there with it.
    for round in 0..8_u64 {
        let (keys, key) = (keys.clone(), key.clone());
        let count = tokio::task::spawn_blocking(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            let call = runtime.spawn(async move {
                keys.get([&key, "missing"]).await?;
                keys.put(&key, "1", HOUR).await?;
                keys.delete(&[&key, "missing"]).await?;
                keys.count("test:threads", HOUR).await
            });
            runtime.block_on(call).unwrap()
        });
        count
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        store.get(["missing"]).await.unwrap();
    }
}

// --- Embedded ------------------------------------------------------------------------------------

#[actix_web::test]
async fn an_expired_key_stays_expired_when_the_clock_is_set_back() {
    let store = Store::embedded().await;
    let (key, counter) = (fresh("expired"), fresh("counter"));
    store.put(&key, "5", MINUTE).await.unwrap();
    store.count(&counter, MINUTE).await.unwrap();
    store.clock.advance(MINUTE - Duration::from_millis(1));
    assert_eq!(store.value(&key).await.as_deref(), Some("5"));
    store.clock.advance(Duration::from_millis(1));
    assert_eq!(store.value(&key).await, None);
    let fresh_window = Count {
        number: 1,
        resets_in: HOUR,
    };
    assert_eq!(store.count(&counter, HOUR).await.unwrap(), fresh_window);
    store.clock.set(store.clock.now() - 2 * HOUR);
    assert_eq!(store.value(&key).await, None);
    assert!(!store.replace(&key, "6", HOUR).await.unwrap());
    assert_eq!(store.raise(&key, 6, HOUR).await.unwrap(), None);
    store.flush().await.unwrap();
    assert_eq!(store.reopened().await.get([&key]).await.unwrap(), [None]);
}

#[actix_web::test]
async fn a_sweep_drops_what_has_expired_and_nothing_that_was_raised_in_time() {
    let store = Store::embedded().await;
    let (raised, expired) = (fresh("raised"), fresh("expired"));
    store.put(&raised, "1", MINUTE).await.unwrap();
    store.put(&expired, "1", MINUTE).await.unwrap();
    store.raise(&raised, 2, HOUR).await.unwrap();
    store.clock.advance(2 * MINUTE);
    let Keystore::Embedded(embedded) = &store.keys else {
        unreachable!()
    };
    embedded.sweep().await.unwrap();
    store.clock.set(store.clock.now() - 2 * MINUTE);
    let [raised_now, expired_now] = store.get([&raised, &expired]).await.unwrap();
    assert_eq!((raised_now.as_deref(), expired_now), (Some("2"), None));
    let [raised, expired] = store
        .reopened()
        .await
        .get([&raised, &expired])
        .await
        .unwrap();
    assert_eq!((raised.as_deref(), expired), (Some("2"), None));
}

#[actix_web::test]
async fn what_another_process_deletes_is_gone() {
    let store = Store::embedded().await;
    let keys: [String; 4] = ["read", "raised", "replaced", "kept"].map(fresh);
    for key in &keys {
        store.put(key, "1", HOUR).await.unwrap();
    }
    let Keystore::Embedded(embedded) = &store.keys else {
        unreachable!()
    };
    let [read, raised, replaced, kept] = &keys;
    store.raise(raised, 2, HOUR).await.unwrap();
    store.raise(kept, 2, HOUR).await.unwrap();
    store.delete_from_outside(read);
    store.delete_from_outside(raised);
    store.delete_from_outside(replaced);
    // Whichever notices first: the change itself, the flush, or the reading of changes.
    assert!(!store.replace(replaced, "2", HOUR).await.unwrap());
    assert_eq!(store.value(replaced).await, None);
    store.flush().await.unwrap();
    assert_eq!(store.value(raised).await, None);
    embedded.read_changes().await.unwrap();
    assert_eq!(store.value(read).await, None);
    assert_eq!(store.value(kept).await.as_deref(), Some("2"));
    store.flush().await.unwrap();
    let held = store
        .reopened()
        .await
        .get([read, raised, replaced, kept])
        .await
        .unwrap();
    assert_eq!(held, [None, None, None, Some("2".to_owned())]);
}

#[actix_web::test]
async fn what_another_process_deletes_is_noticed_without_being_asked() {
    let store = Store::embedded().await;
    let key = fresh("deleted");
    store.put(&key, "1", HOUR).await.unwrap();
    store.delete_from_outside(&key);
    let began = Instant::now();
    while store.value(&key).await.is_some() {
        assert!(began.elapsed() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[actix_web::test]
async fn a_key_that_is_being_deleted_is_not_seen_again() {
    let store = Store::embedded().await;
    let Keystore::Embedded(embedded) = &store.keys else {
        unreachable!()
    };
    store.put("touched", "1", HOUR).await.unwrap();
    for round in 0..200_usize {
        let key = fresh("going");
        store.put(&key, "1", HOUR).await.unwrap();
        store.sql(
            "UPDATE keystore SET value = value || '+' WHERE key = ?",
            "touched",
        );
        let going = [key.as_str()];
        let mut delete = Box::pin(store.delete(&going));
        let replace = async {
            for _ in 0..3 {
                store.replace(&key, "2", HOUR).await.unwrap();
            }
        };
        let read = async {
            for _ in 0..round % 5 {
                tokio::task::yield_now().await;
            }
            embedded.read_changes().await.unwrap();
        };
        let watch = async {
            for _ in 0..round / 5 % 7 {
                tokio::task::yield_now().await;
            }
            assert!(futures_util::poll!(&mut delete).is_pending());
            // From another thread, so that it looks also between the steps of this one's tasks.
            let (keys, key) = (store.keys.clone(), key.clone());
            let ended = Arc::new(AtomicBool::new(false));
            let until = Arc::clone(&ended);
            let watching = std::thread::spawn(move || {
                let mut seen = false;
                while !until.load(Ordering::Acquire) {
                    let held = keys.get([&key]).now_or_never();
                    seen |= held.is_none_or(|held| held.unwrap() != [None]);
                }
                seen
            });
            delete.await.unwrap();
            tokio::task::yield_now().await;
            ended.store(true, Ordering::Release);
            assert!(!watching.join().unwrap(), "round {round}");
        };
        join(replace, join(read, watch)).await;
        assert_eq!(store.value(&key).await, None, "round {round}");
    }
}

#[actix_web::test]
async fn a_delete_that_fails_still_takes_effect_and_is_made_good_later() {
    let store = Store::embedded().await;
    let [deleted, put, replaced] = ["deleted", "put", "replaced"].map(fresh);
    store.put("touched", "1", HOUR).await.unwrap();
    store.put(&deleted, "1", HOUR).await.unwrap();
    store.put(&replaced, "1", HOUR).await.unwrap();
    let mut other = store.another_connection();
    other.batch_execute("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    let doomed = [deleted.as_str()];
    // Later than the delete, so that they wait for the file as it fails, and fail by the time limit
    // while they wait: then they are carried out all the same.
    let changes = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let replace = store.replace(&replaced, "2", HOUR);
        join(store.put(&put, "1", HOUR), replace).await
    };
    let (delete_outcome, (put_outcome, replace_outcome)) =
        join(store.delete(&doomed), changes).await;
    assert!(delete_outcome.is_err() && put_outcome.is_err() && replace_outcome.is_err());
    assert!(began.elapsed() < Duration::from_secs(2));
    let held = store.get([&deleted, &put, &replaced]).await.unwrap();
    assert_eq!(held, [None, None, Some("1".to_owned())]);
    other.batch_execute("ROLLBACK").unwrap();
    // Still in the table, and not to be taken for what another process has put there.
    let Keystore::Embedded(embedded) = &store.keys else {
        unreachable!()
    };
    store.sql("UPDATE keystore SET value = 2 WHERE key = ?", "touched");
    embedded.read_changes().await.unwrap();
    let held = store.get([&deleted, &put, "touched"]).await.unwrap();
    assert_eq!(held, [None, None, Some("2".to_owned())]);
    let began = Instant::now();
    while store.flush().await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    let held = store
        .reopened()
        .await
        .get([&deleted, &put, &replaced])
        .await
        .unwrap();
    assert_eq!(held, [None, None, Some("1".to_owned())]);
}

// --- Redis ---------------------------------------------------------------------------------------

#[actix_web::test]
async fn an_address_that_cannot_be_one_stops_the_start() {
    let settings = [(
        "REDIS_URL".to_owned(),
        "redis://:secret@host:port/".to_owned(),
    )];
    let config = Config::from_sources("", settings).unwrap();
    let file = tempfile::tempdir().unwrap();
    let db = Db::open(&url_in(&file), 1).unwrap();
    let opened = Keystore::open(&config, &db, Arc::new(SystemClock)).await;
    let error = opened.err().expect("refused").to_string();
    assert!(!error.contains("secret"), "{error}");
}

/// Every kind of call, all at once, fails within a second.
async fn everything_is_unavailable(store: &Store) {
    let began = Instant::now();
    let calls = async || {
        assert!(store.get(["a", "b"]).await.is_err());
        assert!(
            began.elapsed() < Duration::from_millis(700),
            "{:?}",
            began.elapsed()
        );
    };
    join_all((0..200).map(|_| calls())).await;
    for call in 0..6 {
        let began = Instant::now();
        let failed = match call {
            0 => store.put("a", "1", HOUR).await.is_err(),
            1 => store.replace("a", "1", HOUR).await.is_err(),
            2 => store.raise("a", 1, HOUR).await.is_err(),
            3 => store.delete(&["a"]).await.is_err(),
            4 => store.count("a", HOUR).await.is_err(),
            _ => store.ping().await.is_err(),
        };
        assert!(failed, "call {call}");
        assert!(
            began.elapsed() < Duration::from_millis(700),
            "{:?}",
            began.elapsed()
        );
    }
}

#[actix_web::test]
async fn a_redis_that_is_not_there_is_unavailable_at_once() {
    let port = free_port();
    let store = Store::redis_at(&format!("redis://127.0.0.1:{port}")).await;
    everything_is_unavailable(&store).await;
}

#[actix_web::test]
async fn a_redis_that_never_answers_is_unavailable_within_a_second() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let store = Store::redis_at(&format!("redis://127.0.0.1:{port}")).await;
    everything_is_unavailable(&store).await;
}

#[actix_web::test]
async fn a_redis_that_comes_back_is_in_use_again() {
    let server = RedisServer::start(free_port());
    let store = Store::redis_at(&server.url()).await;
    works_again(&store).await;

    server.signal("STOP");
    everything_is_unavailable(&store).await;
    everything_is_unavailable(&store).await;
    server.signal("CONT");
    // The very first call, with nobody having asked meanwhile.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(store.count("c", HOUR).await.unwrap().number, 2);

    let port = server.port;
    drop(server);
    everything_is_unavailable(&store).await;
    let server = RedisServer::start(port);
    works_again(&store).await;

    // Restarted between two calls: nobody notices, though the scripts are gone.
    drop(server);
    let _server = RedisServer::start(port);
    assert_eq!(store.count("c", HOUR).await.unwrap().number, 1);
}

async fn works_again(store: &Store) {
    let began = Instant::now();
    while let Err(error) = store.put("a", "1", HOUR).await {
        assert!(began.elapsed() < Duration::from_secs(2), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.raise("a", 2, HOUR).await.unwrap(), Some(2));
    assert_eq!(store.count("c", HOUR).await.unwrap().number, 1);
}

/// A Redis of this test's own, gone with it.
struct RedisServer {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl RedisServer {
    fn start(port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--port",
            ])
            .arg(port.to_string())
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Self {
            process,
            port,
            _directory: directory,
        };
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server did not start");
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
