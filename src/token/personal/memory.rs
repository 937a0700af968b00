//! What was looked up is remembered for a second at most, so that a busy token costs one query a
//! second and one write a minute.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use actix_web::rt::time::sleep;
use quick_cache::sync::Cache;

use super::{Candidate, Token, store};
use crate::account::User;
use crate::app::App;
use crate::caller::scope::Scopes;
use crate::clock::Timestamp;
use crate::error::{AppError, Code};
use crate::login::Login;

/// How many tokens are remembered.
const REMEMBERED: usize = 4096;
/// For how long: no other node may accept a revoked token for longer.
const REMEMBERED_FOR: Duration = Duration::from_secs(1);
/// How often a use is written down.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// After how many seconds it is tried again where it could not be: in all less than [`NOTED_EVERY`].
const TRIED_AGAIN: [u64; 5] = [1, 2, 4, 8, 16];

/// A token that there is, with whom it belongs to.
pub struct Known {
    pub token: Token,
    pub scopes: Scopes,
    pub user: User,
    login: Option<Login>,
    looked_up_at: Timestamp,
    noted_at: Arc<AtomicI64>,
}

/// What a presented personal token turned out to be.
pub enum Reading {
    Good(Arc<Known>),
    Expired(Arc<Known>),
    /// Or its person is disabled, or its login has ended.
    Revoked(Arc<Known>),
    Unknown,
}

impl Reading {
    /// The good token.
    ///
    /// # Errors
    /// Why it is none.
    pub fn good(self) -> Result<Arc<Known>, Code> {
        match self {
            Self::Good(known) => Ok(known),
            Self::Expired(_) => Err(Code::TokenExpired),
            Self::Revoked(_) => Err(Code::TokenRevoked),
            Self::Unknown => Err(Code::TokenInvalid),
        }
    }

    /// The token, whatever it is worth, if there is one.
    pub fn known(&self) -> Option<&Arc<Known>> {
        match self {
            Self::Good(known) | Self::Expired(known) | Self::Revoked(known) => Some(known),
            Self::Unknown => None,
        }
    }
}

/// Tokens looked up lately.
pub struct Memory {
    /// Under their MACs.
    known: Cache<[u8; 32], Arc<Known>>,
    /// When the use of a token was last written down, or is being written, in milliseconds, under its
    /// id: once for all who look it up at the same time, or they wait for each other with a connection
    /// each.
    noted: Cache<String, Arc<AtomicI64>>,
    /// How often everything was forgotten: a lookup that began before is not remembered after.
    forgotten: AtomicU64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            known: Cache::new(REMEMBERED),
            noted: Cache::new(REMEMBERED),
            forgotten: AtomicU64::new(0),
        }
    }
}

impl Memory {
    /// Forgets everything: what was revoked in the database is refused from now on.
    pub fn forget(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.known.clear();
    }

    fn get(&self, candidate: &Candidate, now: Timestamp) -> Option<Arc<Known>> {
        // Where the clock was set back, nobody knows how old this is.
        let fresh = |known: &Arc<Known>| {
            known.looked_up_at <= now && now < known.looked_up_at + REMEMBERED_FOR
        };
        self.known.get(&candidate.mac).filter(fresh)
    }

    async fn look_up(
        &self,
        app: &App,
        candidate: &Candidate,
        now: Timestamp,
    ) -> Result<Option<Arc<Known>>, AppError> {
        let forgotten = self.forgotten.load(Ordering::SeqCst);
        let id = candidate.id.clone();
        let found = app.db.read(move |conn| store::with_owner(conn, &id));
        let found = found.await?.filter(|(token, ..)| token.is(candidate));
        let Some((token, user, login)) = found else {
            return Ok(None);
        };
        let known = Arc::new(Known {
            scopes: token.scopes(),
            noted_at: self.noted_at(&token),
            looked_up_at: now,
            token,
            user,
            login,
        });
        self.known.insert(candidate.mac, Arc::clone(&known));
        if self.forgotten.load(Ordering::SeqCst) != forgotten {
            self.known.remove(&candidate.mac);
        }
        Ok(Some(known))
    }

    fn noted_at(&self, token: &Token) -> Arc<AtomicI64> {
        let begin = || Ok::<_, Infallible>(Arc::new(AtomicI64::new(i64::MIN)));
        let Ok(noted_at) = self.noted.get_or_insert_with(&token.id, begin);
        if let Some(used_at) = token.last_used_at {
            noted_at.fetch_max(used_at.millis(), Ordering::Relaxed);
        }
        noted_at
    }
}

/// Reads a presented token: one query, or none within a second of the last.
///
/// # Errors
/// 503 when the database cannot be asked.
pub async fn read(app: &App, candidate: &Candidate, now: Timestamp) -> Result<Reading, AppError> {
    let memory = &app.personal_tokens;
    let known = match memory.get(candidate, now) {
        Some(known) => Some(known),
        None => memory.look_up(app, candidate, now).await?,
    };
    let Some(known) = known else {
        return Ok(Reading::Unknown);
    };
    let login_is_over = match &known.login {
        Some(login) => login.cause_of_end(now).is_some() || app.ended.cause(&login.id)?.is_some(),
        None => false,
    };
    let revoked = known.token.revoked_at.is_some() || known.user.disabled_at.is_some();
    Ok(if revoked || login_is_over {
        Reading::Revoked(known)
    } else if known.token.expires_at <= now {
        Reading::Expired(known)
    } else {
        Reading::Good(known)
    })
}

/// Notes when and from where a token was used, at most once a minute; behind the answer, since nothing
/// depends on it. Where that fails it is tried again for half a minute: of a script that comes once a
/// night it is the only use.
pub fn note_use(app: &App, known: &Known, ip: impl FnOnce() -> String, now: Timestamp) {
    let noted_at = known.noted_at.load(Ordering::Relaxed);
    let due = Timestamp::from_millis(noted_at) + NOTED_EVERY <= now;
    let ours = || {
        let order = Ordering::Relaxed;
        let swapped = known
            .noted_at
            .compare_exchange(noted_at, now.millis(), order, order);
        swapped.is_ok()
    };
    if due && ours() {
        let (db, id, ip) = (app.db.clone(), known.token.id.clone(), ip());
        actix_web::rt::spawn(async move {
            let before = now - NOTED_EVERY;
            let mut pauses = TRIED_AGAIN.iter();
            loop {
                let (id, ip) = (id.clone(), ip.clone());
                let noted = db.note(move |conn| store::note_use(conn, &id, &ip, now, before));
                let Err(error) = noted.await else { return };
                tracing::debug!(%error, "the use of a personal token was not noted");
                let Some(pause) = pauses.next() else { return };
                sleep(Duration::from_secs(*pause)).await;
            }
        });
    }
}
