//! Passwords: which are good enough, and Argon2id, as many at a time as there are cores.

use std::sync::{Arc, Mutex};

use argon2::password_hash::phc::{Ident, Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::Semaphore;
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

/// Hashes and verifies. Cheap to clone.
#[derive(Clone)]
pub struct Hasher(Arc<Shared>);

struct Shared {
    params: Params,
    cores: Semaphore,
    queue: Semaphore,
    measured: Queue,
    /// Working memory, kept for the next hash: clearing 19 MiB anew for each costs a tenth of it.
    memory: Mutex<Vec<Vec<Block>>>,
    /// What an unknown person's password is held against, so that it takes as long.
    decoy: String,
}

impl Hasher {
    /// A hasher of the configured cost.
    ///
    /// # Errors
    /// When Argon2 does not take the parameters.
    pub fn new(config: &Config) -> Result<Self, String> {
        let Argon2Cost {
            memory,
            passes,
            lanes,
        } = config.argon2;
        let params = Params::new(memory, passes, lanes, Some(32));
        let params = params.map_err(|error| format!("GAPURA_ARGON2: {error}"))?;
        let cores = cores();
        let mut shared = Shared {
            params,
            cores: Semaphore::new(cores),
            queue: Semaphore::new(places(cores)),
            measured: Queue::default(),
            memory: Mutex::new(Vec::new()),
            decoy: String::new(),
        };
        shared.decoy = shared
            .hash(&Secret::new(String::new()))
            .map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(shared)))
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// 503 when too many are waiting.
    pub async fn hash(&self, password: Secret<String>) -> Result<String, AppError> {
        self.run(move |shared| shared.hash(&password)).await
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
        self.run(move |shared| {
            let known = stored.is_some();
            let stored = stored.unwrap_or_else(|| shared.decoy.clone());
            let stored = PasswordHash::new(&stored)?;
            let params = Params::try_from(&stored)?;
            let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
                return Ok(Verdict::Wrong);
            };
            let computed = shared.compute(&params, password.expose(), salt)?;
            // `Output` compares in constant time.
            if !known || computed != *expected {
                return Ok(Verdict::Wrong);
            }
            if ParamsString::try_from(&params)? == ParamsString::try_from(&shared.params)? {
                return Ok(Verdict::Right);
            }
            shared.hash(&password).map(Verdict::RightRehash)
        })
        .await
    }

    /// What is measured of it.
    pub fn queue(&self) -> &Queue {
        &self.0.measured
    }

    /// How many passwords wait for a core.
    pub fn waiting(&self) -> usize {
        let cores = cores();
        let inside = places(cores).saturating_sub(self.0.queue.available_permits());
        let busy = cores.saturating_sub(self.0.cores.available_permits());
        inside.saturating_sub(busy)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, AppError> {
        let busy = || AppError::Unavailable("too many passwords wait to be hashed".to_owned());
        let shared = Arc::clone(&self.0);
        let _place = self.0.queue.try_acquire().map_err(|_| {
            self.0.measured.refused.inc();
            busy()
        })?;
        let began = Instant::now();
        let _core = self.0.cores.acquire().await.map_err(|_| busy())?;
        let waited = began.elapsed().as_secs_f64();
        self.0.measured.waited.observe(waited);
        actix_web::web::block(move || work(&shared))
            .await
            .map_err(|_| busy())?
            .map_err(|error| AppError::Internal(format!("password hash: {error}")))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many may be at the hasher, being hashed or waiting.
const fn places(cores: usize) -> usize {
    cores * (1 + QUEUE_PER_CORE)
}

impl Shared {
    fn hash(&self, password: &Secret<String>) -> Result<String, BoxError> {
        let salt = Salt::new(&random::<16>())?;
        let hash = PasswordHash {
            algorithm: Ident::new("argon2id")?,
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&self.params)?,
            hash: Some(self.compute(&self.params, password.expose(), &salt)?),
            salt: Some(salt),
        };
        Ok(hash.to_string())
    }

    fn compute(&self, params: &Params, password: &str, salt: &Salt) -> Result<Output, BoxError> {
        let kept = self.memory.lock().ok().and_then(|mut kept| kept.pop());
        let mut memory = kept.unwrap_or_default();
        memory.resize(params.block_count(), Block::new());
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let mut output = [0; 32];
        argon2.hash_password_into_with_memory(
            password.as_bytes(),
            salt.as_ref(),
            &mut output,
            &mut memory,
        )?;
        if let Ok(mut kept) = self.memory.lock() {
            kept.push(memory);
        }
        Ok(Output::new(&output)?)
    }
}
