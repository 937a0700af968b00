//! The keystore in this process. Memory is what is read; the table `keystore` is the durable copy.
//!
//! Who may change what, and when:
//!
//! - `put`, `append` and `replace` write the row first and change memory once it is committed; `delete`
//!   changes memory first. They hold the lock of their key ([`Store::locks`]) throughout, so for one
//!   key memory and table see them in the same order.
//! - `raise` and `count` change memory only and leave the entry marked as unwritten; [`Store::flush`]
//!   writes it down. It, like the reading of what other processes changed, runs as a job on the
//!   database's one writing thread, and passes over a key whose lock is held: so neither can come
//!   between the two steps of a change, and a change that begins later is also written later.
//! - A key that is gone from memory and may still have a row is *doomed*: it is not read back from
//!   the table, and `flush` goes on trying to delete the row until it has.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use diesel::prelude::*;
use tokio::sync::Mutex;

use super::{Count, KeystoreUnavailable, milliseconds, number};
use crate::clock::{Clock, Timestamp};
use crate::db::schema::keystore;
use crate::db::{AnyConnection, Db};
use crate::outage::Outage;

const SHARDS: usize = 64;
const LOCKS: usize = 256;
/// Keys that one job on the writing thread deals with at the most, while others' writes wait.
const BATCH: usize = 500;
/// Rows read at a time.
const PAGE: i64 = 5000;

/// How often the file is looked at for changes by others.
const TICK: Duration = Duration::from_millis(500);
/// Every how many ticks what is unwritten is written.
const FLUSH_EVERY: u64 = 2;
/// Every how many ticks what has expired is dropped.
const SWEEP_EVERY: u64 = 20;

/// The keys of this process. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedStore(Arc<Store>);

struct Store {
    db: Db,
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    shards: [RwLock<Shard>; SHARDS],
    /// Each key has one of these, shared with others that hash alike.
    locks: [Mutex<()>; LOCKS],
    /// One flush at a time, so that the last one before the end leaves nothing to another.
    flushing: Mutex<()>,
    /// What others changed is yet to be read; the number of the current reading.
    reading: Mutex<(bool, u32)>,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<String, Entry>,
    /// Keys of entries that may have something unwritten.
    unwritten: Vec<String>,
    /// Keys whose row is to be deleted, each with the number of the change that says so.
    doomed: HashMap<String, u64>,
    changes: u64,
}

struct Entry {
    value: String,
    expires_at: Timestamp,
    state: State,
    /// The last reading of the whole table that met its row.
    seen: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Written,
    /// To be written over its row, but where that is gone, so is the key.
    Raised,
    /// To be written whether there is a row or not.
    Counted,
}

#[derive(Queryable, Insertable, Clone)]
#[diesel(table_name = keystore)]
struct Row {
    key: String,
    value: String,
    expires_at: Timestamp,
}

impl Shard {
    /// The entry of `key`, unless it has expired. One that has is dropped, so that it stays expired
    /// when the clock is set back.
    fn live(&mut self, key: &str, now: Timestamp) -> Option<&mut Entry> {
        if self.entries.get(key)?.expires_at <= now {
            self.doom(key);
            return None;
        }
        self.entries.get_mut(key)
    }

    fn doom(&mut self, key: &str) {
        self.entries.remove(key);
        self.changes += 1;
        self.doomed.insert(key.to_owned(), self.changes);
    }

    fn drop_expired(&mut self, now: Timestamp) {
        let expired = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.expires_at <= now);
        let expired: Vec<String> = expired.map(|(key, _)| key.clone()).collect();
        for key in expired {
            self.doom(&key);
        }
    }

    /// Puts in what is already in the table.
    fn insert_written(&mut self, row: Row, seen: u32) {
        self.doomed.remove(&row.key);
        let entry = Entry {
            value: row.value,
            expires_at: row.expires_at,
            state: State::Written,
            seen,
        };
        self.entries.insert(row.key, entry);
    }

    /// Has the entry of `key` looked at by the next flush, if it is not written.
    fn remember(&mut self, key: String) {
        let entry = self.entries.get(&key);
        if entry.is_some_and(|entry| entry.state != State::Written) {
            self.unwritten.push(key);
        }
    }

    fn mark(&mut self, key: &str, state: State) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.state != State::Counted
        {
            if entry.state == State::Written {
                self.unwritten.push(key.to_owned());
            }
            entry.state = state;
        }
    }
}

impl EmbeddedStore {
    /// Loads what lives in the table of `db`, an SQLite file, and starts the task that keeps the two
    /// in step for as long as the store lives.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn open(db: Db, clock: Arc<dyn Clock>) -> Result<Self, KeystoreUnavailable> {
        let store = Arc::new(Store {
            db,
            clock,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| RwLock::default()),
            locks: std::array::from_fn(|_| Mutex::default()),
            flushing: Mutex::default(),
            reading: Mutex::default(),
        });
        store.load().await?;
        tokio::spawn(keep_in_step(Arc::downgrade(&store)));
        Ok(Self(store))
    }

    pub(super) fn get<const N: usize>(&self, keys: [&str; N]) -> [Option<String>; N] {
        let now = self.0.clock.now();
        keys.map(|key| {
            let shard = self.0.read(key);
            let entry = shard.entries.get(key)?;
            if entry.expires_at > now {
                return Some(entry.value.clone());
            }
            drop(shard);
            self.0.write(key).live(key, now).map(|e| e.value.clone())
        })
    }

    pub(super) async fn put(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
    ) -> Result<(), KeystoreUnavailable> {
        let row = self.row(key, value, ttl);
        self.to_the_end(|store| async move {
            let _lock = store.lock(&row.key).lock().await;
            store.put_locked(row).await
        })
        .await
    }

    pub(super) async fn append(
        &self,
        key: &str,
        text: &str,
        ttl: Duration,
    ) -> Result<(), KeystoreUnavailable> {
        let mut row = self.row(key, text, ttl);
        self.to_the_end(|store| async move {
            let _lock = store.lock(&row.key).lock().await;
            let now = store.clock.now();
            let held = store
                .write(&row.key)
                .live(&row.key, now)
                .map(|entry| entry.value.clone());
            row.value.insert_str(0, &held.unwrap_or_default());
            store.put_locked(row).await
        })
        .await
    }

    pub(super) async fn replace(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
    ) -> Result<bool, KeystoreUnavailable> {
        let row = self.row(key, value, ttl);
        self.to_the_end(|store| async move {
            let _lock = store.lock(&row.key).lock().await;
            // A delete that has begun has taken it out of memory. What is in memory now and after
            // the commit was there all the while: only a put could have brought it back, and that
            // needs the lock.
            let now = store.clock.now();
            if store.write(&row.key).live(&row.key, now).is_none() {
                return Ok(false);
            }
            let written = row.clone();
            let outcome = store.transaction(move |conn| update(conn, &row)).await;
            store.undo_if_failed(&written.key, &outcome);
            let rows = outcome?;
            let mut shard = store.write(&written.key);
            if rows == 0 {
                // Deleted by another process, which we were about to notice.
                shard.doom(&written.key);
            }
            let exists = shard.entries.contains_key(&written.key);
            if exists {
                shard.insert_written(written, 0);
            }
            Ok(exists)
        })
        .await
    }

    pub(super) fn raise(&self, key: &str, value: i64, ttl: Duration) -> Option<i64> {
        let now = self.0.clock.now();
        let mut shard = self.0.write(key);
        let entry = shard.live(key, now)?;
        let held = number(&entry.value)?;
        if held < value {
            entry.value = value.to_string();
            entry.expires_at = now + Duration::from_millis(milliseconds(ttl).unsigned_abs());
            shard.mark(key, State::Raised);
        }
        Some(held.max(value))
    }

    pub(super) async fn delete(&self, keys: &[&str]) -> Result<(), KeystoreUnavailable> {
        for key in keys {
            self.0.write(key).doom(key);
        }
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        self.to_the_end(|store| async move {
            // In one order for all, so that two deletes never wait for each other.
            let mut locks: Vec<usize> = keys.iter().map(|key| store.hash(key) % LOCKS).collect();
            locks.sort_unstable();
            locks.dedup();
            let mut held = Vec::with_capacity(locks.len());
            for lock in locks {
                held.push(store.locks[lock].lock().await);
            }
            // Again, for what a put that was under way has brought.
            for key in &keys {
                store.write(key).doom(key);
            }
            let rows = keys.clone();
            store
                .transaction(move |conn| {
                    diesel::delete(keystore::table.filter(keystore::key.eq_any(rows))).execute(conn)
                })
                .await?;
            for key in &keys {
                store.write(key).doomed.remove(key);
            }
            Ok(())
        })
        .await
    }

    pub(super) fn count(&self, key: &str, window: Duration) -> Count {
        let now = self.0.clock.now();
        let mut shard = self.0.write(key);
        let counted = shard.live(key, now).map(|entry| {
            let before = number(&entry.value).unwrap_or(0);
            let number = u64::try_from(before).unwrap_or(0) + 1;
            entry.value = number.to_string();
            (number, entry.expires_at)
        });
        let (number, ends_at) = counted.unwrap_or_else(|| {
            let expires_at = now + Duration::from_millis(milliseconds(window).unsigned_abs());
            let row = Row {
                key: key.to_owned(),
                value: "1".to_owned(),
                expires_at,
            };
            shard.insert_written(row, 0);
            (1, expires_at)
        });
        shard.mark(key, State::Counted);
        let resets_in = now.until(ends_at);
        Count { number, resets_in }
    }

    pub(super) async fn ping(&self) -> Result<(), KeystoreUnavailable> {
        self.0.db.ping().await.map_err(KeystoreUnavailable::new)
    }

    /// Writes down what is only in memory.
    ///
    /// # Errors
    /// When the database cannot be written to; a later flush tries again.
    pub async fn flush(&self) -> Result<(), KeystoreUnavailable> {
        self.0.flush().await.map(|_complete| ())
    }

    /// Drops what has expired from memory and table.
    ///
    /// # Errors
    /// When the database cannot be written to; a later sweep tries again.
    pub async fn sweep(&self) -> Result<(), KeystoreUnavailable> {
        self.0.sweep().await
    }

    /// Takes over what other processes changed in the table since the last time.
    ///
    /// # Errors
    /// When the database cannot be read; a later one tries again.
    pub async fn read_changes(&self) -> Result<(), KeystoreUnavailable> {
        self.0.read_changes().await
    }

    fn row(&self, key: &str, value: &str, ttl: Duration) -> Row {
        let ttl = Duration::from_millis(milliseconds(ttl).unsigned_abs());
        Row {
            key: key.to_owned(),
            value: value.to_owned(),
            expires_at: self.0.clock.now() + ttl,
        }
    }

    /// Runs `work` to its end even if the caller is gone before, as a request is when its client
    /// hangs up: between commit and memory there is no stopping.
    async fn to_the_end<T, F>(
        &self,
        work: impl FnOnce(Arc<Store>) -> F,
    ) -> Result<T, KeystoreUnavailable>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, KeystoreUnavailable>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.0));
        let ended = tokio::spawn(work).await;
        ended.unwrap_or_else(|error| Err(KeystoreUnavailable::new(error)))
    }
}

impl Store {
    fn hash(&self, key: &str) -> usize {
        // Truncation is as good as any other part of a hash.
        self.hasher.hash_one(key) as usize
    }

    fn read(&self, key: &str) -> RwLockReadGuard<'_, Shard> {
        let shard = &self.shards[self.hash(key) % SHARDS];
        shard.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, key: &str) -> RwLockWriteGuard<'_, Shard> {
        write(&self.shards[self.hash(key) % SHARDS])
    }

    fn lock(&self, key: &str) -> &Mutex<()> {
        &self.locks[self.hash(key) % LOCKS]
    }

    /// Writes a row whose lock is held, then puts it into memory.
    async fn put_locked(&self, row: Row) -> Result<(), KeystoreUnavailable> {
        let written = row.clone();
        let outcome = self.transaction(move |conn| upsert(conn, &row)).await;
        self.undo_if_failed(&written.key, &outcome);
        outcome?;
        self.write(&written.key).insert_written(written, 0);
        Ok(())
    }

    async fn transaction<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut AnyConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, KeystoreUnavailable> {
        self.db.write(job).await.map_err(KeystoreUnavailable::new)
    }

    /// Whether the row of a failed change is written all the same, nobody knows: the next flush
    /// writes what is in memory over it.
    fn undo_if_failed<T>(&self, key: &str, outcome: &Result<T, KeystoreUnavailable>) {
        if outcome.is_err() {
            let mut shard = self.write(key);
            if shard.entries.contains_key(key) {
                shard.mark(key, State::Raised);
            } else {
                shard.doom(key);
            }
        }
    }

    /// `true` when nothing had to be passed over.
    async fn flush(self: &Arc<Self>) -> Result<bool, KeystoreUnavailable> {
        let _one = self.flushing.lock().await;
        let mut keys = Vec::new();
        for shard in &self.shards {
            let mut shard = write(shard);
            keys.append(&mut shard.unwritten);
            keys.extend(shard.doomed.keys().cloned());
        }
        keys.sort_unstable();
        keys.dedup();
        let mut complete = true;
        for (index, batch) in keys.chunks(BATCH).enumerate() {
            let (store, batch) = (Arc::clone(self), batch.to_vec());
            let job = move |conn: &mut AnyConnection| {
                let mut written = Vec::with_capacity(batch.len());
                for key in batch {
                    let outcome = store.flush_key(conn, &key)?;
                    written.push((key, outcome));
                }
                Ok(written)
            };
            match self.transaction(job).await {
                Ok(written) => {
                    for (key, outcome) in written {
                        complete &= self.settle(&key, outcome);
                    }
                }
                Err(error) => {
                    for key in keys.split_off(index * BATCH) {
                        let mut shard = self.write(&key);
                        shard.remember(key);
                    }
                    return Err(error);
                }
            }
        }
        Ok(complete)
    }

    /// Writes what `key` has unwritten, on the writing thread.
    fn flush_key(&self, conn: &mut AnyConnection, key: &str) -> QueryResult<Flushed> {
        // Free only if no change is between table and memory; and one that begins now is written
        // after this job, by the same thread.
        let Ok(_free) = self.lock(key).try_lock() else {
            return Ok(Flushed::PassedOver);
        };
        let (row, state) = {
            let shard = self.read(key);
            if let Some(change) = shard.doomed.get(key).copied() {
                drop(shard);
                diesel::delete(keystore::table.find(key)).execute(conn)?;
                return Ok(Flushed::Deleted(change));
            }
            let Some(entry) = shard.entries.get(key) else {
                return Ok(Flushed::Nothing);
            };
            let row = Row {
                key: key.to_owned(),
                value: entry.value.clone(),
                expires_at: entry.expires_at,
            };
            (row, entry.state)
        };
        match state {
            State::Written => return Ok(Flushed::Nothing),
            State::Raised => {
                if update(conn, &row)? == 0 {
                    return Ok(Flushed::Missing(row.value, row.expires_at));
                }
            }
            State::Counted => upsert(conn, &row)?,
        }
        Ok(Flushed::Written(row.value, row.expires_at))
    }

    /// Takes note of what a committed flush did with `key`; `false`: it is to be done again.
    fn settle(&self, key: &str, outcome: Flushed) -> bool {
        let mut shard = self.write(key);
        match outcome {
            Flushed::Nothing => true,
            Flushed::PassedOver => {
                shard.remember(key.to_owned());
                false
            }
            Flushed::Deleted(change) => {
                if shard.doomed.get(key) == Some(&change) {
                    shard.doomed.remove(key);
                }
                true
            }
            Flushed::Missing(value, expires_at) => {
                // Deleted by another process; a put may have made it anew since.
                let same = |entry: &Entry| entry.value == value && entry.expires_at == expires_at;
                if shard.entries.get(key).is_some_and(same) {
                    shard.entries.remove(key);
                }
                shard.remember(key.to_owned());
                true
            }
            Flushed::Written(value, expires_at) => {
                if let Some(entry) = shard.entries.get_mut(key)
                    && entry.value == value
                    && entry.expires_at == expires_at
                {
                    entry.state = State::Written;
                }
                shard.remember(key.to_owned());
                true
            }
        }
    }

    async fn sweep(self: &Arc<Self>) -> Result<(), KeystoreUnavailable> {
        let now = self.clock.now();
        for shard in &self.shards {
            write(shard).drop_expired(now);
            // A shard at a time, so that requests come in between.
            tokio::task::yield_now().await;
        }
        // A row that has expired may belong to a key that was raised in time: not before all such
        // are written can rows go by their date.
        if self.flush().await? {
            // A server that was away for a day finds a day's worth of them.
            while self
                .transaction(move |conn| delete_expired(conn, now))
                .await?
                > 0
            {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Fills empty memory from the table.
    async fn load(&self) -> Result<(), KeystoreUnavailable> {
        let now = self.clock.now();
        let mut last = String::new();
        loop {
            let rows = self.page(last).await?;
            let Some(row) = rows.last() else {
                return Ok(());
            };
            last = row.key.clone();
            for row in rows.into_iter().filter(|row| row.expires_at > now) {
                self.write(&row.key).insert_written(row, 0);
            }
        }
    }

    async fn page(&self, after: String) -> Result<Vec<Row>, KeystoreUnavailable> {
        let page = move |conn: &mut AnyConnection| {
            keystore::table
                .filter(keystore::key.gt(after))
                .order(keystore::key)
                .limit(PAGE)
                .load::<Row>(conn)
        };
        self.db.read(page).await.map_err(KeystoreUnavailable::new)
    }

    async fn read_changes(self: &Arc<Self>) -> Result<(), KeystoreUnavailable> {
        let mut reading = self.reading.lock().await;
        let changed = self.db.changed_by_others().await;
        reading.0 |= changed.map_err(KeystoreUnavailable::new)?;
        if reading.0 {
            reading.1 += 1;
            // Comparing is done beside the writing thread and may be wrong about keys that change
            // meanwhile; each key that looks different is then looked at again on that thread.
            let different = self.different(reading.1).await?;
            let mut complete = true;
            for batch in different.chunks(BATCH) {
                let (store, batch) = (Arc::clone(self), batch.to_vec());
                complete &= self
                    .transaction(move |conn| {
                        batch.iter().try_fold(true, |complete, key| {
                            Ok(store.adopt(conn, key)? && complete)
                        })
                    })
                    .await?;
            }
            reading.0 = !complete;
        }
        Ok(())
    }

    /// Keys that memory and table do not agree about.
    async fn different(&self, reading: u32) -> Result<Vec<String>, KeystoreUnavailable> {
        let now = self.clock.now();
        let mut different = Vec::new();
        let mut last = String::new();
        loop {
            let rows = self.page(last).await?;
            let Some(row) = rows.last() else {
                break;
            };
            last = row.key.clone();
            for row in rows {
                let mut shard = self.write(&row.key);
                match shard.entries.get_mut(&row.key) {
                    Some(entry) => {
                        entry.seen = reading;
                        let same = entry.value == row.value && entry.expires_at == row.expires_at;
                        if !same && entry.state == State::Written {
                            different.push(row.key);
                        }
                    }
                    None if row.expires_at > now => different.push(row.key),
                    None => {}
                }
            }
        }
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let vanished = |entry: &Entry| entry.seen != reading && entry.state != State::Counted;
            let vanished = shard.entries.iter().filter(|(_, entry)| vanished(entry));
            different.extend(vanished.map(|(key, _)| key.clone()));
        }
        Ok(different)
    }

    /// Takes over what the table says of `key`, on the writing thread. `false`: not now.
    fn adopt(&self, conn: &mut AnyConnection, key: &str) -> QueryResult<bool> {
        let Ok(_free) = self.lock(key).try_lock() else {
            return Ok(false);
        };
        let row = keystore::table.find(key).first::<Row>(conn).optional()?;
        let now = self.clock.now();
        let mut shard = self.write(key);
        let state = shard.entries.get(key).map(|entry| entry.state);
        match (row, state) {
            (Some(row), None) if !shard.doomed.contains_key(key) && row.expires_at > now => {
                shard.insert_written(row, 0);
            }
            (Some(row), Some(State::Written)) => shard.insert_written(row, 0),
            (None, Some(State::Written | State::Raised)) => {
                shard.entries.remove(key);
            }
            _ => {}
        }
        Ok(true)
    }
}

/// What a flush did with a key.
enum Flushed {
    Nothing,
    PassedOver,
    /// There was no row to write this over.
    Missing(String, Timestamp),
    /// Its row, because of the change of this number.
    Deleted(u64),
    Written(String, Timestamp),
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

fn update(conn: &mut AnyConnection, row: &Row) -> QueryResult<usize> {
    diesel::update(keystore::table.find(&row.key))
        .set((
            keystore::value.eq(&row.value),
            keystore::expires_at.eq(row.expires_at),
        ))
        .execute(conn)
}

/// Deletes rows by their date, at most a batch of them.
fn delete_expired(conn: &mut AnyConnection, now: Timestamp) -> QueryResult<usize> {
    let expired: Vec<String> = keystore::table
        .filter(keystore::expires_at.le(now))
        .order(keystore::expires_at)
        .limit(BATCH as i64)
        .select(keystore::key)
        .load(conn)?;
    diesel::delete(keystore::table.filter(keystore::key.eq_any(&expired))).execute(conn)
}

fn upsert(conn: &mut AnyConnection, row: &Row) -> QueryResult<()> {
    if update(conn, row)? == 0 {
        diesel::insert_into(keystore::table)
            .values(row)
            .execute(conn)?;
    }
    Ok(())
}

/// Runs for as long as the store lives. Failures are met again at the next tick.
async fn keep_in_step(store: Weak<Store>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut outage = Outage::new(
        "the embedded keystore is not in step with its file",
        "the embedded keystore is in step with its file again",
    );
    for tick in 1_u64.. {
        ticks.tick().await;
        let Some(store) = store.upgrade() else {
            return;
        };
        let work = async {
            store.read_changes().await?;
            if tick % SWEEP_EVERY == 0 {
                store.sweep().await
            } else if tick % FLUSH_EVERY == 0 {
                store.flush().await.map(|_complete| ())
            } else {
                Ok(())
            }
        };
        outage.note(&work.await);
    }
}
