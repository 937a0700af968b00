//! The latest time that a server has told, kept in the data dir: should the wall clock be set back and
//! the server be started anew, what had expired stays so.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SteadyClock, Timestamp};
use crate::outage::Outage;

/// How often it is written: what expired since then, only a crash forgets.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// So much a machine's clock is set right by, now and then.
pub const USUAL: Duration = Duration::from_secs(5);

/// The mark of one data dir.
#[derive(Clone)]
pub struct Mark(PathBuf);

impl Mark {
    /// The mark in that data dir; where there is no such directory, none is kept.
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("clock"))
    }

    /// The file that it is kept in.
    pub fn file(&self) -> &Path {
        &self.0
    }

    /// The latest time that a server told, if one is known.
    pub fn read(&self) -> Option<Timestamp> {
        let text = fs::read_to_string(&self.0).ok()?;
        text.trim().parse().ok().map(Timestamp::from_millis)
    }

    /// The clock to go by.
    pub fn clock(&self) -> SteadyClock {
        SteadyClock::resume(self.read())
    }

    /// Writes down the time for as long as the process lives, and tells when the wall clock is behind
    /// what it was, since the last start or before it.
    pub async fn keep(self, clock: Arc<SteadyClock>) {
        let mut set_back = Outage::new(
            "this machine's clock was set back: time goes on from where it was at half its pace. If it was wrong \
             before and is right now, stop this server, remove `clock` from its data directory if there is one, and start it again",
            "this machine's clock has caught up",
        );
        loop {
            let behind = clock.wall_is_behind();
            set_back.note(&match behind > USUAL {
                true => Err(format!("{} s behind", behind.as_secs())),
                false => Ok(()),
            });
            if let Err(error) = self.write(clock.now()) {
                tracing::debug!(%error, "the time could not be kept");
            }
            tokio::time::sleep(WRITE_EVERY).await;
        }
    }

    /// Writes down the time, all or nothing: half a number would be another time.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn write(&self, now: Timestamp) -> io::Result<()> {
        let draft = self.0.with_extension(std::process::id().to_string());
        let mut new = OpenOptions::new();
        let mut file = new
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        let written = writeln!(file, "{}", now.millis());
        written
            .and_then(|()| fs::rename(&draft, &self.0))
            .inspect_err(|_| drop(fs::remove_file(&draft)))
    }
}
