//! actix-session's store, over the keystore. Its own Redis store brings a session back after a
//! logout (an update of a missing key becomes a new key) and waits without limit for a Redis that
//! hangs; here an update of a missing key is dropped, ids are stored hashed, and an outage is told
//! as one ([`Loaded::Unavailable`]) instead of looking like a stranger.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix_session::storage::{LoadError, SaveError, SessionKey, SessionStore, UpdateError};
use actix_web::cookie::time;
use anyhow::anyhow;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join;
use serde::Deserialize;

use super::{LOADED, Loaded, RECORD, Record, activity_key, idle_end, index_key};
use crate::account::{self, User};
use crate::app::App;
use crate::clock::{Clock, Timestamp};
use crate::error::AppError;
use crate::keystore::{Keystore, KeystoreUnavailable};
use crate::login;
use crate::login::ended::Ended;
use crate::vault::{Secrets, random};

/// How often a change of a person is told again because they changed meanwhile.
const MOST_TELLINGS: usize = 5;

type State = HashMap<String, String>;

/// What of a [`Record`] decides whether it lives. The rest is read once, where it is needed.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    login_id: Cow<'a, str>,
    expires_at: i64,
}

/// Keeps sessions. The id in the cookie is `<login id>.<32 random bytes>`: the first part names the
/// activity key, so that one round trip brings both.
#[derive(Clone)]
pub struct Keeper {
    pub keystore: Keystore,
    pub secrets: Arc<Secrets>,
    pub ended: Arc<Ended>,
    pub clock: Arc<dyn Clock>,
    pub idle_timeout: Duration,
}

impl Keeper {
    fn stored_under(&self, id: &str) -> String {
        let hash = BASE64_URL_SAFE_NO_PAD.encode(self.secrets.session_id_hash(id));
        format!("gapura:session:{hash}")
    }

    /// What is under that id; with the record where it lives.
    async fn look(&self, id: &str) -> Option<(Loaded, Option<String>)> {
        let (login_id, _) = id.split_once('.')?;
        let over = |last_activity| {
            let login_id = login_id.to_owned();
            let over = Loaded::Over {
                login_id,
                last_activity,
            };
            (over, None)
        };
        match self.ended.cause(login_id) {
            Ok(None) => {}
            Ok(Some(_)) => return Some(over(None)),
            Err(error) => {
                let cause = error.cause().unwrap_or_default().to_owned();
                return Some((Loaded::Unavailable(cause), None));
            }
        }
        let (session, activity) = (self.stored_under(id), activity_key(login_id));
        let found = match self
            .keystore
            .get([session.as_str(), activity.as_str()])
            .await
        {
            Ok(found) => found,
            Err(error) => return Some((Loaded::Unavailable(error.to_string()), None)),
        };
        let [record, activity] = found;
        let last_activity: Option<i64> = activity.and_then(|text| text.parse().ok());
        let outline = record.as_deref().map(serde_json::from_str::<Outline<'_>>);
        let (Some(Ok(outline)), Some(last_activity)) = (outline, last_activity) else {
            return Some(over(last_activity));
        };
        let now = self.clock.now();
        let idle_end = idle_end(Timestamp::from_seconds(last_activity), self.idle_timeout);
        let hard_end = Timestamp::from_millis(outline.expires_at);
        if outline.login_id != login_id || idle_end <= now || hard_end <= now {
            return Some(over(Some(last_activity)));
        }
        Some((Loaded::Live { last_activity }, record))
    }
}

/// Lets every living session of a person know what they are called, which language and theme they
/// chose, and what their role is, from its next request on. A session that ends meanwhile stays ended.
///
/// What has changed is in the database already: where they cannot be told, it is not undone, and a
/// session shows it from its next login on.
pub async fn retell(app: &App, user_id: &str) {
    if let Err(error) = retell_all(app, user_id).await {
        let cause = error.cause();
        tracing::warn!(
            user = user_id,
            cause,
            "sessions were not told what has changed"
        );
    }
}

async fn retell_all(app: &App, user_id: &str) -> Result<(), AppError> {
    let now = app.clock.now();
    let read = || {
        let id = user_id.to_owned();
        app.db.read(move |conn| account::by_id(conn, &id))
    };
    let mut told: Option<User> = None;
    // Once more where the person changed while we were at it: of two who tell at once the slower one
    // would otherwise leave what it read first.
    for _ in 0..MOST_TELLINGS {
        let Some(user) = read().await? else {
            return Ok(());
        };
        if told.as_ref() == Some(&user) {
            return Ok(());
        }
        let id = user_id.to_owned();
        let logins = app
            .db
            .read(move |conn| login::living_of(conn, &id, now))
            .await?;
        for login in logins {
            retell_login(&app.keystore, &login.id, &user, now).await?;
        }
        told = Some(user);
    }
    Ok(())
}

async fn retell_login(
    keystore: &Keystore,
    login_id: &str,
    user: &User,
    now: Timestamp,
) -> Result<(), AppError> {
    let [known] = keystore.get([index_key(login_id).as_str()]).await?;
    for session in known.unwrap_or_default().split_whitespace() {
        let [state] = keystore.get([session]).await?;
        let record = state.and_then(|text| serde_json::from_str::<Record>(&text).ok());
        let Some(mut record) = record else { continue };
        record.know(user);
        let text = serde_json::to_string(&record);
        let text = text.map_err(|error| AppError::Internal(error.to_string()))?;
        let left = now.until(record.expires_at());
        keystore.replace(session, &text, left).await?;
    }
    Ok(())
}

/// Deletes every key of a login that has ended.
///
/// # Errors
/// When it is not known that they are gone.
pub async fn forget(keystore: &Keystore, login_id: &str) -> Result<(), KeystoreUnavailable> {
    let (index, activity) = (index_key(login_id), activity_key(login_id));
    let [known] = keystore.get([index.as_str()]).await?;
    let known = known.unwrap_or_default();
    let keys = known
        .split_whitespace()
        .chain([index.as_str(), activity.as_str()]);
    keystore.delete(&keys.collect::<Vec<_>>()).await
}

fn json(value: &impl serde::Serialize) -> Result<String, LoadError> {
    serde_json::to_string(value).map_err(|error| LoadError::Other(error.into()))
}

fn record_of(state: &State) -> anyhow::Result<(Record, String)> {
    let text = state
        .get(RECORD)
        .ok_or_else(|| anyhow!("a session without a record"))?;
    Ok((serde_json::from_str(text)?, text.clone()))
}

/// What most requests do not do is on the heap, or each would carry the room for it along.
impl SessionStore for Keeper {
    async fn load(&self, key: &SessionKey) -> Result<Option<State>, LoadError> {
        let Some((loaded, record)) = self.look(key.as_ref()).await else {
            return Ok(None);
        };
        let mut state = State::new();
        if let Some(record) = record {
            state.insert(RECORD.to_owned(), record);
        }
        state.insert(LOADED.to_owned(), json(&loaded)?);
        Ok(Some(state))
    }

    async fn save(&self, state: State, _: &time::Duration) -> Result<SessionKey, SaveError> {
        let (record, text) = record_of(&state).map_err(SaveError::Serialization)?;
        let login_id = &record.login_id;
        let id = format!(
            "{login_id}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(random::<32>())
        );
        let now = self.clock.now();
        let left = now.until(record.expires_at());
        let (session, index) = (self.stored_under(&id), index_key(login_id));
        let activity = activity_key(login_id);
        // Sessions that ended by idleness go before the key that would revive them is made anew. A
        // tab that is restored at the same time finds the key if it finds this session in the
        // list, and so leaves it alone.
        let saved = Box::pin(async {
            let found = self
                .keystore
                .get([index.as_str(), activity.as_str()])
                .await?;
            let [known, last_activity] = found;
            let last_activity = last_activity.and_then(|text| text.parse().ok());
            let goes_on = last_activity
                .is_some_and(|at| idle_end(Timestamp::from_seconds(at), self.idle_timeout) > now);
            if !goes_on {
                let known = known.unwrap_or_default();
                let over: Vec<&str> = known.split_whitespace().collect();
                self.keystore.delete(&over).await?;
            }
            let seconds = now.seconds().to_string();
            self.keystore
                .put(&activity, &seconds, self.idle_timeout)
                .await?;
            let listed = format!("{session} ");
            let (listed, put) = join(
                self.keystore.append(&index, &listed, left),
                self.keystore.put(&session, &text, left),
            )
            .await;
            listed.and(put)
        });
        saved
            .await
            .map_err(|error| SaveError::Other(error.into()))?;
        id.try_into()
            .map_err(|_| SaveError::Other(anyhow!("a session id that is too long")))
    }

    async fn update(
        &self,
        key: SessionKey,
        state: State,
        _: &time::Duration,
    ) -> Result<SessionKey, UpdateError> {
        let (record, text) = record_of(&state).map_err(UpdateError::Serialization)?;
        let left = self.clock.now().until(record.expires_at());
        let under = self.stored_under(key.as_ref());
        match Box::pin(self.keystore.replace(&under, &text, left)).await {
            Ok(true) => {}
            Ok(false) => tracing::debug!("a session ended while a request of its was under way"),
            Err(error) => return Err(UpdateError::Other(error.into())),
        }
        Ok(key)
    }

    async fn update_ttl(&self, _: &SessionKey, _: &time::Duration) -> anyhow::Result<()> {
        Ok(())
    }

    /// Never fails: the login has ended in the database, and the set of ended logins refuses the
    /// session from now on, whether or not its key could be deleted.
    async fn delete(&self, key: &SessionKey) -> anyhow::Result<()> {
        let under = self.stored_under(key.as_ref());
        if let Err(error) = Box::pin(self.keystore.delete(&[under.as_str()])).await {
            tracing::warn!(%error, "a session's key could not be deleted");
        }
        Ok(())
    }
}
