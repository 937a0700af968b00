//! Passwords: which are good enough, and Argon2id, as many at a time as there are cores.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::thread;

use argon2::password_hash::phc::{Ident, Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::oneshot;
use tokio::time::Instant;
use unicode_normalization::UnicodeNormalization;

use crate::config::{Argon2Cost, Config, Secret};
use crate::error::AppError;
use crate::i18n::Lang;
use crate::metrics::Queue;
use crate::vault::random;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The longest password, in characters: long enough for any sentence, short enough that hashing it
/// costs nothing extra.
pub const MAX_LENGTH: usize = 128;
/// Hashes that may wait for a core, for each core. More than that is answered 503 at once.
const QUEUE_PER_CORE: usize = 16;
/// The niceness at which it is hashed: whoever only shows a token does not wait for those who log in, and
/// where all cores are wanted, a hash still gets a sixth of one.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 7;
/// What a guess must cost at least: zxcvbn's "somewhat guessable" is refused.
const LEAST_SCORE: zxcvbn::Score = zxcvbn::Score::Three;

/// A password as it is hashed: normalised, so that the same keys pressed on two systems agree
/// (NIST SP 800-63B, 3.1.1.2).
pub fn normalise(password: &str) -> Secret<String> {
    Secret::new(password.nfc().collect())
}

/// Why a new password is not good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// It has fewer characters than this.
    TooShort(usize),
    /// It has more than [`MAX_LENGTH`].
    TooLong,
    Guessable,
}

impl Weakness {
    /// As a sentence.
    pub fn sentence(self, lang: Lang) -> String {
        let (key, count) = match self {
            Self::TooShort(least) => ("password.too_short", least),
            Self::TooLong => ("password.too_long", MAX_LENGTH),
            Self::Guessable => ("password.guessable", 0),
        };
        lang.text_with(key, &[("count", &count.to_string())])
    }
}

/// What there is to say of a new password.
pub struct Judgement {
    /// zxcvbn's, from 0 to 4; 0 for one that it was not asked about.
    pub score: u8,
    pub weakness: Option<Weakness>,
}

/// Judges a new password, knowing the person's own names.
pub fn judge(password: &Secret<String>, own_names: &[&str], least: usize) -> Judgement {
    let refused = |weakness| Judgement {
        score: 0,
        weakness: Some(weakness),
    };
    let length = password.expose().chars().count();
    if length < least {
        return refused(Weakness::TooShort(least));
    }
    if length > MAX_LENGTH {
        return refused(Weakness::TooLong);
    }
    let score = zxcvbn::zxcvbn(password.expose(), own_names).score();
    Judgement {
        score: score.into(),
        weakness: (score < LEAST_SCORE).then_some(Weakness::Guessable),
    }
}

/// Whether a new password is good enough, knowing the person's own names.
///
/// # Errors
/// What is wrong with it.
pub fn check(password: &Secret<String>, own_names: &[&str], least: usize) -> Result<(), Weakness> {
    match judge(password, own_names, least).weakness {
        Some(weakness) => Err(weakness),
        None => Ok(()),
    }
}

/// What came of a password.
pub enum Verdict {
    Wrong,
    Right,
    /// Right, and it should be stored under this hash from now on: the cost was raised.
    RightRehash(String),
}

/// Hashes and verifies, on threads of its own. Cheap to clone.
#[derive(Clone)]
pub struct Hasher(Arc<Shared>);

struct Shared {
    cost: Cost,
    queue: SyncSender<Job>,
    waiting: AtomicUsize,
    measured: Queue,
}

/// What is computed, and what an unknown person's password is held against, so that it takes as long.
struct Cost {
    params: Params,
    decoy: OnceLock<String>,
}

impl Cost {
    fn decoy(&self, memory: &mut Memory) -> Result<&str, BoxError> {
        if let Some(decoy) = self.decoy.get() {
            return Ok(decoy);
        }
        let made = hash(&self.params, &Secret::new(String::new()), memory)?;
        Ok(self.decoy.get_or_init(|| made))
    }
}

type Job = Box<dyn FnOnce(&mut Memory) + Send>;
/// A thread's working memory, kept for the next hash: clearing 19 MiB anew for each costs a tenth of it.
type Memory = Vec<Block>;

impl Hasher {
    /// A hasher of the configured cost.
    ///
    /// # Errors
    /// When Argon2 does not take the parameters, or there can be no more threads.
    pub fn new(config: &Config) -> Result<Self, String> {
        let Argon2Cost {
            memory,
            passes,
            lanes,
        } = config.argon2;
        let params = Params::new(memory, passes, lanes, Some(32));
        let params = params.map_err(|error| format!("GAPURA_ARGON2: {error}"))?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (queue, jobs) = sync_channel(cores * QUEUE_PER_CORE);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..cores {
            let jobs = Arc::clone(&jobs);
            let thread = thread::Builder::new().name("hasher".to_owned());
            let started = thread.spawn(move || work_off(&jobs));
            started.map_err(|error| format!("no thread to hash passwords on: {error}"))?;
        }
        let shared = Arc::new(Shared {
            cost: Cost {
                params,
                decoy: OnceLock::new(),
            },
            queue,
            waiting: AtomicUsize::new(0),
            measured: Queue::default(),
        });
        // Before anybody asks, and without keeping the start waiting; its memory is given back.
        let first = Arc::clone(&shared);
        let first: Job = Box::new(move |_| drop(first.cost.decoy(&mut Memory::new())));
        let queued = shared.queue.try_send(first);
        queued.map_err(|_| "no password can be hashed".to_owned())?;
        Ok(Self(shared))
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// 503 when too many are waiting.
    pub async fn hash(&self, password: Secret<String>) -> Result<String, AppError> {
        self.run(move |cost, memory| hash(&cost.params, &password, memory))
            .await
    }

    /// Holds a password against a stored hash; against the decoy where there is no such person.
    ///
    /// # Errors
    /// 503 when too many are waiting.
    pub async fn verify(
        &self,
        password: Secret<String>,
        stored: Option<String>,
    ) -> Result<Verdict, AppError> {
        self.run(move |cost, memory| {
            let known = stored.is_some();
            let stored = match stored {
                Some(stored) => stored,
                None => cost.decoy(memory)?.to_owned(),
            };
            let stored = PasswordHash::new(&stored)?;
            let params = Params::try_from(&stored)?;
            let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
                return Ok(Verdict::Wrong);
            };
            let computed = compute(&params, password.expose(), salt, memory)?;
            // `Output` compares in constant time.
            if !known || computed != *expected {
                return Ok(Verdict::Wrong);
            }
            if ParamsString::try_from(&params)? == ParamsString::try_from(&cost.params)? {
                return Ok(Verdict::Right);
            }
            hash(&cost.params, &password, memory).map(Verdict::RightRehash)
        })
        .await
    }

    /// What is measured of it.
    pub fn queue(&self) -> &Queue {
        &self.0.measured
    }

    /// How many passwords wait for a core.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cost, &mut Memory) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, AppError> {
        let (answer, answered) = oneshot::channel();
        let (shared, began) = (Arc::clone(&self.0), Instant::now());
        let job: Job = Box::new(move |memory| {
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            // Whoever asked may have hung up.
            if !answer.is_closed() {
                let waited = began.elapsed().as_secs_f64();
                shared.measured.waited.observe(waited);
                let _ = answer.send(work(&shared.cost, memory));
            }
        });
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        if self.0.queue.try_send(job).is_err() {
            self.0.waiting.fetch_sub(1, Ordering::Relaxed);
            self.0.measured.refused.inc();
            return Err(AppError::Busy);
        }
        let failed = |error: BoxError| AppError::Internal(format!("password hash: {error}"));
        answered
            .await
            .map_err(|gone| failed(gone.into()))?
            .map_err(failed)
    }
}

/// Works off what is queued, for as long as there is a hasher.
fn work_off(jobs: &Mutex<Receiver<Job>>) {
    // Linux means the thread where others mean the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                %error,
                "passwords are hashed as urgently as requests are answered, so many logins at once slow down all: allow \
                 the system call setpriority"
            );
        });
    }
    let mut memory = Memory::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Whoever asked learns of a panic by getting no answer; the thread is needed for others.
        if catch_unwind(AssertUnwindSafe(|| job(&mut memory))).is_err() {
            memory = Memory::new();
        }
    }
}

fn hash(
    params: &Params,
    password: &Secret<String>,
    memory: &mut Memory,
) -> Result<String, BoxError> {
    let salt = Salt::new(&random::<16>())?;
    let hash = PasswordHash {
        algorithm: Ident::new("argon2id")?,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params)?,
        hash: Some(compute(params, password.expose(), &salt, memory)?),
        salt: Some(salt),
    };
    Ok(hash.to_string())
}

fn compute(
    params: &Params,
    password: &str,
    salt: &Salt,
    memory: &mut Memory,
) -> Result<Output, BoxError> {
    memory.resize(params.block_count(), Block::new());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let mut output = [0; 32];
    argon2.hash_password_into_with_memory(
        password.as_bytes(),
        salt.as_ref(),
        &mut output,
        memory,
    )?;
    Ok(Output::new(&output)?)
}
