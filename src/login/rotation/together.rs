//! Rule 1 for all tokens that are presented at the same time, on PostgreSQL: a journey to the database
//! and a commit cost more than what is done in them, and shared they cost next to nothing. (In SQLite
//! the writer shares its commits among all transactions.)

use std::time::Duration;

use actix_web::rt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Next, Rules, TokenId, advance_together};
use crate::clock::Timestamp;
use crate::db::{Db, DbError};

/// How many are presented together at the most: bounds how long the first waits for the last.
const MOST: usize = 64;
/// With less time left nobody is presented any more, and neither with less than twice what the last batch took: what
/// is undone because it came too late for one is undone for all, and where the database is slow for all those after them.
const LEAST: Duration = Duration::from_millis(250);
const LEAST_WHERE_SLOW: Duration = Duration::from_millis(750);

/// A token that somebody presents.
pub struct Presented {
    pub token: TokenId,
    /// The login that it must belong to, where one is named.
    pub of_login: Option<String>,
    pub at: Timestamp,
}

struct Waiting {
    presented: Presented,
    /// When it is told that nothing was done.
    until: Instant,
    reply: oneshot::Sender<Result<Option<Next>, String>>,
}

/// Where tokens wait for those before them.
pub struct Queue {
    db: Db,
    waiting: mpsc::UnboundedSender<Waiting>,
}

impl Queue {
    /// Begins to present what waits, one batch after the other.
    pub fn open(db: Db, rules: Rules) -> Self {
        let (sender, waiting) = mpsc::unbounded_channel();
        rt::spawn(work_off(db.clone(), rules, waiting));
        Self {
            db,
            waiting: sender,
        }
    }

    /// Presents a token to rule 1 alone: `None` if there is more to be said, which is for
    /// [`super::rotate`]; then nothing was done.
    ///
    /// # Errors
    /// When the database refuses, or gives no answer in time; then the client can go on with what it holds.
    pub async fn present(&self, presented: Presented) -> Result<Option<Next>, DbError> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting {
            presented,
            until: self.db.deadline(),
            reply,
        };
        let late = || DbError::Unavailable("it was not its turn in time".to_owned());
        self.waiting.send(waiting).map_err(|_| late())?;
        let written = async {
            let answer = answer.await.map_err(|_| late())?;
            answer.map_err(DbError::Unavailable)
        };
        self.db.written(written).await
    }
}

async fn work_off(db: Db, rules: Rules, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    let mut batch: Vec<Waiting> = Vec::new();
    let mut least = LEAST;
    while waiting.recv_many(&mut batch, MOST).await > 0 {
        let began = Instant::now();
        batch.retain(|waiting| waiting.until > began + least && !waiting.reply.is_closed());
        let Some(until) = batch.iter().map(|waiting| waiting.until).min() else {
            continue;
        };
        let (presented, replies): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .map(|waiting| (waiting.presented, waiting.reply))
            .unzip();
        let advanced = db.write_by(until, move |conn| advance_together(conn, &presented, rules));
        let advanced = advanced.await;
        least = (began.elapsed() * 2).clamp(LEAST, LEAST_WHERE_SLOW);
        match advanced {
            Ok(advanced) => {
                for (reply, next) in replies.into_iter().zip(advanced) {
                    let _ = reply.send(Ok(next));
                }
            }
            Err(error) => {
                let cause = error.cause();
                for reply in replies {
                    let _ = reply.send(Err(cause.clone()));
                }
            }
        }
    }
}
