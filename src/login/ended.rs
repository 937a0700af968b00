//! What has ended, in memory: looked up on every request with a JWT or a session, without I/O.
//!
//! Fed from the database by reading its feed twice a second, with an overlap, since transactions
//! commit out of order; other nodes' ends also arrive at once through Redis. A node whose feed has
//! been silent for too long knows that it does not know, and says so rather than let an ended login
//! pass.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use papaya::HashMap;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Cause, store};
use crate::clock::{Clock, Timestamp};
use crate::db::{Db, DbError};
use crate::error::AppError;
use crate::outage::Outage;

/// How often the feed is read. Every node knows of an end within a second.
const READ_EVERY: Duration = Duration::from_millis(400);
/// How long a transaction may take to begin writing after it has taken a number; how long it then takes
/// the database knows.
const OVERLAP: Duration = Duration::from_secs(15);
/// A node without news for this long is not ready.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// Lines of the feed read at a time, so that no query takes long.
const PAGE: i64 = 5000;
/// Where ends are announced in Redis.
pub const CHANNEL: &str = "gapura:ended";

/// A line of the feed.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = crate::db::schema::revocations)]
pub struct Revocation {
    pub seq: i64,
    /// The id of a login, or of an access token (`jti`).
    pub subject: String,
    /// See [`Cause`].
    pub cause: String,
    /// When nothing of the login could be alive any more anyhow.
    pub expires_at: Timestamp,
}

/// The set of ended logins and revoked access tokens.
pub struct Ended {
    /// Ids of logins and of access tokens. Read without a lock, of which all cores would want the same.
    ended: HashMap<Uuid, (Cause, Timestamp)>,
    started: Instant,
    /// Milliseconds after `started` when the feed was last read.
    fed_at: AtomicU64,
    max_lag: Duration,
    news: Notify,
}

impl Ended {
    /// An empty set that has been fed just now.
    pub fn new(max_lag: Duration) -> Self {
        Self {
            ended: HashMap::default(),
            started: Instant::now(),
            fed_at: AtomicU64::new(0),
            max_lag,
            news: Notify::new(),
        }
    }

    /// Why the login has ended, if it has.
    ///
    /// # Errors
    /// 503 when this node has been without news for longer than it may trust what it knows.
    pub fn cause(&self, login_id: &str) -> Result<Option<Cause>, AppError> {
        self.cause_of_any([login_id])
    }

    /// Why one of these has ended, if one has: an access token has its login's id and its own.
    ///
    /// # Errors
    /// As [`Ended::cause`].
    pub fn cause_of_any<const N: usize>(&self, ids: [&str; N]) -> Result<Option<Cause>, AppError> {
        if self.lag() > self.max_lag {
            return Err(AppError::Unavailable("no news of ended logins".to_owned()));
        }
        let ended = self.ended.pin();
        for id in ids {
            let Ok(id) = Uuid::try_parse(id) else {
                return Ok(Some(Cause::Revoked));
            };
            if let Some((cause, _)) = ended.get(&id) {
                return Ok(Some(*cause));
            }
        }
        Ok(None)
    }

    /// Why one of these has ended, as far as this node knows.
    pub fn known_cause(&self, ids: impl IntoIterator<Item = Uuid>) -> Option<Cause> {
        let ended = self.ended.pin();
        let mut causes = ids.into_iter().filter_map(|id| ended.get(&id));
        causes.next().map(|(cause, _)| *cause)
    }

    /// Adds an end that this node knows of. The first cause stands.
    pub fn insert(&self, id: &str, cause: Cause, expires_at: Timestamp) {
        self.insert_each([(id, cause, expires_at)]);
    }

    fn insert_each<'a>(&self, ends: impl IntoIterator<Item = (&'a str, Cause, Timestamp)>) {
        let ended = self.ended.pin();
        let mut is_news = false;
        for (id, cause, expires_at) in ends {
            if let Ok(id) = Uuid::try_parse(id) {
                is_news |= ended.try_insert(id, (cause, expires_at)).is_ok();
            }
        }
        if is_news {
            self.news.notify_one();
        }
    }

    /// Waits for an end that was not known before. One task at a time can wait.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Hears another node's [`announcement`]. What is missed while Redis is away comes with the next
    /// reading of the database.
    pub fn hear(&self, announcement: &str) {
        let mut parts = announcement.split(' ');
        if let (Some(id), Some(cause), Some(expires_at)) = (
            parts.next(),
            parts.next().and_then(Cause::named),
            parts.next().and_then(|text| text.parse().ok()),
        ) {
            self.insert(id, cause, Timestamp::from_millis(expires_at));
        }
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.ended.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How old the news is.
    pub fn lag(&self) -> Duration {
        let fed_at = Duration::from_millis(self.fed_at.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(fed_at)
    }

    /// Whether the news is fresh enough to take on work.
    pub fn is_fresh(&self) -> bool {
        self.lag() < READY_WITHIN.min(self.max_lag)
    }

    fn mark_fed(&self, began: Instant) {
        let fed_at = began.duration_since(self.started).as_millis() as u64;
        self.fed_at.store(fed_at, Ordering::Relaxed);
    }

    fn forget_expired(&self, now: Timestamp) {
        let ended = self.ended.pin();
        ended.retain(|_, (_, expires_at)| *expires_at > now);
    }
}

/// How far the feed goes, and which transactions may yet add something before that.
#[derive(Clone, Copy, Default, QueryableByName)]
pub struct EndOfFeed {
    /// The last number.
    #[diesel(sql_type = BigInt)]
    pub last: i64,
    /// Every transaction of PostgreSQL before this one has ended.
    #[diesel(sql_type = BigInt)]
    pub oldest: i64,
    /// No transaction that has this number or a later one had begun to write.
    #[diesel(sql_type = BigInt)]
    pub next: i64,
}

/// Where the reading of the feed has got to.
#[derive(Default)]
pub struct Reader {
    /// When the feed was first seen to go so far.
    seen: VecDeque<(Instant, EndOfFeed)>,
    /// Everything up to here is surely known.
    settled: i64,
    /// How far it went at the last reading.
    end: EndOfFeed,
}

impl Reader {
    /// Reads what is new, and once more what may have been committed late. After a failure it begins anew
    /// with the first line: who answers next may be a replica that has not heard all, and gives its numbers
    /// a second time.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn read(&mut self, db: &Db, ended: &Ended, now: Timestamp) -> Result<(), DbError> {
        let read = self.read_on(db, ended, now).await;
        if read.is_err() {
            *self = Self::default();
        }
        read
    }

    async fn read_on(&mut self, db: &Db, ended: &Ended, now: Timestamp) -> Result<(), DbError> {
        let began = Instant::now();
        // Its end first: what is committed between the queries is read again.
        let end = db.read(store::end_of_feed).await?;
        if end.last < self.end.last || end.next < self.end.next {
            *self = Self::default();
        }
        self.end = end;
        let mut after = self.settled;
        loop {
            let page = move |conn: &mut _| store::revocations_after(conn, after, PAGE, now);
            let lines = db.read(page).await?;
            after = lines.last().map_or(after, |line| line.seq);
            let more = i64::try_from(lines.len()).is_ok_and(|read| read == PAGE);
            ended.insert_each(lines.iter().map(|line| {
                let cause = Cause::named(&line.cause).unwrap_or(Cause::Revoked);
                (line.subject.as_str(), cause, line.expires_at)
            }));
            if !more {
                break;
            }
        }
        if db.commits_in_order() {
            self.settled = end.last;
        } else {
            self.settle(began, end);
        }
        ended.mark_fed(began);
        Ok(())
    }

    /// Settles what was read just now and had ended by then, however long ago it was seen: while nothing
    /// could be read, or a transaction took its time, more may have come before it.
    fn settle(&mut self, began: Instant, end: EndOfFeed) {
        while let Some((at, seen)) = self.seen.front()
            && began - *at > OVERLAP
            && seen.next <= end.oldest
        {
            self.settled = seen.last;
            self.seen.pop_front();
        }
        let known = self.seen.back().map_or(self.settled, |(_, seen)| seen.last);
        if end.last > known {
            self.seen.push_back((began, end));
        }
    }
}

/// Keeps the set fed for as long as the process lives.
pub async fn feed(
    mut reader: Reader,
    db: Db,
    ended: std::sync::Arc<Ended>,
    clock: std::sync::Arc<dyn Clock>,
) {
    let mut outage = Outage::new(
        "the feed of ended logins cannot be read",
        "the feed of ended logins is read again",
    );
    let mut ticks: u64 = 0;
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let now = clock.now();
        outage.note(&reader.read(&db, &ended, now).await);
        ticks += 1;
        if ticks.is_multiple_of(150) {
            ended.forget_expired(now);
        }
    }
}

/// What an announcement in Redis says.
pub fn announcement(id: &str, cause: Cause, expires_at: Timestamp) -> String {
    format!("{id} {} {}", cause.name(), expires_at.millis())
}
