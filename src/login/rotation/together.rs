//! Rule 1 for all tokens that are presented at the same time, on PostgreSQL: a journey to the database
//! and a commit cost more than what is done in them, and shared they cost next to nothing. (In SQLite
//! the writer shares its commits among all transactions.)

use actix_web::rt;
use tokio::sync::{mpsc, oneshot};

use super::{Next, Rules, TokenId, advance_together};
use crate::clock::Timestamp;
use crate::db::{Db, DbError};

/// How many are presented together at the most: bounds how long the first waits for the last.
const MOST: usize = 64;

/// A token that somebody presents.
pub struct Presented {
    pub token: TokenId,
    /// The login that it must belong to, where one is named.
    pub of_login: Option<String>,
    pub at: Timestamp,
}

struct Waiting {
    presented: Presented,
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
    /// When the database refuses, or gives no answer in time; then nobody knows, and the client can go
    /// on with what it holds.
    pub async fn present(&self, presented: Presented) -> Result<Option<Next>, DbError> {
        let (reply, answer) = oneshot::channel();
        let stopped = |_| DbError::Unavailable("rotations stand still".to_owned());
        self.waiting
            .send(Waiting { presented, reply })
            .map_err(|_| stopped(()))?;
        let answer = self.db.in_time(answer).await?.map_err(|_| stopped(()))?;
        answer.map_err(DbError::Unavailable)
    }
}

async fn work_off(db: Db, rules: Rules, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, MOST).await > 0 {
        // Who has given up is not served any more.
        batch.retain(|waiting| !waiting.reply.is_closed());
        let (presented, replies): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .map(|waiting| (waiting.presented, waiting.reply))
            .unzip();
        if presented.is_empty() {
            continue;
        }
        let advanced = db.at_once(move |conn| advance_together(conn, &presented, rules));
        match advanced.await {
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
