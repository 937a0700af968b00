//! What happens too often to be an event of the audit log, or must not cost a query: counted in
//! memory, and added to the day's figures in the database every few seconds.

mod store;

use std::sync::atomic::{AtomicI64, Ordering};

pub use self::store::{delete_before, since};
use crate::clock::Timestamp;
use crate::db::{Db, DbError};

/// Milliseconds in a day.
pub const DAY: i64 = 86_400_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// A refresh token was exchanged for its successor.
    Refreshed,
    /// How old the tokens were that were exchanged, all together, in milliseconds.
    RefreshAge,
    /// A parallel or repeated refresh, answered with what another had been given.
    RefreshRepeated,
    RefreshExpired,
    /// Forged, or long forgotten.
    RefreshInvalid,
    RefreshReused,
}

impl Figure {
    const ALL: [Self; 6] = [
        Self::Refreshed,
        Self::RefreshAge,
        Self::RefreshRepeated,
        Self::RefreshExpired,
        Self::RefreshInvalid,
        Self::RefreshReused,
    ];

    /// As stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refreshed => "refreshed",
            Self::RefreshAge => "refresh_age",
            Self::RefreshRepeated => "refresh_repeated",
            Self::RefreshExpired => "refresh_expired",
            Self::RefreshInvalid => "refresh_invalid",
            Self::RefreshReused => "refresh_reused",
        }
    }
}

/// The day of a moment, counted from 1970 in UTC.
pub const fn day_of(at: Timestamp) -> i64 {
    at.millis().div_euclid(DAY)
}

/// What has been counted since it was last written down.
#[derive(Default)]
pub struct Figures([AtomicI64; Figure::ALL.len()]);

impl Figures {
    /// Counts.
    pub fn add(&self, figure: Figure, amount: i64) {
        self.0[figure as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// Counts one.
    pub fn count(&self, figure: Figure) {
        self.add(figure, 1);
    }

    /// Writes down what has been counted, under the day of `now`.
    ///
    /// # Errors
    /// When the database refuses, or does not say whether it took it. Only in the first case is it
    /// tried again: a figure that is a little too small is better than one that was added twice.
    pub async fn flush(&self, db: &Db, now: Timestamp) -> Result<(), DbError> {
        let taken = Figure::ALL.map(|figure| {
            let amount = self.0[figure as usize].swap(0, Ordering::Relaxed);
            (figure, amount)
        });
        if taken.iter().all(|(_, amount)| *amount == 0) {
            return Ok(());
        }
        let written = db.write(move |conn| {
            // Always in the same order, so that two nodes never wait for each other.
            for (figure, amount) in taken.into_iter().filter(|(_, amount)| *amount != 0) {
                store::add(conn, day_of(now), figure.name(), amount)?;
            }
            Ok(())
        });
        let written = written.await;
        if let Err(DbError::Query(_)) = written {
            for (figure, amount) in taken {
                self.add(figure, amount);
            }
        }
        written
    }
}
