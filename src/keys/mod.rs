//! The keys of the installation, in the database so that all nodes share them, sealed under the
//! app key: the root secret, from which the rest is derived, and the keys that sign JWTs.
//!
//! A signing key begins to sign only [`SIGNS_AFTER`] its making. All nodes read the keys anew every
//! few seconds, so by then each of them recognises what it signs, and a rotation costs nobody a 401.
//! It signs until the next begins, and recognises what it signed for the longest life of a login.

mod material;
mod store;

use std::sync::Arc;
use std::time::Duration;

use crate::audit::{self, Event, Kind};
use crate::clock::Timestamp;
use crate::config::{JwtAlgorithm, Secret, check_symmetric_key};
use crate::db::{AnyConnection, Db, DbError, is_unique_violation};
use crate::id;
use crate::vault::{AppKeys, Secrets, random};

/// What a key is for.
const ROOT: &str = "root";
const SIGNING: &str = "jwt";

/// How long a new key is known before it signs. Nodes read the keys every two seconds; the rest is
/// for outages, clocks that differ, and those who keep a copy of the public keys.
pub const SIGNS_AFTER: Duration = Duration::from_secs(300);

const OTHER_APP_KEY: &str =
    "GAPURA_APP_KEY does not open the keys in the database: it is not the key they were made with";

/// What may be told of a signing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `kid` in the header of a JWT.
    pub id: String,
    pub algorithm: JwtAlgorithm,
    pub signs_from: Timestamp,
    /// When the next begins to sign.
    pub signs_until: Option<Timestamp>,
}

impl Entry {
    /// Whether something that it signed, and that lives for `lifetime`, could still be alive.
    pub fn covers(&self, lifetime: Duration, now: Timestamp) -> bool {
        self.signs_until.is_none_or(|until| until + lifetime > now)
    }
}

/// A key that signs JWTs, will, or once did.
#[derive(Clone, PartialEq)]
pub struct SigningKey {
    pub entry: Entry,
    /// Random bytes for HS256, otherwise a private key as PKCS#8.
    pub secret: Secret<Vec<u8>>,
}

/// Everything that has been unsealed.
pub struct Keys {
    pub secrets: Secrets,
    /// The one that begins to sign last first.
    pub signing: Vec<SigningKey>,
}

/// Which of the keys, the one that begins last first, signs: the latest that has begun. Where the
/// clock says that none has, the first that will: every node knows it.
pub fn signer<T>(keys: &[T], entry: impl Fn(&T) -> &Entry, now: Timestamp) -> Option<&T> {
    let begun = keys.iter().find(|key| entry(key).signs_from <= now);
    begun.or(keys.last())
}

/// Whether there are keys already, sealed under an app key.
///
/// # Errors
/// When the database cannot be reached.
pub async fn exist(db: &Db) -> Result<bool, String> {
    let known = db.read(store::signing).await;
    Ok(!known.map_err(|error| error.to_string())?.is_empty())
}

/// Loads the keys, making those that are missing; among them one that signs by `algorithm`. Several
/// nodes may do so at once: one wins.
///
/// # Errors
/// When the database cannot be reached, no app key opens what is stored, or a key cannot be right.
pub async fn load(
    db: &Db,
    app_keys: &Arc<AppKeys>,
    algorithm: JwtAlgorithm,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Keys, String> {
    let known = db
        .read(store::signing)
        .await
        .map_err(|error| error.to_string())?;
    let made = match known.first() {
        Some(newest) if newest.algorithm == algorithm.name() => None,
        _ => Some(material::generate(algorithm).await?),
    };
    if made.is_some() && !known.is_empty() {
        let name = algorithm.name();
        tracing::info!("a new key will sign by {name} in {SIGNS_AFTER:?}");
    }
    let new = made.map(|secret| (algorithm, secret));
    let mut loaded = open_or_create(db, Arc::clone(app_keys), new.clone(), now).await;
    if let Err(DbError::Query(error)) = &loaded
        && is_unique_violation(error)
    {
        // On PostgreSQL two nodes see none at the same moment; by now the other's are committed.
        loaded = open_or_create(db, Arc::clone(app_keys), new, now).await;
    }
    let opened = loaded.map_err(|error| error.to_string())?;
    let opened = opened.ok_or(OTHER_APP_KEY)?;
    let (rows, opened): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    let root = rows.iter().position(|row| row.purpose == ROOT);
    let root = root.ok_or("the database holds no root key")?;
    let secrets = Secrets::derive(&opened[root]);
    let mut signing = Vec::new();
    for entry in entries(&rows, lifetime, now) {
        let at = rows.iter().position(|row| row.id == entry.id);
        let secret = at.and_then(|at| opened.get(at)).cloned();
        signing.extend(secret.map(|secret| SigningKey { entry, secret }));
    }
    check(&signing)?;
    Ok(Keys { secrets, signing })
}

/// Refuses keys that somebody could know, and two that are the same.
fn check(keys: &[SigningKey]) -> Result<(), String> {
    for (index, key) in keys.iter().enumerate() {
        let id = &key.entry.id;
        if key.entry.algorithm == JwtAlgorithm::Hs256
            && let Err(problem) = check_symmetric_key(key.secret.expose())
        {
            return Err(format!(
                "the signing key {id} in the database {problem}: replace it with `gapura keys revoke {id}`"
            ));
        }
        let mut others = keys[..index].iter();
        if others.any(|other| other.entry.id == *id || other.secret == key.secret) {
            return Err(format!(
                "the signing key {id} is in the database twice: delete one with `gapura keys revoke {id}`"
            ));
        }
    }
    Ok(())
}

/// The signing keys among the rows that still recognise something.
fn entries(rows: &[store::Row], lifetime: Duration, now: Timestamp) -> Vec<Entry> {
    let mut next = None;
    let mut entries = Vec::new();
    for row in rows.iter().filter(|row| row.purpose == SIGNING) {
        // A newer version of this program may sign in ways that this one does not know.
        if let Some(algorithm) = JwtAlgorithm::named(&row.algorithm) {
            entries.push(Entry {
                id: row.id.clone(),
                algorithm,
                signs_from: row.signs_from,
                signs_until: next,
            });
        }
        next = Some(row.signs_from);
    }
    entries.retain(|entry| entry.covers(lifetime, now));
    entries
}

/// What is stored, opened, after what is missing was made; `None` where the app key is another.
async fn open_or_create(
    db: &Db,
    app_keys: Arc<AppKeys>,
    new: Option<(JwtAlgorithm, Secret<Vec<u8>>)>,
    now: Timestamp,
) -> Result<Option<Vec<(store::Row, Secret<Vec<u8>>)>>, DbError> {
    db.write(move |conn| {
        store::lock(conn)?;
        // Another node may be a moment ahead: then its keys stand, and ours are not made.
        let rows = store::all(conn)?;
        if !rows.iter().any(|row| row.purpose == ROOT) {
            let sealed = app_keys.seal(ROOT, &random::<32>());
            let root = store::Row {
                id: ROOT.to_owned(),
                purpose: ROOT.to_owned(),
                algorithm: "HKDF-SHA256".to_owned(),
                sealed,
                created_at: now,
                signs_from: now,
            };
            store::insert(conn, &root)?;
        }
        let newest = rows.iter().find(|row| row.purpose == SIGNING);
        if let Some((algorithm, secret)) = &new
            && newest.is_none_or(|newest| newest.algorithm != algorithm.name())
        {
            let signs_from = newest.map_or(now, |_| now + SIGNS_AFTER);
            add(conn, &app_keys, *algorithm, secret, signs_from, now)?;
        }
        let rows = store::all(conn)?;
        let mut opened = Vec::new();
        for row in rows {
            let Some((secret, stale)) = app_keys.open(&row.purpose, &row.sealed) else {
                return Ok(None);
            };
            if stale {
                store::reseal(conn, &row.id, &app_keys.seal(&row.purpose, secret.expose()))?;
            }
            opened.push((row, secret));
        }
        Ok(Some(opened))
    })
    .await
}

/// Adds a signing key and returns its id.
fn add(
    conn: &mut AnyConnection,
    app_keys: &AppKeys,
    algorithm: JwtAlgorithm,
    secret: &Secret<Vec<u8>>,
    signs_from: Timestamp,
    now: Timestamp,
) -> diesel::QueryResult<String> {
    let id = id::new(now).simple().to_string();
    store::insert(
        conn,
        &store::Row {
            id: id.clone(),
            purpose: SIGNING.to_owned(),
            algorithm: algorithm.name().to_owned(),
            sealed: app_keys.seal(SIGNING, secret.expose()),
            created_at: now,
            signs_from,
        },
    )?;
    let made = Event::of_installation(Kind::SigningKeyMade, now);
    audit::record(conn, &made.about(&format!("{id} {}", algorithm.name())))?;
    Ok(id)
}

/// The signing keys as they are stored, without what is secret.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(db: &Db, lifetime: Duration, now: Timestamp) -> Result<Vec<Entry>, DbError> {
    let rows = db.read(store::signing).await?;
    Ok(entries(&rows, lifetime, now))
}

/// Reads the signing keys anew, for a node that serves. Those that were `known` are not opened
/// again: another node may have sealed them under a newer app key than ours. Also whether all of
/// them could be opened.
///
/// # Errors
/// When the database cannot be asked.
pub async fn read(
    db: &Db,
    app_keys: &AppKeys,
    known: &[SigningKey],
    lifetime: Duration,
    now: Timestamp,
) -> Result<(Vec<SigningKey>, bool), DbError> {
    let rows = db.read(store::signing).await?;
    let entries = entries(&rows, lifetime, now);
    let expected = entries.len();
    let mut keys = Vec::new();
    for entry in entries {
        let secret = match known.iter().find(|key| key.entry.id == entry.id) {
            Some(key) => Some(key.secret.clone()),
            None => {
                let row = rows.iter().find(|row| row.id == entry.id);
                let opened = row.and_then(|row| app_keys.open(SIGNING, &row.sealed));
                opened.map(|(secret, _)| secret)
            }
        };
        keys.extend(secret.map(|secret| SigningKey { entry, secret }));
    }
    let complete = keys.len() == expected;
    Ok((keys, complete))
}

/// The signing keys, for somebody who looks whether all is well; nothing is changed.
///
/// # Errors
/// A sentence that says what is wrong with them.
pub async fn examine(
    db: &Db,
    app_keys: AppKeys,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Vec<SigningKey>, String> {
    let app_keys = Arc::new(app_keys);
    let opening = Arc::clone(&app_keys);
    let opened = db.read(move |conn| opens_all(conn, &opening)).await;
    if !opened.map_err(|error| error.to_string())? {
        return Err(OTHER_APP_KEY.to_owned());
    }
    let (keys, _) = read(db, &app_keys, &[], lifetime, now)
        .await
        .map_err(|error| error.to_string())?;
    check(&keys)?;
    Ok(keys)
}

/// Makes a new key, which signs once every node surely knows it; returns its id and when that is.
///
/// # Errors
/// When the database cannot be reached, or holds keys made with another app key.
pub async fn rotate(
    db: &Db,
    app_keys: &Arc<AppKeys>,
    algorithm: JwtAlgorithm,
    now: Timestamp,
) -> Result<(String, Timestamp), String> {
    let secret = material::generate(algorithm).await?;
    let app_keys = Arc::clone(app_keys);
    let signs_from = now + SIGNS_AFTER;
    let added = db.write(move |conn| {
        store::lock(conn)?;
        if !opens_all(conn, &app_keys)? {
            return Ok(None);
        }
        add(conn, &app_keys, algorithm, &secret, signs_from, now).map(Some)
    });
    let added = added.await.map_err(|error| error.to_string())?;
    Ok((added.ok_or(OTHER_APP_KEY)?, signs_from))
}

/// Deletes a key: what it signed is refused by each node as soon as that reads the keys. If it
/// signed, the next takes over at once; it is made if there is none. Its id is returned.
///
/// # Errors
/// When there is no such key, the database cannot be reached, or holds keys made with another app
/// key.
pub async fn revoke(
    db: &Db,
    app_keys: &Arc<AppKeys>,
    algorithm: JwtAlgorithm,
    id: &str,
    now: Timestamp,
) -> Result<Option<String>, String> {
    let secret = material::generate(algorithm).await?;
    let (app_keys, revoked) = (Arc::clone(app_keys), id.to_owned());
    let done = db.write(move |conn| {
        store::lock(conn)?;
        if !opens_all(conn, &app_keys)? {
            return Ok(Err(OTHER_APP_KEY.to_owned()));
        }
        let rows = store::signing(conn)?;
        if !rows.iter().any(|row| row.id == revoked) {
            return Ok(Err(format!("there is no signing key {revoked}")));
        }
        store::delete(conn, &revoked)?;
        let event = Event::of_installation(Kind::SigningKeyRevoked, now);
        audit::record(conn, &event.about(&revoked))?;
        let signer = rows.iter().find(|row| row.signs_from <= now);
        if signer.or(rows.last()).is_none_or(|row| row.id != revoked) {
            return Ok(Ok(None));
        }
        // Not one that was replaced before: it may have leaked as well.
        let pending = rows.iter().filter(|row| row.signs_from > now);
        let successor = match pending.rev().find(|row| row.id != revoked) {
            Some(row) => {
                store::set_signs_from(conn, &row.id, now)?;
                row.id.clone()
            }
            None => add(conn, &app_keys, algorithm, &secret, now, now)?,
        };
        Ok(Ok(Some(successor)))
    });
    done.await.map_err(|error| error.to_string())?
}

fn opens_all(conn: &mut AnyConnection, app_keys: &AppKeys) -> diesel::QueryResult<bool> {
    let rows = store::all(conn)?;
    let opens = |row: &store::Row| app_keys.open(&row.purpose, &row.sealed).is_some();
    Ok(rows.iter().all(opens))
}

/// Deletes the signing keys that recognise nothing any more.
///
/// # Errors
/// When the database says so.
pub fn delete_old(
    conn: &mut AnyConnection,
    lifetime: Duration,
    now: Timestamp,
) -> diesel::QueryResult<()> {
    let rows = store::signing(conn)?;
    let mut next: Option<Timestamp> = None;
    for row in &rows {
        if next.is_some_and(|until| until + lifetime <= now) {
            store::delete(conn, &row.id)?;
        }
        next = Some(row.signs_from);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, secret: &[u8], signs_from: i64) -> SigningKey {
        SigningKey {
            entry: Entry {
                id: id.to_owned(),
                algorithm: JwtAlgorithm::Hs256,
                signs_from: Timestamp::from_millis(signs_from),
                signs_until: None,
            },
            secret: Secret::new(secret.to_vec()),
        }
    }

    #[test]
    fn keys_in_the_database_that_are_weak_or_the_same_are_refused() {
        let (one, two) = (random::<32>(), random::<32>());
        assert!(check(&[key("a", &one, 0), key("b", &two, 0)]).is_ok());
        let same = check(&[key("a", &one, 0), key("b", &one, 0)]).unwrap_err();
        assert!(same.contains("twice") && same.contains("keys revoke b"));
        assert!(check(&[key("a", &one, 0), key("a", &two, 0)]).is_err());
        for weak in [&[0; 32][..], &one[..31], &[b'x'; 64], b""] {
            let problem = check(&[key("a", weak, 0)]).unwrap_err();
            assert!(problem.contains("`gapura keys revoke a`"), "{problem}");
        }
    }

    #[test]
    fn the_latest_key_that_has_begun_signs() {
        let keys = [key("c", b"", 30), key("b", b"", 20), key("a", b"", 10)];
        let at = |moment| {
            let now = Timestamp::from_millis(moment);
            signer(&keys, |key| &key.entry, now).map(|key| key.entry.id.as_str())
        };
        assert_eq!(
            [at(5), at(10), at(29), at(30), at(99)],
            [Some("a"), Some("a"), Some("b"), Some("c"), Some("c")]
        );
    }
}
