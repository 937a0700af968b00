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
use crate::figures::Figure;

/// Failures within [`WINDOW`] after which an account is closed to an address.
const FAILURES_PER_ACCOUNT_AND_ADDRESS: u64 = 5;
/// Failures within [`WINDOW`] after which an address is turned away.
const FAILURES_PER_ADDRESS: u64 = 30;
const WINDOW: Duration = Duration::from_secs(60);
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

/// Whose name and password these are.
///
/// # Errors
/// 401 when they do not match, 403 for a disabled account (after the right password only), 429
/// after too many failures, 503 when that cannot be known.
pub async fn authenticate(
    app: &App,
    name: &str,
    password: &str,
    client: &Client,
) -> Result<User, AppError> {
    let counters = Counters::of(app, name, client);
    let _turn = app.turnstile.pass(&counters.account).await?;
    counters.refuse_too_many(app).await?;
    loop {
        let user = find(app, name).await?;
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        let verdict = app.hasher.verify(normalise(password), stored).await?;
        let (Some(mut user), Verdict::Right | Verdict::RightRehash(_)) = (user.clone(), &verdict)
        else {
            counters.count_failure(app).await;
            match user {
                Some(user) => record_failure(app, &user, client).await?,
                None => app.figures.count(Figure::LoginUnknown),
            }
            return Err(Code::InvalidCredentials.into());
        };
        if user.disabled_at.is_some() {
            return Err(Code::AccountDisabled.into());
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

async fn record_failure(app: &App, user: &User, client: &Client) -> Result<(), AppError> {
    let event = Event {
        device: Some(client.device.clone()),
        ip: Some(client.ip.clone()),
        ..Event::new(Kind::LoginFailed, &user.id, app.clock.now())
    };
    app.db
        .write(move |conn| audit::record(conn, &event))
        .await?;
    Ok(())
}

/// Failures lately, of this account from this address, and from this address at all.
struct Counters {
    account: String,
    address: String,
}

impl Counters {
    fn of(app: &App, name: &str, client: &Client) -> Self {
        // An IPv6 customer has a whole /64.
        let address = match client.ip.parse() {
            Ok(std::net::IpAddr::V6(ip)) => format!("{:x}", u128::from(ip) >> 64),
            _ => client.ip.clone(),
        };
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
