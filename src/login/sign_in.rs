//! From a name and a password to a person: the same for a page and for the API. Whoever it was and
//! whatever is wrong, it takes as long and says the same.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use diesel::QueryResult;

use super::Client;
use crate::account::password::{Verdict, normalise};
use crate::account::{self, User};
use crate::app::App;
use crate::audit::{self, Event, Kind};
use crate::db::{AnyConnection, hold_user};
use crate::error::{AppError, Code};

/// Failures within [`WINDOW`] after which an account is closed to an address.
const FAILURES_PER_ACCOUNT_AND_ADDRESS: u64 = 5;
/// Failures within [`WINDOW`] after which an address is turned away.
const FAILURES_PER_ADDRESS: u64 = 30;
const WINDOW: Duration = Duration::from_secs(60);

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
    counters.refuse_too_many(app).await?;
    let wanted = name.to_owned();
    let user = app
        .db
        .read(move |conn| account::by_login_name(conn, &wanted))
        .await?;
    let stored = user.as_ref().map(|user| user.password_hash.clone());
    let verdict = app.hasher.verify(normalise(password), stored).await?;
    let now = app.clock.now();
    let (Some(mut user), Verdict::Right | Verdict::RightRehash(_)) = (user.clone(), &verdict)
    else {
        counters.count_failure(app).await;
        if let Some(user) = user {
            let event = Event::new(Kind::LoginFailed, &user.id, now);
            let event = Event {
                device: Some(client.device.clone()),
                ip: Some(client.ip.clone()),
                ..event
            };
            app.db
                .write(move |conn| audit::record(conn, &event))
                .await?;
        }
        return Err(Code::InvalidCredentials.into());
    };
    if user.disabled_at.is_some() {
        return Err(Code::AccountDisabled.into());
    }
    if let Verdict::RightRehash(hash) = verdict {
        let (id, from, to) = (user.id.clone(), user.password_hash.clone(), hash.clone());
        let replace = app
            .db
            .write(move |conn| account::set_password_hash(conn, &id, &from, &to));
        if replace.await? {
            user.password_hash = hash;
        }
    }
    Ok(user)
}

/// Whether a person may still begin a login with the password that was checked a moment ago: asked
/// in the login's own transaction, so that none begins after they were disabled or the password was
/// changed, however long the checking took.
///
/// # Errors
/// When the database refuses.
pub fn may_begin(conn: &mut AnyConnection, checked: &User) -> QueryResult<bool> {
    hold_user(conn, &checked.id)?;
    let current = account::by_id(conn, &checked.id)?;
    Ok(current.is_some_and(|user| {
        user.disabled_at.is_none() && user.password_hash == checked.password_hash
    }))
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
        let counts = app
            .keystore
            .get([self.account.as_str(), self.address.as_str()])
            .await;
        let [account, address] = counts.unwrap_or_else(|error| {
            tracing::warn!(%error, "failed logins cannot be counted");
            [None, None]
        });
        let reached = |count: Option<String>, limit| {
            count
                .and_then(|count| count.parse().ok())
                .is_some_and(|count: u64| count >= limit)
        };
        if reached(account, FAILURES_PER_ACCOUNT_AND_ADDRESS)
            || reached(address, FAILURES_PER_ADDRESS)
        {
            return Err(AppError::RateLimited {
                retry_after: WINDOW,
            });
        }
        Ok(())
    }

    async fn count_failure(&self, app: &App) {
        for key in [&self.account, &self.address] {
            if let Err(error) = app.keystore.count(key, WINDOW).await {
                tracing::warn!(%error, "a failed login could not be counted");
            }
        }
    }
}
