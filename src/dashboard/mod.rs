//! The signed-in pages. The handlers are in `http.rs`; here is the picture of the session's clocks.

pub mod http;

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
        let idle_first = idle_end < hard_end;
        let bar = |from: Timestamp, to: Timestamp, first| Bar {
            x: at(from),
            past: at(now).saturating_sub(at(from)),
            left: at(to).saturating_sub(at(now)),
            first,
        };
        let (unit, seconds) = match span / 1000 {
            7200.. => ("hours", 3600),
            120.. => ("minutes", 60),
            _ => ("seconds", 1),
        };
        let total = span / 1000 / seconds;
        let step = (total / 4).max(1);
        let ticks = (0..=total).step_by(step as usize).map(|count| Tick {
            x: (count * seconds * 1000 * WIDTH / span).min(WIDTH),
            label: lang.text_with(
                &format!("dashboard.clocks.tick_{unit}"),
                &[("count", &count.to_string())],
            ),
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
