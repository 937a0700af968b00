//! From a name and a password to a person: the same for a page and for the API. Whoever it was and
//! whatever is wrong, it takes as long and says the same.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use super::Client;
use crate::account::password::{Verdict, normalise};
use crate::account::{self, FAILURES_IN_A_ROW, User};
use crate::app::App;
use crate::audit::{self, Event, Kind};
use crate::error::{AppError, Code};
use crate::login;

/// Failures within [`WINDOW`] after which an account is closed to an address.
const FAILURES_PER_ACCOUNT_AND_ADDRESS: u64 = 5;
/// Failures within [`WINDOW`] after which an address is turned away.
const FAILURES_PER_ADDRESS: u64 = 30;
const WINDOW: Duration = Duration::from_secs(60);
/// The cause of a failure that concerns nobody.
const UNKNOWN_USER: &str = "unknown_user";

/// Lets attempts in a few at a time, and one at a time once there are few left: a burst cannot outrun
/// the count of its own failures.
struct Turnstile {
    lanes: Vec<Semaphore>,
    hasher: RandomState,
    /// How many may be under way at once.
    at_once: u32,
    /// How many may fail within [`WINDOW`].
    most: u64,
}

impl Turnstile {
    fn new(at_once: u32, most: u64) -> Self {
        let lane = |_| Semaphore::new(at_once as usize);
        Self {
            lanes: (0..256).map(lane).collect(),
            hasher: RandomState::new(),
            at_once,
            most,
        }
    }

    /// Waits for a turn, which lasts as long as what is returned. Who shares a lane with whom cannot
    /// be foreseen.
    ///
    /// # Errors
    /// 429 after too many failures.
    async fn pass(&self, app: &App, key: &str) -> Result<SemaphorePermit<'_>, AppError> {
        let lane = &self.lanes[self.hasher.hash_one(key) as usize % self.lanes.len()];
        let internal = |error: AcquireError| AppError::Internal(error.to_string());
        let turn = lane.acquire().await.map_err(internal)?;
        if self.failures(app, key).await? + u64::from(self.at_once) <= self.most {
            return Ok(turn);
        }
        drop(turn);
        let alone = lane.acquire_many(self.at_once).await.map_err(internal)?;
        self.failures(app, key).await?;
        Ok(alone)
    }

    async fn failures(&self, app: &App, key: &str) -> Result<u64, AppError> {
        let [failures] = app.keystore.counted([key]).await;
        if failures < self.most {
            return Ok(failures);
        }
        // Counting tells when the window ends, and does not move it.
        let count = app.keystore.count_whatever_happens(key, WINDOW).await;
        Err(AppError::RateLimited {
            retry_after: count.resets_in,
        })
    }
}

/// What holds up whoever guesses passwords.
pub struct Limits {
    addresses: Turnstile,
    accounts: Turnstile,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            addresses: Turnstile::new(16, FAILURES_PER_ADDRESS),
            accounts: Turnstile::new(4, FAILURES_PER_ACCOUNT_AND_ADDRESS),
        }
    }
}

/// Who is said to be there.
#[derive(Clone)]
enum Who {
    /// Somebody who would come in under this name or address.
    Named(String),
    /// Somebody with this id, who is in.
    Known(String),
}

impl Who {
    async fn find(&self, app: &App) -> Result<Option<User>, AppError> {
        let who = self.clone();
        let found = app.db.read(move |conn| match who {
            Self::Named(name) => account::by_login_name(conn, &name),
            // By id: the name that a session or a token knows may be somebody else's by now.
            Self::Known(id) => account::by_id(conn, &id),
        });
        Ok(found.await?)
    }
}

/// Whether that is the present password of somebody who is known already, by their session or
/// token. A wrong one counts as a failed login.
///
/// # Errors
/// As [`let_in`].
pub async fn confirm(
    app: &App,
    user_id: &str,
    password: &str,
    client: &Client,
) -> Result<User, AppError> {
    let outcome = check(app, Who::Known(user_id.to_owned()), password, client).await;
    count(app, "confirmation", &outcome);
    outcome
}

/// Lets whoever has this name and password in: `open` begins their login, of that `kind`. It counts as
/// one only then.
///
/// # Errors
/// 401 when they do not match, 403 for a disabled account (after the right password only), 429
/// after too many failures, 503 when that cannot be known; and those of `open`.
pub async fn let_in<T>(
    app: &App,
    kind: login::Kind,
    name: &str,
    password: &str,
    client: Client,
    open: impl AsyncFnOnce(User, Client) -> Result<T, AppError>,
) -> Result<T, AppError> {
    let opened = async {
        let user = check(app, Who::Named(name.to_owned()), password, &client).await?;
        open(user, client).await
    };
    let outcome = opened.await;
    count(app, kind.name(), &outcome);
    outcome
}

fn count<T>(app: &App, kind: &'static str, outcome: &Result<T, AppError>) {
    let word = match outcome {
        Ok(_) => "ok",
        Err(error) => error.code().name(),
    };
    app.metrics.password_given(kind, word);
}

async fn check(app: &App, who: Who, password: &str, client: &Client) -> Result<User, AppError> {
    let mut user = who.find(app).await?;
    let counters = Counters::of(app, &who, user.as_ref(), client);
    let _turns = counters.pass(app).await?;
    loop {
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        // Settled before the password is looked at: right or wrong, it costs the same and says the
        // same, or a stranger who guesses right would learn it.
        let closed = match (&user, &who) {
            (Some(user), Who::Named(_)) => is_closed(app, user, client).await?,
            _ => false,
        };
        let verdict = app.hasher.verify(normalise(password), stored).await?;
        let right = matches!(verdict, Verdict::Right | Verdict::RightRehash(_)) && !closed;
        let Some(mut found) = user.clone().filter(|_| right) else {
            counters.count_failure(app).await;
            let cause = match user {
                Some(_) => Code::InvalidCredentials.name(),
                None => UNKNOWN_USER,
            };
            record_failure(app, user.as_ref(), cause, client).await?;
            return Err(Code::InvalidCredentials.into());
        };
        if found.disabled_at.is_some() {
            record_failure(app, Some(&found), Code::AccountDisabled.name(), client).await?;
            return Err(Code::AccountDisabled.into());
        }
        if found.failures_in_a_row > 0 {
            let id = found.id.clone();
            let cleared = app.db.write(move |conn| account::clear_failures(conn, &id));
            cleared.await?;
        }
        let Verdict::RightRehash(hash) = verdict else {
            return Ok(found);
        };
        let (id, from, to) = (found.id.clone(), found.password_hash, hash.clone());
        let replaced = app
            .db
            .write(move |conn| account::set_password_hash(conn, &id, &from, &to));
        if replaced.await? {
            found.password_hash = hash;
            return Ok(found);
        }
        // Changed since it was read, by another login or to another password: look again.
        user = who.find(app).await?;
    }
}

/// Notes a failure, also of a name that nobody has: what takes longer for a known one tells that it
/// is. The name itself is not kept; it may be a password typed into the wrong field.
async fn record_failure(
    app: &App,
    user: Option<&User>,
    cause: &'static str,
    client: &Client,
) -> Result<(), AppError> {
    app.metrics.password_refused(cause);
    let event = Event {
        user_id: user.map(|user| user.id.clone()),
        ..Event::new(Kind::LoginFailed, "", app.clock.now())
    };
    let event = event.seen_from(client).because(cause);
    let recorded = app.db.write(move |conn| {
        let failures = match &event.user_id {
            Some(id) => account::count_failure(conn, id)?,
            None => 0,
        };
        audit::record(conn, &event)?;
        Ok(failures)
    });
    if recorded.await? == FAILURES_IN_A_ROW
        && let Some(user) = user
    {
        app.metrics.account_closed();
        tracing::warn!(
            user = user.id,
            "an account is open only to addresses where it was entered before, after {FAILURES_IN_A_ROW} failures in a row"
        );
    }
    Ok(())
}

/// Whether an account under attack is closed to this address.
async fn is_closed(app: &App, user: &User, client: &Client) -> Result<bool, AppError> {
    if !user.is_closed() || !app.config.rate_limits {
        return Ok(false);
    }
    let id = user.id.clone();
    let known = app
        .db
        .read(move |conn| audit::addresses_of(conn, &id, Kind::Login))
        .await?;
    let here = network(&client.ip);
    Ok(!known.iter().any(|ip| network(ip) == here))
}

/// An address as limits know it: an IPv6 customer has a whole /64.
pub fn network(ip: &str) -> String {
    match ip.parse() {
        Ok(std::net::IpAddr::V6(ip)) => format!("{:x}", u128::from(ip) >> 64),
        _ => ip.to_owned(),
    }
}

/// Failures lately, of this account from this address, and from this address at all.
struct Counters {
    account: String,
    address: String,
}

impl Counters {
    fn of(app: &App, who: &Who, user: Option<&User>, client: &Client) -> Self {
        let address = network(&client.ip);
        // A person has a name and an address, and one count for both.
        let account = match (user, who) {
            (Some(user), _) => user.id.clone(),
            (None, Who::Named(name) | Who::Known(name)) => name.trim().to_lowercase(),
        };
        let account = format!("{account} {address}");
        let account = BASE64_URL_SAFE_NO_PAD.encode(app.secrets.session_id_hash(&account));
        Self {
            account: format!("gapura:failed:{account}"),
            address: format!("gapura:failed:{address}"),
        }
    }

    async fn pass<'a>(&self, app: &'a App) -> Result<Vec<SemaphorePermit<'a>>, AppError> {
        if !app.config.rate_limits {
            return Ok(Vec::new());
        }
        let limits = &app.login_limits;
        Ok(vec![
            limits.addresses.pass(app, &self.address).await?,
            limits.accounts.pass(app, &self.account).await?,
        ])
    }

    async fn count_failure(&self, app: &App) {
        for key in [&self.account, &self.address] {
            app.keystore.count_whatever_happens(key, WINDOW).await;
        }
    }
}
