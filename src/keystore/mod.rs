//! keystore: short-lived keys, each a text with a time to live. In Redis where one is configured,
//! otherwise embedded: memory is read, a table of SQLite is the durable copy.
//!
//! Both keep the same promises, which one set of tests holds them to: a key that is gone stays gone
//! unless [`Keystore::put`] makes it anew (or [`Keystore::append`], or [`Keystore::count`], a counter), whatever else was
//! under way; and no call takes longer than its time limit. Knows nothing of what the keys mean.

mod embedded;
mod redis;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use self::embedded::EmbeddedStore;
pub use self::redis::RedisStore;
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl};
use crate::db::{self, Db};
use crate::vault;

/// The keystore gave no answer, or one that makes no sense: come back later. Whether a change was
/// made is not known; a key that was to be deleted may still be there in Redis, never in the
/// embedded store.
#[derive(Debug, thiserror::Error)]
#[error("the keystore is unavailable: {0}")]
pub struct KeystoreUnavailable(String);

impl KeystoreUnavailable {
    fn new(cause: impl std::fmt::Display) -> Self {
        Self(cause.to_string())
    }
}

/// A counter after it was incremented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How many were counted in this window, this one included.
    pub number: u64,
    /// When the window ends and counting starts over, from now, to the millisecond.
    pub resets_in: Duration,
}

/// Where short-lived keys are kept. Cheap to clone.
#[derive(Clone)]
pub enum Keystore {
    /// A Redis server, shared by all nodes. Answers within 500 ms.
    Redis(RedisStore),
    /// This process and its SQLite file. Changes answer within the database's time limit.
    Embedded(EmbeddedStore),
}

impl Keystore {
    /// Opens the keystore that `config` asks for: Redis if it has a `redis_url`, else the embedded
    /// one in the SQLite file of `db` (beside PostgreSQL: in a file of its own in the data
    /// directory).
    ///
    /// # Errors
    /// When the address of Redis cannot be one, or the embedded store's table cannot be read. A
    /// Redis that cannot be reached is no error: it is connected to when it is first needed.
    pub async fn open(
        config: &Config,
        db: &Db,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, KeystoreUnavailable> {
        if let Some(url) = &config.redis_url {
            // Each HTTP worker has a connection of its own, and so has the main thread.
            return Ok(Self::Redis(RedisStore::open(
                url.expose(),
                config.workers + 1,
            )?));
        }
        let db = match &config.database {
            DatabaseUrl::Sqlite(_) => db.clone(),
            DatabaseUrl::Postgres(_) => {
                vault::create_data_dir(&config.data_dir).map_err(KeystoreUnavailable::new)?;
                let file = DatabaseUrl::Sqlite(config.data_dir.join("keystore.db"));
                db::migrate(&file).map_err(KeystoreUnavailable::new)?;
                Db::open(&file, 1).map_err(KeystoreUnavailable::new)?
            }
        };
        Ok(Self::Embedded(EmbeddedStore::open(db, clock).await?))
    }

    /// The values of `keys`, in their order; `None`: there is no such key. One round trip, and what
    /// it says is of one moment in Redis.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn get<const N: usize>(
        &self,
        keys: [&str; N],
    ) -> Result<[Option<String>; N], KeystoreUnavailable> {
        match self {
            Self::Redis(store) => store.get(keys).await,
            Self::Embedded(store) => Ok(store.get(keys)),
        }
    }

    /// Makes `key` hold `value` for `ttl` (rounded up to at least 1 ms), whatever it held before.
    ///
    /// # Errors
    /// When it could not be stored durably.
    pub async fn put(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
    ) -> Result<(), KeystoreUnavailable> {
        match self {
            Self::Redis(store) => store.put(key, value, ttl).await,
            Self::Embedded(store) => store.put(key, value, ttl).await,
        }
    }

    /// Adds `text` to the end of what `key` holds, or makes it hold just that; it lives for `ttl` from
    /// now. Of additions at once none is lost.
    ///
    /// # Errors
    /// When it could not be stored durably.
    pub async fn append(
        &self,
        key: &str,
        text: &str,
        ttl: Duration,
    ) -> Result<(), KeystoreUnavailable> {
        match self {
            Self::Redis(store) => store.append(key, text, ttl).await,
            Self::Embedded(store) => store.append(key, text, ttl).await,
        }
    }

    /// As [`Keystore::put`], but only where the key exists. `false`: it was gone, and stays gone.
    ///
    /// # Errors
    /// When it could not be stored durably.
    pub async fn replace(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
    ) -> Result<bool, KeystoreUnavailable> {
        match self {
            Self::Redis(store) => store.replace(key, value, ttl).await,
            Self::Embedded(store) => store.replace(key, value, ttl).await,
        }
    }

    /// Raises the number that `key` holds to `value`; where that raises it, the key lives for `ttl`
    /// from now. Returns the number now in force, `None` where the key is missing (it is never
    /// created) or holds no number. Numbers up to 2⁵³ either way.
    ///
    /// # Errors
    /// When Redis gives no answer. The embedded store writes it down within two seconds.
    pub async fn raise(
        &self,
        key: &str,
        value: i64,
        ttl: Duration,
    ) -> Result<Option<i64>, KeystoreUnavailable> {
        match self {
            Self::Redis(store) => store.raise(key, value, ttl).await,
            Self::Embedded(store) => Ok(store.raise(key, value, ttl)),
        }
    }

    /// Removes `keys`. In the embedded store they are gone at once, even if this fails.
    ///
    /// # Errors
    /// When it is not known that they are gone for good.
    pub async fn delete(&self, keys: &[&str]) -> Result<(), KeystoreUnavailable> {
        if keys.is_empty() {
            return Ok(());
        }
        match self {
            Self::Redis(store) => store.delete(keys).await,
            Self::Embedded(store) => store.delete(keys).await,
        }
    }

    /// Counts one more under `key`. The window begins with its first count and lasts `window`.
    ///
    /// # Errors
    /// When Redis gives no answer. The embedded store writes it down within two seconds.
    pub async fn count(&self, key: &str, window: Duration) -> Result<Count, KeystoreUnavailable> {
        match self {
            Self::Redis(store) => store.count(key, window).await,
            Self::Embedded(store) => Ok(store.count(key, window)),
        }
    }

    /// As [`Keystore::count`], for a limit that must go on while Redis is away: then this process
    /// counts for itself.
    pub async fn count_whatever_happens(&self, key: &str, window: Duration) -> Count {
        match self {
            Self::Embedded(store) => store.count(key, window),
            Self::Redis(store) => store.count(key, window).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "counting in this process alone");
                store.tally().count(key, window, Instant::now())
            }),
        }
    }

    /// What [`Keystore::count_whatever_happens`] has counted, without counting; the larger number
    /// where some was counted during an outage.
    pub async fn counted<const N: usize>(&self, keys: [&str; N]) -> [u64; N] {
        let known = self.get(keys).await.unwrap_or([const { None }; N]);
        let mut numbers = known.map(|text| text.and_then(|text| text.parse().ok()).unwrap_or(0));
        if let Self::Redis(store) = self {
            for (number, key) in numbers.iter_mut().zip(keys) {
                *number = store.tally().number(key, Instant::now()).max(*number);
            }
        }
        numbers
    }

    /// Asks for a sign of life: of Redis, or of the database under the embedded store.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ping(&self) -> Result<(), KeystoreUnavailable> {
        match self {
            Self::Redis(store) => store.ping().await,
            Self::Embedded(store) => store.ping().await,
        }
    }

    /// Writes down what so far is only in memory: for the end of the process.
    ///
    /// # Errors
    /// When the database cannot be written to; what is in memory stays to be written.
    pub async fn flush(&self) -> Result<(), KeystoreUnavailable> {
        match self {
            Self::Redis(_) => Ok(()),
            Self::Embedded(store) => store.flush().await,
        }
    }

    /// Whether it is the embedded one, which other nodes do not see.
    pub fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    /// `redis` or `embedded`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Embedded(_) => "embedded",
        }
    }
}

/// A time to live as both stores can keep it: 1 ms to 100 years.
fn milliseconds(ttl: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 86_400_000;
    i64::try_from(ttl.as_millis()).map_or(CENTURY, |millis| millis.clamp(1, CENTURY))
}

/// A number as [`Keystore::raise`] writes it.
fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}
