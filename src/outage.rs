//! Something that is asked again and again may be away for hours: the log is told when that begins
//! and when it is over.

use std::fmt::Display;

use tokio::time::Instant;

/// One of the things asked, and since when it has given no answer.
pub struct Outage {
    begins: &'static str,
    over: &'static str,
    since: Option<Instant>,
}

impl Outage {
    /// None yet; what the log says when one begins, and when it is over.
    pub const fn new(begins: &'static str, over: &'static str) -> Self {
        Self {
            begins,
            over,
            since: None,
        }
    }

    /// Takes note of what came of asking once more.
    pub fn note<T, E: Display>(&mut self, outcome: &Result<T, E>) {
        match (outcome, self.since) {
            (Err(cause), None) => {
                tracing::warn!(%cause, "{}", self.begins);
                self.since = Some(Instant::now());
            }
            (Ok(_), Some(since)) => {
                let seconds = since.elapsed().as_secs();
                tracing::info!(after_seconds = seconds, "{}", self.over);
                self.since = None;
            }
            _ => {}
        }
    }
}
