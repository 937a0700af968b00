//! Counters of this process alone: limits go on with them while the keystore is away.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Count;

/// Counters kept at the most. Beyond that all start over: better than memory without end, and
/// whoever can make so many has that many addresses.
const MOST: usize = 50_000;

#[derive(Default)]
pub struct Tally(Mutex<HashMap<String, (u64, Instant)>>);

impl Tally {
    pub fn count(&self, key: &str, window: Duration, now: Instant) -> Count {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counters.len() >= MOST {
            counters.retain(|_, (_, ends)| *ends > now);
            if counters.len() >= MOST {
                counters.clear();
            }
        }
        let counter = counters.entry(key.to_owned()).or_insert((0, now + window));
        if counter.1 <= now {
            *counter = (0, now + window);
        }
        counter.0 += 1;
        Count {
            number: counter.0,
            resets_in: counter.1 - now,
        }
    }

    pub fn number(&self, key: &str, now: Instant) -> u64 {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = counters.get(key);
        let live = counter.filter(|(_, ends)| *ends > now);
        live.map_or(0, |(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_with_its_first_count_and_ends() {
        let (tally, window, start) = (Tally::default(), Duration::from_secs(60), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        tally.count("k", window, start);
        let second = tally.count("k", window, after(20));
        assert_eq!(
            (second.number, second.resets_in),
            (2, Duration::from_secs(40))
        );
        assert_eq!(tally.number("k", after(59)), 2);
        assert_eq!(tally.number("k", after(60)), 0);
        assert_eq!(tally.count("k", window, after(60)).number, 1);
    }
}
