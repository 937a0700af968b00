//! Access tokens: JWTs (RFC 7519) that are checked without any I/O. The keys are read from the
//! database by a task of its own ([`follow`]), which puts a new ring in the place of the old.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::account::User;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, JwtAlgorithm};
use crate::db::Db;
use crate::id;
use crate::keys::{self, SigningKey};
use crate::login::Login;
use crate::outage::Outage;
use crate::vault::AppKeys;

/// How far in the future `nbf` and `iat` may lie, since nodes' clocks differ. `exp` has no leeway.
const LEEWAY_SECONDS: i64 = 5;
/// How many tokens are remembered as genuine, about a kilobyte each. What was verified once needs no
/// second verification: its time and its end are looked at on each use all the same.
const REMEMBERED: usize = 4096;
/// How often the keys are read from the database.
const READ_EVERY: Duration = Duration::from_secs(2);
/// A node that has not read the keys for this long may lack one that signs; much shorter than
/// [`keys::SIGNS_AFTER`].
const KNOWS_FOR: Duration = Duration::from_secs(60);
/// How long others may keep a copy of the public keys. A key is published longer than that before it
/// signs.
pub const PUBLIC_FOR: Duration = Duration::from_secs(120);
/// How often the log is told of tokens that are meant for others.
const TOLD_EVERY: Duration = Duration::from_secs(600);
/// Longer than any token of ours; what is longer is not looked at.
const LONGEST: usize = 4096;

/// What an access token says.
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
    /// Whether the password was generated or is temporary: then this token opens nothing but what
    /// it takes to change it. Left out where it is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_change_password: bool,
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
    /// Perhaps of a key that this node, cut off from the database, has not heard of.
    Unsure,
}

/// A key, ready for use. `kid` leads to the key, and the key to its algorithm.
struct Key {
    source: SigningKey,
    header: Header,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    /// What may be published of it; nothing of a symmetric key.
    public: Option<Jwk>,
}

impl Key {
    fn new(source: SigningKey, validation: &Validation) -> Result<Self, Error> {
        let secret = source.secret.expose();
        let (algorithm, encoding) = match source.entry.algorithm {
            JwtAlgorithm::Hs256 => (Algorithm::HS256, EncodingKey::from_secret(secret)),
            JwtAlgorithm::Rs256 => {
                // The library takes PKCS#8 of RSA only as PEM.
                let (begin, end) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
                let pem = format!("{begin}\n{}\n{end}\n", BASE64_STANDARD.encode(secret));
                let encoding = EncodingKey::from_rsa_pem(pem.as_bytes())?;
                (Algorithm::RS256, encoding)
            }
            JwtAlgorithm::Es256 => (Algorithm::ES256, EncodingKey::from_ec_der(secret)),
            JwtAlgorithm::EdDsa => (Algorithm::EdDSA, EncodingKey::from_ed_der(secret)),
        };
        let mut jwk = Jwk::from_encoding_key(&encoding, algorithm)?;
        jwk.common.key_id = Some(source.entry.id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self {
            header: Header {
                kid: Some(source.entry.id.clone()),
                ..Header::new(algorithm)
            },
            encoding,
            decoding: DecodingKey::from_jwk(&jwk)?,
            validation: Validation {
                algorithms: vec![algorithm],
                ..validation.clone()
            },
            public: (algorithm != Algorithm::HS256).then_some(jwk),
            source,
        })
    }
}

/// The keys of the moment, and the tokens that they were seen to have signed: these are forgotten
/// with the keys.
struct Ring {
    /// The one that begins to sign last first.
    keys: Vec<Key>,
    genuine: Cache<String, Arc<Claims>>,
}

/// Why a token is not genuine.
enum Fault {
    UnknownKey,
    /// One of our keys has signed it, but for somebody else.
    Misdirected,
    Other,
}

impl Ring {
    fn verify(&self, token: &str) -> Result<Arc<Claims>, Fault> {
        if token.len() > LONGEST {
            return Err(Fault::Other);
        }
        if let Some(claims) = self.genuine.get(token) {
            return Ok(claims);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Fault::Other)?;
        let ours = header.typ.as_deref() == Some("JWT") && header.crit.is_none();
        let kid = header.kid.filter(|_| ours).ok_or(Fault::Other)?;
        let mut keys = self.keys.iter();
        let key = keys.find(|key| key.source.entry.id == kid);
        let key = key.ok_or(Fault::UnknownKey)?;
        let read = jsonwebtoken::decode::<Claims>(token, &key.decoding, &key.validation);
        let claims = read.map_err(|error| match error.kind() {
            ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => Fault::Misdirected,
            _ => Fault::Other,
        });
        let claims = Arc::new(claims?.claims);
        self.genuine.insert(token.to_owned(), Arc::clone(&claims));
        Ok(claims)
    }
}

/// Signs and reads access tokens.
pub struct Jwt {
    ring: ArcSwap<Ring>,
    /// When the keys were last read, in milliseconds since 1970.
    read_at: AtomicI64,
    /// When it was last told that a token was meant for somebody else, likewise.
    told_misdirected: AtomicI64,
    validation: Validation,
    issuer: String,
    audience: String,
    lifetime: Duration,
}

impl Jwt {
    /// With the installation's keys.
    ///
    /// # Errors
    /// When there is no key, or one cannot be used.
    pub fn new(config: &Config, keys: Vec<SigningKey>, now: Timestamp) -> Result<Self, String> {
        let (issuer, audience) = (config.issuer(), config.audience());
        // Time is checked below, by our clock: the library would ask the wall clock.
        let mut validation = Validation {
            validate_exp: false,
            validate_nbf: false,
            ..Validation::default()
        };
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[&audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        let ring = make_ring(keys, &validation)?;
        Ok(Self {
            ring: ArcSwap::from_pointee(ring),
            read_at: AtomicI64::new(now.millis()),
            told_misdirected: AtomicI64::new(0),
            validation,
            issuer,
            audience,
            lifetime: config.clocks.access_token,
        })
    }

    /// Reads the keys anew.
    ///
    /// # Errors
    /// When the database cannot be asked, or a key cannot be opened or used. What is known stays.
    pub async fn read_keys(
        &self,
        db: &Db,
        app_keys: &AppKeys,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<(), String> {
        let ring = self.ring.load_full();
        let known: Vec<_> = ring.keys.iter().map(|key| key.source.clone()).collect();
        let read = keys::read(db, app_keys, &known, lifetime, now).await;
        let (keys, complete) = read.map_err(|error| error.to_string())?;
        if keys != known {
            let ring = make_ring(keys, &self.validation)?;
            self.ring.store(Arc::new(ring));
        }
        if !complete {
            return Err("GAPURA_APP_KEY of this node does not open one of them".to_owned());
        }
        self.read_at.store(now.millis(), Ordering::Relaxed);
        Ok(())
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
    ) -> Result<(String, Timestamp), Error> {
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
            must_change_password: user.must_change_password,
        };
        let ring = self.ring.load();
        let key = keys::signer(&ring.keys, |key| &key.source.entry, now);
        let key = key.ok_or(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat)?;
        let token = jsonwebtoken::encode(&key.header, &claims, &key.encoding)?;
        Ok((token, claims.expires_at()))
    }

    /// Reads a presented token. The key is chosen by `kid`, the algorithm by the key; what the
    /// header says of its algorithm can only make the token invalid (RFC 8725, 3.1).
    pub fn read(&self, token: &str, now: Timestamp) -> Reading {
        let claims = match self.ring.load().verify(token) {
            Ok(claims) => claims,
            Err(Fault::UnknownKey) if self.is_cut_off(now) => return Reading::Unsure,
            Err(Fault::Misdirected) => {
                self.tell_misdirected(now);
                return Reading::Invalid;
            }
            Err(_) => return Reading::Invalid,
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

    /// Tells that nodes may not agree on who they are, now and then.
    fn tell_misdirected(&self, now: Timestamp) {
        let told = Timestamp::from_millis(self.told_misdirected.load(Ordering::Relaxed));
        if now.since(told) > TOLD_EVERY {
            self.told_misdirected.store(now.millis(), Ordering::Relaxed);
            tracing::warn!(
                issuer = self.issuer,
                audience = self.audience,
                "a token that a key of ours has signed names another issuer or audience than this node's: nodes whose \
                 GAPURA_PUBLIC_URL or GAPURA_JWT_AUDIENCE differ refuse each other's tokens"
            );
        }
    }

    fn is_cut_off(&self, now: Timestamp) -> bool {
        let read_at = Timestamp::from_millis(self.read_at.load(Ordering::Relaxed));
        now.since(read_at) > KNOWS_FOR
    }

    /// The ids of the keys whose tokens are recognised at the moment.
    pub fn key_ids(&self) -> Vec<Uuid> {
        let ring = self.ring.load();
        let ids = ring.keys.iter().map(|key| &key.source.entry.id);
        ids.filter_map(|id| Uuid::try_parse(id).ok()).collect()
    }

    /// The public keys of tokens that may be alive or soon will be (RFC 7517, 5).
    pub fn public_keys(&self, now: Timestamp) -> JwkSet {
        let ring = self.ring.load();
        // A little longer, since clocks differ.
        let lifetime = self.lifetime + KNOWS_FOR;
        let live = ring.keys.iter();
        let live = live.filter(|key| key.source.entry.covers(lifetime, now));
        JwkSet {
            keys: live.filter_map(|key| key.public.clone()).collect(),
        }
    }
}

/// The id of the key that a token says has signed it.
pub fn key_id(token: &str) -> Option<Uuid> {
    let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
    Uuid::try_parse(&kid).ok()
}

fn make_ring(keys: Vec<SigningKey>, validation: &Validation) -> Result<Ring, String> {
    if keys.is_empty() {
        return Err("there is no signing key".to_owned());
    }
    let ready = keys.into_iter().map(|source| {
        let id = source.entry.id.clone();
        Key::new(source, validation)
            .map_err(|error| format!("the signing key {id} cannot be used: {error}"))
    });
    Ok(Ring {
        keys: ready.collect::<Result<_, _>>()?,
        genuine: Cache::new(REMEMBERED),
    })
}

/// Reads the keys anew for as long as the process lives, so that they can be rotated and revoked
/// beside it. `lifetime` is the longest life of a login.
pub async fn follow(
    jwt: Arc<Jwt>,
    db: Db,
    app_keys: Arc<AppKeys>,
    lifetime: Duration,
    clock: Arc<dyn Clock>,
) {
    let mut outage = Outage::new(
        "the signing keys cannot be read",
        "the signing keys are read again",
    );
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let read = jwt.read_keys(&db, &app_keys, lifetime, clock.now()).await;
        outage.note(&read);
    }
}
