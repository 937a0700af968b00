//! `GET /admin`: the last 30 days in figures. The database counts; here the counts find their place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::QueryResult;
use tokio::time::Instant;

use super::store;
use crate::account;
use crate::audit::Kind;
use crate::audit::days::{Days, KINDS, SHOWN, first_shown};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::figures::{self, DAY, Figure, day_of};

/// How many days are shown, today included.
pub const DAYS: usize = SHOWN as usize;
/// Counted faster than this it is counted each time; else it is shown again for so many times as long.
const QUICK: Duration = Duration::from_millis(200);
const SHOWN_AGAIN: u32 = 20;

/// How long logins last: the classes of the distribution, each up to its end.
pub const CLASSES: [&str; 6] = ["hour", "four_hours", "half_day", "day", "week", "more"];

/// One day in UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Day {
    pub logins: i64,
    /// Wrong passwords, and names that nobody has.
    pub failures: i64,
    pub refreshed: i64,
    /// How old the tokens were that were exchanged, all together, in milliseconds.
    pub refresh_age: i64,
    /// Refreshes answered once more with what had been given.
    pub repeated: i64,
    pub expired: i64,
    pub invalid: i64,
    pub reused: i64,
}

impl Day {
    /// Refreshes that were refused.
    pub const fn refused(&self) -> i64 {
        self.expired + self.invalid + self.reused
    }

    /// Refreshes that succeeded, in percent; `None` where there were none at all.
    pub fn success_rate(&self) -> Option<f64> {
        let good = self.refreshed + self.repeated;
        let all = good + self.refused();
        (all > 0).then(|| good as f64 * 100.0 / all as f64)
    }

    /// How long a token is held before it is exchanged, on average.
    pub fn time_between_refreshes(&self) -> Option<Duration> {
        let millis = self.refresh_age.checked_div(self.refreshed)?;
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }

    fn field(&mut self, name: &str) -> Option<&mut i64> {
        let figure = |figure: Figure| figure.name() == name;
        Some(match name {
            _ if name == Kind::Login.name() => &mut self.logins,
            _ if name == Kind::LoginFailed.name() => &mut self.failures,
            _ if figure(Figure::Refreshed) => &mut self.refreshed,
            _ if figure(Figure::RefreshAge) => &mut self.refresh_age,
            _ if figure(Figure::RefreshRepeated) => &mut self.repeated,
            _ if figure(Figure::RefreshExpired) => &mut self.expired,
            _ if figure(Figure::RefreshInvalid) => &mut self.invalid,
            _ if figure(Figure::RefreshReused) => &mut self.reused,
            _ => return None,
        })
    }
}

/// Everything that the page shows.
#[derive(Debug, Default)]
pub struct Overview {
    pub people: i64,
    pub live_browsers: i64,
    pub live_api: i64,
    /// The first of the days, counted from 1970 in UTC.
    pub first: i64,
    /// The last is today.
    pub days: Vec<Day>,
    /// By browser and by API, for each of [`CLASSES`].
    pub durations: [[i64; CLASSES.len()]; 2],
}

impl Overview {
    /// All days together.
    pub fn total(&self) -> Day {
        let sum = |of: fn(&Day) -> i64| self.days.iter().map(of).sum();
        Day {
            logins: sum(|day| day.logins),
            failures: sum(|day| day.failures),
            refreshed: sum(|day| day.refreshed),
            refresh_age: sum(|day| day.refresh_age),
            repeated: sum(|day| day.repeated),
            expired: sum(|day| day.expired),
            invalid: sum(|day| day.invalid),
            reused: sum(|day| day.reused),
        }
    }
}

/// What was counted last, where counting took long: among a million logins it would keep the database
/// busy for as long as somebody looks.
#[derive(Default)]
pub struct Kept(Mutex<Option<(Instant, Arc<Overview>)>>);

impl Kept {
    /// What may be shown once more on the day of `now`.
    pub fn get(&self, now: Timestamp) -> Option<Arc<Overview>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, read) = kept.as_ref()?;
        (Instant::now() < *until && read.first == first_shown(day_of(now)))
            .then(|| Arc::clone(read))
    }

    /// Takes what was counted since `began`.
    pub fn put(&self, began: Instant, read: Overview) -> Arc<Overview> {
        let (read, took) = (Arc::new(read), began.elapsed());
        if took >= QUICK {
            let until = Instant::now() + took * SHOWN_AGAIN;
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some((until, Arc::clone(&read)));
        }
        read
    }
}

/// Counts.
///
/// # Errors
/// When the database refuses.
pub fn read(
    conn: &mut AnyConnection,
    counted: &Days,
    idle_timeout: Duration,
    now: Timestamp,
) -> QueryResult<Overview> {
    let first = first_shown(day_of(now));
    let since = Timestamp::from_millis(first * DAY);
    let mut days = vec![Day::default(); DAYS];
    let mut add = |day: i64, name: &str, amount: i64| {
        let place = usize::try_from(day - first).ok();
        let day = place.and_then(|place| days.get_mut(place));
        if let Some(field) = day.and_then(|day| day.field(name)) {
            *field += amount;
        }
    };
    for kind in KINDS {
        let numbers = counted.count(conn, kind, first, day_of(now), now)?;
        for (day, number) in (first..).zip(numbers) {
            add(day, kind.name(), number);
        }
    }
    for (day, name, total) in figures::since(conn, first)? {
        add(day, &name, total);
    }
    let mut durations = [[0; CLASSES.len()]; 2];
    for counted in store::durations(conn, since, now)? {
        let kind = usize::from(counted.name == crate::login::Kind::Api.name());
        durations[kind][class_of(counted.class)] += counted.total;
    }
    let (live_browsers, live_api) = store::living(conn, now - idle_timeout, now)?;
    Ok(Overview {
        people: account::count(conn)?,
        live_browsers,
        live_api,
        first,
        days,
        durations,
    })
}

/// The place in [`CLASSES`] of a class of [`store::durations`].
const fn class_of(class: i64) -> usize {
    match class {
        ..=0 => 0,
        1..=3 => 1,
        4..=11 => 2,
        12..=23 => 3,
        24..=106 => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_took_long_to_count_is_shown_again_and_not_on_another_day() {
        let now = Timestamp::from_millis(40 * DAY);
        let overview = || Overview {
            first: first_shown(day_of(now)),
            ..Overview::default()
        };
        let kept = Kept::default();
        kept.put(Instant::now(), overview());
        assert!(kept.get(now).is_none());
        kept.put(Instant::now() - Duration::from_secs(1), overview());
        assert!(kept.get(now).is_some());
        assert!(kept.get(now + Duration::from_secs(86_400)).is_none());
    }

    #[test]
    fn what_never_happened_has_no_rate_and_no_average() {
        assert_eq!(Day::default().success_rate(), None);
        assert_eq!(Day::default().time_between_refreshes(), None);
    }

    #[test]
    fn a_repeated_refresh_is_a_success_and_changes_no_average() {
        let day = Day {
            refreshed: 2,
            refresh_age: 3_600_000,
            repeated: 1,
            expired: 1,
            ..Day::default()
        };
        assert_eq!(day.success_rate(), Some(75.0));
        let average = day.time_between_refreshes();
        assert_eq!(average, Some(Duration::from_secs(1800)));
    }
}
