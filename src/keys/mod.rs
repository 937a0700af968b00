//! The keys of the installation, in the database so that all nodes share them, sealed under the
//! app key: the root secret, from which the rest is derived, and the keys that sign JWTs.

mod store;

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::Secret;
use crate::db::{AnyConnection, Db, DbError, is_unique_violation};
use crate::id;
use crate::vault::{AppKeys, Secrets, random};

/// What a key is for.
const ROOT: &str = "root";
const SIGNING: &str = "jwt";

/// A key that signs JWTs, or once did.
pub struct SigningKey {
    /// `kid` in the header of a JWT.
    pub id: String,
    /// At least 32 bytes, as RFC 7518 (3.2) demands for HS256.
    pub secret: Secret<Vec<u8>>,
    /// No longer signs; still recognises what it signed.
    pub is_retired: bool,
}

/// Everything that has been unsealed.
pub struct Keys {
    pub secrets: Secrets,
    /// Newest first; the first that is not retired signs.
    pub signing: Vec<SigningKey>,
}

/// Loads the keys, making those that are missing. Several nodes may do so at once: one wins.
///
/// # Errors
/// When the database cannot be reached, or no app key opens what is stored.
pub async fn load(db: &Db, app_keys: AppKeys, now: Timestamp) -> Result<Keys, String> {
    let app_keys = Arc::new(app_keys);
    let mut loaded = open_or_create(db, Arc::clone(&app_keys), now).await;
    if let Err(DbError::Query(error)) = &loaded
        && is_unique_violation(error)
    {
        // On PostgreSQL two nodes see none at the same moment; by now the other's are committed.
        loaded = open_or_create(db, app_keys, now).await;
    }
    let opened = loaded.map_err(|error| error.to_string())?;
    let opened = opened.ok_or("GAPURA_APP_KEY does not open the keys in the database: it is not the key they were made with")?;
    let mut root = None;
    let mut signing = Vec::new();
    for (row, secret) in opened {
        if row.purpose == ROOT {
            root = Some(Secrets::derive(&secret));
        } else if secret.expose().len() >= 32 {
            signing.push(SigningKey {
                id: row.id,
                secret,
                is_retired: row.retired_at.is_some(),
            });
        }
    }
    let secrets = root.ok_or("the database holds no root key")?;
    Ok(Keys { secrets, signing })
}

/// What is stored, opened, after what is missing was made; `None` where the app key is another.
async fn open_or_create(
    db: &Db,
    app_keys: Arc<AppKeys>,
    now: Timestamp,
) -> Result<Option<Vec<(store::Row, Secret<Vec<u8>>)>>, DbError> {
    db.write(move |conn| {
        // Another node may be a moment ahead: then its keys stand, and ours are not made.
        let lacks = |rows: &[store::Row], purpose| !rows.iter().any(|row| row.purpose == purpose);
        let rows = store::all(conn)?;
        if lacks(&rows, ROOT) {
            create(conn, &app_keys, ROOT, "HKDF-SHA256", "root".to_owned(), now)?;
        }
        if lacks(&rows, SIGNING) {
            let id = id::new(now).simple().to_string();
            create(conn, &app_keys, SIGNING, "HS256", id, now)?;
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

fn create(
    conn: &mut AnyConnection,
    app_keys: &AppKeys,
    purpose: &str,
    algorithm: &str,
    id: String,
    now: Timestamp,
) -> diesel::QueryResult<()> {
    let sealed = app_keys.seal(purpose, &random::<32>());
    store::insert(
        conn,
        &store::Row {
            id,
            purpose: purpose.to_owned(),
            algorithm: algorithm.to_owned(),
            sealed,
            created_at: now,
            retired_at: None,
        },
    )
}
