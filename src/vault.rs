//! What the app key protects. Every secret of an installation is either derived from one root
//! secret (cookies, tokens' MACs) or stored sealed; the root itself is stored sealed under the app
//! key. So the app key can be changed without logging anybody out, and a dump of the database or of
//! Redis holds nothing that works.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac, rand};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::config::{Config, Secret, decode_app_key, is_open_to_others};

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random source answers");
    bytes
}

/// The app keys of this node: the first seals, all of them open.
pub struct AppKeys(Vec<RandomizedNonceKey>);

impl AppKeys {
    /// From the settings, or from the data dir, where one is generated if there is none yet.
    ///
    /// # Errors
    /// As [`AppKeys::load`], and when the key file cannot be written.
    pub fn load_or_make(config: &Config) -> Result<Self, String> {
        if config.app_keys.is_empty() && !key_path(config).exists() {
            make_key_file(&config.data_dir, &key_path(config))?;
        }
        Self::load(config)
    }

    /// From the settings, or from the data dir.
    ///
    /// # Errors
    /// When the key file cannot be read, is readable by others, or holds no key.
    pub fn load(config: &Config) -> Result<Self, String> {
        let keys = if config.app_keys.is_empty() {
            vec![read_key_file(&key_path(config))?]
        } else {
            config.app_keys.clone()
        };
        let keys = keys.iter().map(|key| {
            let sealing = derive(key.expose(), b"gapura seal v1");
            RandomizedNonceKey::new(&AES_256_GCM, &sealing)
                .map_err(|_| "the app key cannot be used".to_owned())
        });
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// Encrypts `plain` (AES-256-GCM); it can be opened only under the same `purpose`.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let mut sealed = plain.to_vec();
        let nonce = self.0[0]
            .seal_in_place_append_tag(Aad::from(purpose), &mut sealed)
            .expect("a short message can be sealed");
        let mut out = nonce.as_ref().to_vec();
        out.extend(sealed);
        out
    }

    /// Decrypts what [`AppKeys::seal`] made, and tells whether it should be sealed anew because an
    /// older app key opened it.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Option<(Secret<Vec<u8>>, bool)> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        self.0.iter().enumerate().find_map(|(index, key)| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut body = body.to_vec();
            let plain = key
                .open_in_place(nonce, Aad::from(purpose), &mut body)
                .ok()?;
            Some((Secret::new(plain.to_vec()), index > 0))
        })
    }
}

/// Makes the data dir, private to us.
///
/// # Errors
/// When it cannot be made.
pub fn create_data_dir(dir: &Path) -> Result<(), String> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => format!(
            "the data directory {} is no directory, or leads nowhere",
            dir.display()
        ),
        _ => format!(
            "cannot create the data directory {}: {error}",
            dir.display()
        ),
    })
}

fn key_path(config: &Config) -> PathBuf {
    config.data_dir.join("app.key")
}

fn make_key_file(data_dir: &Path, path: &Path) -> Result<(), String> {
    create_data_dir(data_dir)?;
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    // Linked into place whole, so that of two processes that start at once one key wins, and a
    // crash leaves none rather than half a one.
    let draft = data_dir.join(format!(".app.key.{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft);
    let mut file = file.map_err(told)?;
    let text = BASE64_STANDARD.encode(random::<32>());
    let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
    written.map_err(told)?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft).map_err(told)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(told(error)),
        _ => Ok(()),
    }
}

fn read_key_file(path: &Path) -> Result<Secret<Vec<u8>>, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if is_open_to_others(path) {
        return Err(told(
            &"the key can be read by others; run `chmod 600` on it, and consider it leaked",
        ));
    }
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => told(
            &"the app key is gone, and without it nobody can read what the database keeps under it; restore it \
              from your copy, or set GAPURA_APP_KEY to what it was",
        ),
        _ => told(&error),
    })?;
    decode_app_key(text.trim()).map_err(|problem| told(&problem))
}

fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"gapura")
        .extract(secret)
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("32 bytes can be derived");
    out
}

/// What is derived from the installation's root secret.
pub struct Secrets {
    /// Encrypts the session cookie.
    pub cookie: actix_web::cookie::Key,
    rotating_tokens: hmac::Key,
    forms: hmac::Key,
    session_ids: hmac::Key,
    personal_tokens: hmac::Key,
}

impl Secrets {
    /// Derives everything from the root secret.
    pub fn derive(root: &Secret<Vec<u8>>) -> Self {
        let root = root.expose();
        let mac = |purpose: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, &derive(root, purpose));
        Self {
            cookie: actix_web::cookie::Key::derive_from(&derive(root, b"session cookie v1")),
            rotating_tokens: mac(b"rotating tokens v1"),
            forms: mac(b"form tokens v1"),
            session_ids: mac(b"session ids v1"),
            personal_tokens: mac(b"personal tokens v1"),
        }
    }

    /// The MAC that makes a rotating token's id a token.
    pub fn token_mac(&self, purpose: &str, id: &[u8]) -> [u8; 32] {
        tag(&self.rotating_tokens, &[purpose.as_bytes(), b"\0", id])
    }

    /// Whether `mac` is the token's; in constant time.
    pub fn token_mac_is_valid(&self, purpose: &str, id: &[u8], mac: &[u8]) -> bool {
        let message = [purpose.as_bytes(), b"\0", id].concat();
        hmac::verify(&self.rotating_tokens, &message, mac).is_ok()
    }

    /// The token that a form carries, bound to what the browser holds.
    pub fn form_mac(&self, bound_to: &str) -> [u8; 32] {
        tag(&self.forms, &[bound_to.as_bytes()])
    }

    /// Whether `mac` is the form token bound to that; in constant time.
    pub fn form_mac_is_valid(&self, bound_to: &str, mac: &[u8]) -> bool {
        hmac::verify(&self.forms, bound_to.as_bytes(), mac).is_ok()
    }

    /// As what a personal token is stored.
    pub fn personal_token_mac(&self, token: &str) -> [u8; 32] {
        tag(&self.personal_tokens, &[token.as_bytes()])
    }

    /// Under what a session id is stored.
    pub fn session_id_hash(&self, id: &str) -> [u8; 32] {
        tag(&self.session_ids, &[id.as_bytes()])
    }
}

fn tag(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    let tag = context.sign();
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}
