//! How many events of a kind everybody's days have. Among millions each view would count them all
//! again; what lies an hour back does not change any more and is counted once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::web::Data;
use diesel::QueryResult;

use super::{Filter, Kind, store};
use crate::app::App;
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::figures::{DAY, day_of};

/// How many days are shown, today included.
pub const SHOWN: i64 = 30;
/// What is shown of them.
pub const KINDS: [Kind; 2] = [Kind::Login, Kind::LoginFailed];
/// How often what has settled is counted where nobody looks; a start has other things to do first.
const COUNT_EVERY: Duration = Duration::from_secs(300);
const FIRST_COUNT: Duration = Duration::from_secs(5);
/// By then everything has been committed, on nodes whose clocks are behind, too.
const SETTLED: Duration = Duration::from_secs(3600);
/// Days that anybody still asks for.
const REMEMBERED: i64 = 40;

/// The first day that is shown; days are counted from 1970 in UTC.
pub const fn first_shown(today: i64) -> i64 {
    today - (SHOWN - 1)
}

/// Numbers of events, as far as they are settled.
#[derive(Default)]
pub struct Days(Mutex<HashMap<(i64, &'static str), Counted>>);

#[derive(Clone, Copy)]
struct Counted {
    /// From the beginning of the day to here.
    until: Timestamp,
    number: i64,
}

impl Days {
    /// The numbers of each day from `first` to `last`, counted from 1970 in UTC.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn count(
        &self,
        conn: &mut AnyConnection,
        kind: Kind,
        first: i64,
        last: i64,
        now: Timestamp,
    ) -> QueryResult<Vec<i64>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(day, _), _| *day > last - REMEMBERED);
        let mut between = |from: Timestamp, to: Timestamp| {
            let filter = Filter {
                kinds: vec![kind],
                from: Some(from),
                to: Some(to),
                ..Filter::default()
            };
            match from < to {
                true => store::count(conn, &filter),
                false => Ok(0),
            }
        };
        let numbers = (first..=last).map(|day| {
            let [begin, end] = [day, day + 1].map(|day| Timestamp::from_millis(day * DAY));
            let known = known.entry((day, kind.name())).or_insert(Counted {
                until: begin,
                number: 0,
            });
            let settled = end.min(now - SETTLED);
            if known.until < settled {
                known.number += between(known.until, settled)?;
                known.until = settled;
            }
            Ok(known.number + between(known.until, end)?)
        });
        numbers.collect()
    }
}

/// Counts what has settled, a day of a kind at a time, for as long as the process lives: whoever looks
/// first would otherwise wait for a month of events, and longer than a request may.
pub async fn keep_counting(app: Data<App>) {
    tokio::time::sleep(FIRST_COUNT).await;
    loop {
        let now = app.clock.now();
        let today = day_of(now);
        let days = (first_shown(today)..=today).flat_map(|day| KINDS.map(|kind| (day, kind)));
        for (day, kind) in days {
            let counted = Arc::clone(&app.days);
            let counted = app
                .db
                .read(move |conn| counted.count(conn, kind, day, day, now))
                .await;
            if let Err(error) = counted {
                tracing::debug!(%error, "a day's events were not counted");
            }
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}
