//! What keys are made of.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};

use crate::config::{JwtAlgorithm, Secret};
use crate::vault::random;

/// A new secret: random bytes for HS256, otherwise a private key as PKCS#8. On a thread that may
/// block, and never within a transaction: the primes of RSA take as long as they take.
pub async fn generate(algorithm: JwtAlgorithm) -> Result<Secret<Vec<u8>>, String> {
    let made = actix_web::rt::task::spawn_blocking(move || make(algorithm)).await;
    let made = made.ok().flatten().map(Secret::new);
    made.ok_or_else(|| format!("a key for {} cannot be made", algorithm.name()))
}

fn make(algorithm: JwtAlgorithm) -> Option<Vec<u8>> {
    let rng = SystemRandom::new();
    let pkcs8 = match algorithm {
        JwtAlgorithm::Hs256 => return Some(random::<32>().to_vec()),
        JwtAlgorithm::Rs256 => {
            let pair = KeyPair::generate(KeySize::Rsa2048).ok()?;
            return Some(pair.as_der().ok()?.as_ref().to_vec());
        }
        JwtAlgorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng),
        // Version 1, without the public key: what `jsonwebtoken` understands.
        JwtAlgorithm::EdDsa => Ed25519KeyPair::generate_pkcs8v1(&rng),
    };
    Some(pkcs8.ok()?.as_ref().to_vec())
}
