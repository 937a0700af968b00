//! Time. A moment is a [`Timestamp`]; what tells it is a [`Clock`], read once at the edge of a
//! request and handed down as `now`. Nothing else in the program reads the wall clock (`clippy.toml`).

use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::BigInt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// A moment in UTC, in whole milliseconds since 1970. Stored as a number, so that both databases
/// keep the same precision and compare alike. Serialises as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, AsExpression, FromSqlRow)]
#[diesel(sql_type = BigInt)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From seconds since 1970, as in a JWT (RFC 7519 NumericDate).
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// How long until `later`; zero if it has passed.
    pub fn until(self, later: Timestamp) -> Duration {
        later.since(self)
    }

    /// As a calendar date and time in UTC.
    pub fn date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// RFC 3339 in UTC, to the second: `2026-11-21T05:06:07Z`.
    pub fn rfc3339(self) -> String {
        let date_time = self.date_time().replace_nanosecond(0);
        let date_time = date_time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        date_time.format(&Rfc3339).unwrap_or_default()
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, duration: Duration) -> Timestamp {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(millis))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, duration: Duration) -> Timestamp {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_sub(millis))
    }
}

impl schemars::JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "format": "date-time", "examples": ["2026-11-21T05:06:07Z"],
        })
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

impl<DB: Backend> ToSql<BigInt, DB> for Timestamp
where
    i64: ToSql<BigInt, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
        self.0.to_sql(out)
    }
}

impl<DB: Backend> FromSql<BigInt, DB> for Timestamp
where
    i64: FromSql<BigInt, DB>,
{
    fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
        i64::from_sql(bytes).map(Timestamp)
    }
}

/// What a node grants another's clock (`nbf`, `iat`); beyond, tokens of one are refused by the other.
pub const WORST_SKEW: Duration = Duration::from_secs(5);

/// How far a clock that was read between `began` and `now` is from the one that told these.
pub fn apart(theirs: Timestamp, began: Timestamp, now: Timestamp) -> Duration {
    theirs.until(began).max(now.until(theirs))
}

/// On which side of another's clock ours is, where they are [`apart`].
pub fn side(theirs: Timestamp, began: Timestamp) -> &'static str {
    if theirs < began { "ahead of" } else { "behind" }
}

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The moment it is.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    fn now(&self) -> Timestamp {
        let nanos = OffsetDateTime::now_utc().unix_timestamp_nanos();
        Timestamp((nanos / 1_000_000) as i64)
    }
}

/// The wall clock as a server goes by it: never backwards, or what had expired would live again.
/// Where the wall clock was set back, time goes on at half its pace until the wall clock has caught
/// up: nothing lives longer than by the wall clock, no limit stands still, and two hours too many are
/// forgotten within four.
pub struct SteadyClock {
    started: Instant,
    /// The most that the wall clock has ever been ahead of half the time since the start.
    ahead: AtomicI64,
}

impl SteadyClock {
    /// A clock that goes on from `mark`, the latest time told before a restart, if that is known.
    pub fn resume(mark: Option<Timestamp>) -> Self {
        Self {
            started: Instant::now(),
            ahead: AtomicI64::new(mark.map_or(i64::MIN, Timestamp::millis)),
        }
    }

    fn told(&self, wall: Timestamp, since_start: Duration) -> Timestamp {
        let half = i64::try_from(since_start.as_millis() / 2).unwrap_or(i64::MAX);
        let ahead = wall.millis().saturating_sub(half);
        let most = self.ahead.load(Ordering::Relaxed);
        if ahead > most {
            self.ahead.fetch_max(ahead, Ordering::Relaxed);
        }
        Timestamp(most.max(ahead).saturating_add(half))
    }

    /// How far the wall clock is behind; zero where it is right.
    pub fn wall_is_behind(&self) -> Duration {
        SystemClock.now().until(self.now())
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.told(SystemClock.now(), self.started.elapsed())
    }
}

/// A clock that stands still until it is told to move: for tests.
#[derive(Debug)]
pub struct FakeClock(AtomicI64);

impl FakeClock {
    /// A clock that stands at `start`.
    pub fn at(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.millis()))
    }

    /// Moves the clock forth.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as i64, Ordering::SeqCst);
    }

    /// Sets the clock, back as well as forth.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.millis(), Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_steady_clock_is_the_wall_clock_until_that_is_set_back() {
        let noon = Timestamp::from_seconds(1_763_700_000);
        let clock = SteadyClock::resume(None);
        let after = |hours: u32| hours * HOUR;
        assert_eq!(clock.told(noon, after(0)), noon);
        assert_eq!(clock.told(noon + HOUR, after(1)), noon + HOUR);
        // Two hours forth, an hour later back.
        assert_eq!(clock.told(noon + 4 * HOUR, after(2)), noon + 4 * HOUR);
        assert_eq!(clock.told(noon + 5 * HOUR, after(3)), noon + 5 * HOUR);
        assert_eq!(clock.told(noon + 3 * HOUR, after(3)), noon + 5 * HOUR);
        assert_eq!(clock.told(noon + 5 * HOUR, after(5)), noon + 6 * HOUR);
        assert_eq!(clock.told(noon + 7 * HOUR, after(7)), noon + 7 * HOUR);
        assert_eq!(clock.told(noon + 8 * HOUR, after(8)), noon + 8 * HOUR);
    }

    #[test]
    fn a_steady_clock_goes_on_where_it_was_before_a_restart() {
        let noon = Timestamp::from_seconds(1_763_700_000);
        let clock = SteadyClock::resume(Some(noon + 2 * HOUR));
        assert_eq!(clock.told(noon, Duration::ZERO), noon + 2 * HOUR);
        assert_eq!(clock.told(noon + 4 * HOUR, 4 * HOUR), noon + 4 * HOUR);
        let clock = SteadyClock::resume(Some(noon));
        assert_eq!(clock.told(noon + HOUR, Duration::ZERO), noon + HOUR);
    }
}
