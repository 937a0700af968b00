//! The signed-in pages. The handlers are in `http.rs`; here is the picture of the session's clocks.

pub mod http;

use std::time::Duration;

use crate::clock::Timestamp;
use crate::i18n::Lang;
use crate::session::Record;

/// Everything is measured in thousandths of the picture's width.
const WIDTH: u64 = 1000;

/// The session's clocks on one axis of time, from the login to the last end.
pub struct ClockPicture {
    pub now: u64,
    pub idle: Bar,
    pub hard: Bar,
    pub remember: Option<Bar>,
    pub ticks: Vec<Tick>,
}

/// One clock: where it started, what has passed, what is left.
pub struct Bar {
    pub x: u64,
    pub past: u64,
    pub left: u64,
    /// This one ends first of those that end the session.
    pub first: bool,
}

/// A mark on the axis.
pub struct Tick {
    pub x: u64,
    pub label: String,
}

impl ClockPicture {
    /// Draws the clocks of a session whose idle end is `idle_end`.
    pub fn draw(
        record: &Record,
        last_activity: Timestamp,
        idle_end: Timestamp,
        now: Timestamp,
        lang: Lang,
    ) -> Self {
        let start = record.started_at();
        let hard_end = record.expires_at();
        let span = start.until(hard_end).as_millis().max(1) as u64;
        let at =
            |moment: Timestamp| (start.until(moment).as_millis() as u64 * WIDTH / span).min(WIDTH);
        // Activity is kept in whole seconds: nearer than one, the two ends are the same.
        let idle_first = idle_end + Duration::from_secs(1) < hard_end;
        let bar = |from: Timestamp, to: Timestamp, first| Bar {
            x: at(from),
            past: at(now).saturating_sub(at(from)),
            left: at(to).saturating_sub(at(now)),
            first,
        };
        let length = span / 1000;
        let (unit, seconds, step) = scale(length);
        let ticks = (0..=length / seconds).step_by(step).map(|count| Tick {
            x: (count * seconds * 1000 * WIDTH / span).min(WIDTH),
            label: match count {
                0 => lang.text("dashboard.clocks.tick_start").into_owned(),
                _ => lang.text_with(
                    &format!("dashboard.clocks.tick_{unit}"),
                    &[("count", &count.to_string())],
                ),
            },
        });
        Self {
            now: at(now),
            idle: bar(last_activity, idle_end, idle_first),
            hard: bar(start, hard_end, !idle_first),
            remember: record
                .remember_until()
                .filter(|until| *until > now)
                .map(|until| bar(start, until, false)),
            ticks: ticks.collect(),
        }
    }
}

/// The unit of an axis of so many seconds, the unit's own length, and how many of it lie between
/// two marks: round numbers, and at most five marks.
fn scale(length: u64) -> (&'static str, u64, usize) {
    let (unit, seconds, steps): (_, _, &[u64]) = match length {
        345_601.. => ("days", 86_400, &[1, 2, 5, 10, 20, 50, 100, 200]),
        7200.. => ("hours", 3600, &[1, 2, 3, 6, 12, 24]),
        120.. => ("minutes", 60, &[1, 2, 5, 10, 15, 30]),
        _ => ("seconds", 1, &[1, 2, 5, 10, 15, 30]),
    };
    let total = length / seconds;
    let round = steps.iter().copied().find(|step| total / step <= 4);
    let step = round.unwrap_or(total / 4).max(1);
    (unit, seconds, usize::try_from(step).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn an_axis_has_round_marks_and_at_most_five() {
        for (length, expected) in [
            (1, ("seconds", 1, 1)),
            (90, ("seconds", 1, 30)),
            (119, ("seconds", 1, 30)),
            (1800, ("minutes", 60, 10)),
            (7199, ("minutes", 60, 30)),
            (7200, ("hours", 3600, 1)),
            (86_400, ("hours", 3600, 6)),
            (4 * 86_400, ("hours", 3600, 24)),
            (7 * 86_400, ("days", 86_400, 2)),
            (365 * 86_400, ("days", 86_400, 100)),
        ] {
            assert_eq!(scale(length), expected, "{length} s");
            let (_, seconds, step) = expected;
            assert!(length / seconds / step as u64 <= 4);
        }
    }
}
