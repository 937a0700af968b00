//! Access tokens: JWTs (RFC 7519) that are checked without any I/O.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::account::User;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::id;
use crate::keys::SigningKey;
use crate::login::Login;

/// How far in the future `nbf` and `iat` may lie, since nodes' clocks differ. `exp` has no leeway.
const LEEWAY_SECONDS: i64 = 5;
/// How many tokens are remembered as genuine, about a kilobyte each. What was verified once needs no
/// second verification: its time and its end are looked at on each use all the same.
const REMEMBERED: usize = 4096;
/// Longer than any token of ours; what is longer is not looked at.
const LONGEST: usize = 4096;

/// What an access token says. All of it is required.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The user's id.
    pub sub: String,
    /// The username.
    pub name: String,
    pub email: String,
    pub role: String,
    pub email_verified: bool,
    pub iss: String,
    pub aud: String,
    /// Seconds since 1970, as are all times here.
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    /// When a password was last given.
    pub auth_time: i64,
    /// This token's own id.
    pub jti: String,
    /// The login's id.
    pub sid: String,
}

impl Claims {
    /// When the token ends.
    pub const fn expires_at(&self) -> Timestamp {
        Timestamp::from_seconds(self.exp)
    }
}

/// What a presented token turned out to be.
#[derive(Clone, Debug)]
pub enum Reading {
    /// Genuine and not expired. Whether its login has ended is another question.
    Good(Arc<Claims>),
    /// Genuine once.
    Expired(Arc<Claims>),
    /// Not ours, or tampered with, or no JWT at all.
    Invalid,
}

struct Key {
    id: String,
    decoding: DecodingKey,
    validation: Validation,
}

/// Signs and reads access tokens.
pub struct Jwt {
    header: Header,
    encoding: EncodingKey,
    keys: Vec<Key>,
    genuine: Cache<String, Arc<Claims>>,
    issuer: String,
    audience: String,
    lifetime: Duration,
}

impl Jwt {
    /// With the installation's keys: the newest signs, all of them recognise.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub fn new(config: &Config, keys: Vec<SigningKey>) -> Result<Self, String> {
        let signing = keys
            .iter()
            .find(|key| !key.is_retired)
            .ok_or("there is no signing key")?;
        let (issuer, audience) = (config.issuer(), config.audience());
        // Time is checked below, by our clock: the library would ask the wall clock.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[&audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        let recognise = |key: &SigningKey| Key {
            id: key.id.clone(),
            decoding: DecodingKey::from_secret(key.secret.expose()),
            validation: validation.clone(),
        };
        Ok(Self {
            header: Header {
                kid: Some(signing.id.clone()),
                ..Header::new(Algorithm::HS256)
            },
            encoding: EncodingKey::from_secret(signing.secret.expose()),
            keys: keys.iter().map(recognise).collect(),
            genuine: Cache::new(REMEMBERED),
            issuer,
            audience,
            lifetime: config.clocks.access_token,
        })
    }

    /// A new access token for a login, which it never outlives, and its end.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(
        &self,
        user: &User,
        login: &Login,
        now: Timestamp,
    ) -> Result<(String, Timestamp), jsonwebtoken::errors::Error> {
        let expires_at = login.expires_at.min(now + self.lifetime);
        let claims = Claims {
            sub: user.id.clone(),
            name: user.username.clone(),
            email: user.email.clone(),
            role: user.role.clone(),
            email_verified: user.email_verified,
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            iat: now.seconds(),
            nbf: now.seconds(),
            exp: expires_at.seconds(),
            auth_time: login.auth_time.seconds(),
            jti: id::new(now).to_string(),
            sid: login.id.clone(),
        };
        let token = jsonwebtoken::encode(&self.header, &claims, &self.encoding)?;
        Ok((token, claims.expires_at()))
    }

    /// Reads a presented token. The key is chosen by `kid`, the algorithm by the key; what the
    /// header says of its algorithm can only make the token invalid (RFC 8725, 3.1).
    pub fn read(&self, token: &str, now: Timestamp) -> Reading {
        let Some(claims) = self.verify(token) else {
            return Reading::Invalid;
        };
        let soon = now.seconds() + LEEWAY_SECONDS;
        if claims.nbf > soon || claims.iat > soon {
            Reading::Invalid
        } else if claims.expires_at() <= now {
            Reading::Expired(claims)
        } else {
            Reading::Good(claims)
        }
    }

    fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        if token.len() > LONGEST {
            return None;
        }
        if let Some(claims) = self.genuine.get(token) {
            return Some(claims);
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        let ours = header.typ.as_deref() == Some("JWT") && header.crit.is_none();
        let kid = header.kid.filter(|_| ours)?;
        let key = self.keys.iter().find(|key| key.id == kid)?;
        let read = jsonwebtoken::decode::<Claims>(token, &key.decoding, &key.validation);
        let claims = Arc::new(read.ok()?.claims);
        self.genuine.insert(token.to_owned(), Arc::clone(&claims));
        Some(claims)
    }
}
