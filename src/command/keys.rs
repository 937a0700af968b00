//! `gapura keys …`: the keys that sign JWTs. Servers that run read the change within seconds.

use std::sync::Arc;

use clap::Subcommand;

use super::say;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::keys;
use crate::vault::AppKeys;

/// What can be done with signing keys.
#[derive(Subcommand)]
pub enum Command {
    /// Lists the keys, the latest first: which signs, which recognises what it signed, and how long
    List,
    /// Makes a new key by GAPURA_JWT_ALGORITHM; it signs five minutes later, when every server has it
    ///
    /// Nobody notices: what older keys signed is recognised for the longest life of a login. For a key
    /// that has leaked that is not enough; see `gapura keys revoke`.
    Rotate,
    /// Refuses what a key signed, for one that has leaked
    ///
    /// Servers that run follow within seconds, and meanwhile may not agree. Every access token of that
    /// key is refused (401 token_invalid): clients with a refresh token get a new one by it, others
    /// sign in again. If the key signs at the moment, another takes over at once. If there is time,
    /// `gapura keys rotate` first and revoke the old key after five minutes: then fresh tokens are
    /// never refused.
    Revoke {
        /// As `gapura keys list` shows it
        id: String,
    },
}

/// Carries out one of them.
pub async fn run(config: &Config, command: Command) -> Result<(), String> {
    let db = super::migrate::open(config)?;
    let now = SystemClock.now();
    let (algorithm, lifetime) = (config.jwt_algorithm, config.clocks.login_lifetime);
    match command {
        Command::List => {
            let listed = keys::list(&db, lifetime, now).await;
            let listed = listed.map_err(|error| error.to_string())?;
            let signing = keys::signer(&listed, |entry| entry, now).map(|entry| entry.id.clone());
            for entry in listed {
                let state = match entry.signs_until {
                    _ if signing.as_ref() == Some(&entry.id) => {
                        format!("signs since {}", entry.signs_from.rfc3339())
                    }
                    Some(until) if until <= now => {
                        format!("recognises until {}", (until + lifetime).rfc3339())
                    }
                    _ => format!("signs from {}", entry.signs_from.rfc3339()),
                };
                let name = entry.algorithm.name();
                say(format_args!("{}  {name:<6} {state}", entry.id))?;
            }
        }
        Command::Rotate => {
            let app_keys = Arc::new(AppKeys::load(config)?);
            let (id, from) = keys::rotate(&db, &app_keys, algorithm, now).await?;
            let (name, from) = (algorithm.name(), from.rfc3339());
            say(format_args!("Made {id} ({name}); it signs from {from}."))?;
        }
        Command::Revoke { id } => {
            let app_keys = Arc::new(AppKeys::load(config)?);
            let successor = keys::revoke(&db, &app_keys, algorithm, &id, now).await?;
            let takes_over = successor.map(|id| format!(" {id} signs from now on."));
            say(format_args!(
                "Revoked {id}: what it signed is refused within seconds.{}",
                takes_over.unwrap_or_default()
            ))?;
        }
    }
    Ok(())
}
