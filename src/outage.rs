//! Something that is asked again and again may be away for hours: the log is told when that begins
//! and when it is over.

use std::fmt::Display;

use tokio::time::Instant;

/// Libraries tell some of their errors in several lines, for a terminal.
pub fn in_one_line(cause: impl Display) -> String {
    let cause = cause.to_string();
    cause.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One of the things asked, and since when it has given no answer.
pub struct Outage {
    begins: &'static str,
    over: &'static str,
    since: Option<Instant>,
    told: bool,
}

impl Outage {
    /// None yet; what the log says when one begins, and when it is over.
    pub const fn new(begins: &'static str, over: &'static str) -> Self {
        Self {
            begins,
            over,
            since: None,
            told: false,
        }
    }

    /// Takes note of what came of asking once more. Once is no outage: a busy machine is late now and
    /// then.
    pub fn note<T, E: Display>(&mut self, outcome: &Result<T, E>) {
        match (outcome, self.since) {
            (Err(_), None) => self.since = Some(Instant::now()),
            (Err(cause), Some(_)) if !self.told => {
                tracing::warn!(cause = in_one_line(cause), "{}", self.begins);
                self.told = true;
            }
            (Ok(_), Some(since)) => {
                if self.told {
                    let seconds = since.elapsed().as_secs();
                    tracing::info!(after_seconds = seconds, "{}", self.over);
                }
                (self.since, self.told) = (None, false);
            }
            _ => {}
        }
    }
}
