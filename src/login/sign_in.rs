//! From a name and a password to a person: the same for a page and for the API. Whoever it was and
//! whatever is wrong, it takes as long and says the same.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Client;
use crate::account::password::{Verdict, normalise};
use crate::account::{self, User};
use crate::app::App;
use crate::audit::{self, Event, Kind};
use crate::error::{AppError, Code};
use crate::login;

/// Failures within [`WINDOW`] after which an account is closed to an address.
const FAILURES_PER_ACCOUNT_AND_ADDRESS: u64 = 5;
/// Failures within [`WINDOW`] after which an address is turned away.
const FAILURES_PER_ADDRESS: u64 = 30;
/// After so many failures in a row an account can be entered only from where it was entered before.
const FAILURES_IN_A_ROW: i32 = 100;
const WINDOW: Duration = Duration::from_secs(60);
/// The cause of a failure that concerns nobody.
const UNKNOWN_USER: &str = "unknown_user";
/// Attempts on one account from one address that may be under way at once.
const AT_ONCE: usize = 4;

/// Lets attempts on one account in a few at a time: a burst cannot outrun the count of its own
/// failures.
pub struct Turnstile {
    lanes: Vec<Semaphore>,
    hasher: RandomState,
}

impl Default for Turnstile {
    fn default() -> Self {
        Self {
            lanes: (0..256).map(|_| Semaphore::new(AT_ONCE)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Turnstile {
    /// Waits for a turn, which lasts as long as what is returned. Which accounts share a lane cannot
    /// be foreseen.
    async fn pass(&self, account: &str) -> Result<SemaphorePermit<'_>, AppError> {
        let lane = self.hasher.hash_one(account) as usize % self.lanes.len();
        let turn = self.lanes[lane].acquire().await;
        turn.map_err(|error| AppError::Internal(error.to_string()))
    }
}

/// Whether that is the present password of somebody who is known already, by their session or
/// token. A wrong one counts as a failed login.
///
/// # Errors
/// As [`authenticate`].
pub async fn confirm(
    app: &App,
    user_id: &str,
    password: &str,
    client: &Client,
) -> Result<User, AppError> {
    let id = user_id.to_owned();
    // By id: the name that a session or a token knows may be somebody else's by now.
    let user = app.db.read(move |conn| account::by_id(conn, &id)).await?;
    let username = user.map(|user| user.username).unwrap_or_default();
    let confirmed = attempt(app, &username, password, client).await;
    count(app, "confirmation", &confirmed);
    let confirmed = confirmed?;
    if confirmed.id == user_id {
        Ok(confirmed)
    } else {
        Err(Code::InvalidCredentials.into())
    }
}

/// Whose name and password these are; `kind` is what they shall open.
///
/// # Errors
/// 401 when they do not match, 403 for a disabled account (after the right password only), 429
/// after too many failures, 503 when that cannot be known.
pub async fn authenticate(
    app: &App,
    kind: login::Kind,
    name: &str,
    password: &str,
    client: &Client,
) -> Result<User, AppError> {
    let outcome = attempt(app, name, password, client).await;
    count(app, kind.name(), &outcome);
    outcome
}

fn count(app: &App, kind: &'static str, outcome: &Result<User, AppError>) {
    let word = match outcome {
        Ok(_) => "ok",
        Err(error) => error.code().name(),
    };
    app.metrics.password_given(kind, word);
}

async fn attempt(app: &App, name: &str, password: &str, client: &Client) -> Result<User, AppError> {
    let counters = Counters::of(app, name, client);
    let _turn = app.turnstile.pass(&counters.account).await?;
    counters.refuse_too_many(app).await?;
    loop {
        let user = find(app, name).await?;
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        // Settled before the password is looked at: right or wrong, it costs the same and says the
        // same, or a stranger who guesses right would learn it.
        let closed = match &user {
            Some(user) => is_closed(app, user, client).await?,
            None => false,
        };
        let verdict = app.hasher.verify(normalise(password), stored).await?;
        let right = matches!(verdict, Verdict::Right | Verdict::RightRehash(_)) && !closed;
        let Some(mut user) = user.clone().filter(|_| right) else {
            counters.count_failure(app).await;
            let cause = match user {
                Some(_) => Code::InvalidCredentials.name(),
                None => UNKNOWN_USER,
            };
            record_failure(app, user.as_ref(), cause, client).await?;
            return Err(Code::InvalidCredentials.into());
        };
        if user.disabled_at.is_some() {
            record_failure(app, Some(&user), Code::AccountDisabled.name(), client).await?;
            return Err(Code::AccountDisabled.into());
        }
        if user.failures_in_a_row > 0 {
            let id = user.id.clone();
            let cleared = app.db.write(move |conn| account::clear_failures(conn, &id));
            cleared.await?;
        }
        let Verdict::RightRehash(hash) = verdict else {
            return Ok(user);
        };
        let (id, from, to) = (user.id.clone(), user.password_hash, hash.clone());
        let replaced = app
            .db
            .write(move |conn| account::set_password_hash(conn, &id, &from, &to));
        if replaced.await? {
            user.password_hash = hash;
            return Ok(user);
        }
        // Changed since it was read, by another login or to another password: look again.
    }
}

async fn find(app: &App, name: &str) -> Result<Option<User>, AppError> {
    let name = name.to_owned();
    let found = app
        .db
        .read(move |conn| account::by_login_name(conn, &name))
        .await?;
    Ok(found)
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
        if let Some(id) = &event.user_id {
            account::count_failure(conn, id)?;
        }
        audit::record(conn, &event)
    });
    Ok(recorded.await?)
}

/// Whether an account under attack is closed to this address.
async fn is_closed(app: &App, user: &User, client: &Client) -> Result<bool, AppError> {
    if user.failures_in_a_row < FAILURES_IN_A_ROW || !app.config.rate_limits {
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
    fn of(app: &App, name: &str, client: &Client) -> Self {
        let address = network(&client.ip);
        let account = format!("{} {address}", name.trim().to_lowercase());
        let account = BASE64_URL_SAFE_NO_PAD.encode(app.secrets.session_id_hash(&account));
        Self {
            account: format!("gapura:failed:{account}"),
            address: format!("gapura:failed:{address}"),
        }
    }

    async fn refuse_too_many(&self, app: &App) -> Result<(), AppError> {
        if !app.config.rate_limits {
            return Ok(());
        }
        let [account, address] = app
            .keystore
            .counted([self.account.as_str(), self.address.as_str()])
            .await;
        let closed = match (account, address) {
            (FAILURES_PER_ACCOUNT_AND_ADDRESS.., _) => &self.account,
            (_, FAILURES_PER_ADDRESS..) => &self.address,
            _ => return Ok(()),
        };
        // Counting tells when the window ends, and does not move it.
        let count = app.keystore.count_whatever_happens(closed, WINDOW).await;
        Err(AppError::RateLimited {
            retry_after: count.resets_in,
        })
    }

    async fn count_failure(&self, app: &App) {
        for key in [&self.account, &self.address] {
            app.keystore.count_whatever_happens(key, WINDOW).await;
        }
    }
}
