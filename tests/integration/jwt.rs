//! Access tokens by every algorithm: what is genuine, what is forged, and what others can verify.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use gapura::config::JwtAlgorithm;
use gapura::keys;
use gapura::vault::AppKeys;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Backend, TestApp};
use crate::token_api::{Pair, claims_of, good, refused};

/// Signs what it is told to with the server's own key, or another.
struct Forger {
    key: EncodingKey,
    algorithm: Algorithm,
    kid: String,
    secret: Vec<u8>,
    claims: Value,
}

fn algorithm(of: JwtAlgorithm) -> Algorithm {
    of.name().parse().expect("an algorithm")
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

/// The public key of a private one, as PKCS#8 has both.
fn public_of(of: JwtAlgorithm, secret: &[u8]) -> Option<PublicKeyX509Der<'static>> {
    match of {
        JwtAlgorithm::Hs256 => None,
        JwtAlgorithm::Rs256 => RsaKeyPair::from_pkcs8(secret)
            .unwrap()
            .public_key()
            .as_der()
            .ok(),
        JwtAlgorithm::Es256 => {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, secret);
            pair.unwrap().public_key().as_der().ok()
        }
        JwtAlgorithm::EdDsa => {
            let pair = Ed25519KeyPair::from_pkcs8(secret);
            pair.unwrap().public_key().as_der().ok()
        }
    }
}

impl Forger {
    async fn of(app: &TestApp, of: JwtAlgorithm, pair: &Pair) -> Self {
        let config = &app.app.config;
        let app_keys = Arc::new(AppKeys::load(config).expect("app keys"));
        let lifetime = config.clocks.login_lifetime;
        let keys = keys::load(&app.app.db, &app_keys, of, lifetime, app.now()).await;
        let signing = keys.expect("keys").signing.remove(0);
        let secret = signing.secret.expose().clone();
        Self {
            key: match of {
                JwtAlgorithm::Hs256 => EncodingKey::from_secret(&secret),
                JwtAlgorithm::Rs256 => {
                    EncodingKey::from_rsa_pem(pem("PRIVATE KEY", &secret).as_bytes()).unwrap()
                }
                JwtAlgorithm::Es256 => EncodingKey::from_ec_der(&secret),
                JwtAlgorithm::EdDsa => EncodingKey::from_ed_der(&secret),
            },
            algorithm: algorithm(of),
            kid: signing.entry.id,
            secret,
            claims: claims_of(&pair.access),
        }
    }

    /// A token of these very bytes, truly signed.
    fn raw(&self, header: &str, claims: &str) -> String {
        signed(&self.key, self.algorithm, header, claims)
    }

    fn header(&self) -> Value {
        json!({"typ": "JWT", "alg": self.algorithm, "kid": self.kid})
    }

    fn with_header(&self, name: &str, value: Value) -> String {
        let mut header = self.header();
        header[name] = value;
        self.raw(&header.to_string(), &self.claims.to_string())
    }

    fn with_claim(&self, name: &str, value: Option<Value>) -> String {
        let mut claims = self.claims.clone();
        match value {
            Some(value) => claims[name] = value,
            None => drop(claims.as_object_mut().expect("an object").remove(name)),
        }
        self.raw(&self.header().to_string(), &claims.to_string())
    }
}

fn signed(key: &EncodingKey, algorithm: Algorithm, header: &str, claims: &str) -> String {
    let text = |part: &str| BASE64_URL_SAFE_NO_PAD.encode(part);
    let message = format!("{}.{}", text(header), text(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm);
    format!("{message}.{}", signature.expect("a signature"))
}

async fn by(algorithm: JwtAlgorithm) -> TestApp {
    let setting = [("GAPURA_JWT_ALGORITHM", algorithm.name())];
    TestApp::start_with(Backend::Embedded, &setting).await
}

#[actix_web::test]
async fn a_forged_access_token_is_invalid_whatever_it_claims() {
    // Whoever follows an address in a header would knock here.
    let lure = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    lure.set_nonblocking(true).expect("a listener");
    let lure_url = format!("http://{}/keys", lure.local_addr().expect("an address"));
    for of in JwtAlgorithm::ALL {
        let app = by(of).await;
        let pair = app.log_in("ada").await;
        let forger = Forger::of(&app, of, &pair).await;
        let (header, claims) = (forger.header().to_string(), forger.claims.to_string());
        let genuine = forger.raw(&header, &claims);
        good(app.me(&genuine).await).await;
        let [head, body, signature] = genuine.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts");
        };
        let text = |part: &str| BASE64_URL_SAFE_NO_PAD.encode(part);
        let mut forged = Vec::new();
        for alg in [
            "none", "None", "NONE", "nOnE", "none ", "", "HS256", "HS384", "HS512", "RS256",
            "RS384", "PS256", "ES256", "ES384", "EdDSA", "hs256",
        ] {
            if alg == of.name() {
                continue;
            }
            let unsigned = json!({"typ": "JWT", "alg": alg, "kid": forger.kid}).to_string();
            forged.push(format!("{}.{body}.", text(&unsigned)));
            forged.push(format!("{}.{body}.{signature}", text(&unsigned)));
            forged.push(forger.with_header("alg", json!(alg)));
        }
        // The public key taken for the secret of an HMAC, in every form that it may have.
        let mut secrets = vec![
            Vec::new(),
            b"secret".to_vec(),
            b"gapura".to_vec(),
            vec![0; 32],
            forger.kid.clone().into_bytes(),
        ];
        if let Some(der) = public_of(of, &forger.secret) {
            let der = der.as_ref();
            let jwks = good(
                app.call(Method::GET, "/.well-known/jwks.json")
                    .send()
                    .await
                    .unwrap(),
            );
            let jwk = jwks.await["keys"][0].clone();
            for member in ["n", "x", "y"] {
                if let Some(part) = jwk[member].as_str() {
                    secrets.push(part.as_bytes().to_vec());
                    secrets.push(BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64"));
                }
            }
            secrets.push(jwk.to_string().into_bytes());
            secrets.push(der.to_vec());
            secrets.push(BASE64_STANDARD.encode(der).into_bytes());
            let pem = pem("PUBLIC KEY", der);
            secrets.push(pem.trim_end().as_bytes().to_vec());
            secrets.push(pem.into_bytes());
        }
        // Signed with a key that came along, is known to everybody, or belongs to nobody.
        for secret in secrets {
            let key = EncodingKey::from_secret(&secret);
            let jwk = json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(&secret)});
            for (name, value) in [
                ("cty", json!("JWT")),
                ("jwk", jwk),
                ("jku", json!(lure_url)),
                ("x5u", json!(lure_url)),
                ("x5c", json!(["AA=="])),
            ] {
                for alg in ["HS256", of.name()] {
                    let mut header = forger.header();
                    header["alg"] = json!(alg);
                    header[name] = value.clone();
                    let header = header.to_string();
                    forged.push(signed(&key, Algorithm::HS256, &header, &claims));
                }
            }
        }
        // By a key of the right kind that is not ours, and comes along.
        let own = Ed25519KeyPair::generate()
            .expect("a key")
            .to_pkcs8v1()
            .expect("a key");
        let own_key = EncodingKey::from_ed_der(own.as_ref());
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&own_key, Algorithm::EdDSA);
        for header in [
            json!({"typ": "JWT", "alg": "EdDSA", "kid": forger.kid}),
            json!({"typ": "JWT", "alg": "EdDSA", "kid": forger.kid, "jwk": jwk.expect("a JWK")}),
        ] {
            let header = header.to_string();
            forged.push(signed(&own_key, Algorithm::EdDSA, &header, &claims));
        }
        for kid in [
            json!(null),
            json!(""),
            json!(["a"]),
            json!([forger.kid]),
            json!({}),
            json!(1),
            json!("' OR '1'='1"),
            json!("root"),
            json!("../../app.key"),
            json!("/dev/null"),
            json!(lure_url),
            json!("x".repeat(2000)),
            json!("x".repeat(10_240)),
            json!(format!("{}\0", forger.kid)),
            json!(forger.kid.to_uppercase()),
        ] {
            forged.push(forger.with_header("kid", kid));
        }
        let without_kid = json!({"typ": "JWT", "alg": of.name()}).to_string();
        forged.push(forger.raw(&without_kid, &claims));
        forged.push(forger.with_header("crit", json!(["exp"])));
        forged.push(forger.with_header("crit", json!(["b64"])));
        forged.push(forger.with_header("crit", json!([])));
        for other in ["at+jwt", "jwt", "JWS", "logout+jwt"] {
            forged.push(forger.with_header("typ", json!(other)));
        }
        // Five parts, padding, whitespace, missing parts, flipped bits.
        forged.push(format!("{genuine}.AAAA.AAAA"));
        forged.push(format!("{head}.{body}"));
        forged.push(format!("{head}.{body}.{signature}="));
        forged.push(format!("{head}=.{body}.{signature}"));
        forged.push(format!("{head}.{body}=.{signature}"));
        forged.push(format!(" {genuine}"));
        forged.push(format!("{head}. {body}.{signature}"));
        forged.push(format!("{head}.{body}\t.{signature}"));
        forged.push(format!("{genuine},{genuine}"));
        forged.push(format!("{head}.{body}.{}", "A".repeat(signature.len())));
        forged.push(format!(
            "{head}.{body}.{}",
            &signature[..signature.len() - 4]
        ));
        forged.push(format!("{head}.{body}.{signature}AAAA"));
        forged.push(format!("{head}.{}.{signature}", text("{}")));
        forged.push("..".to_owned());
        forged.push("x".to_owned());
        forged.push("x".repeat(8000));
        forged.push(forger.raw(&header, &claims.replacen('{', "{\"role\":\"admin\",", 1)));
        forged.push(forger.raw(&header, &claims.replacen('{', "{\"exp\":9999999999,", 1)));
        forged.push(forger.raw(&header, &claims.replacen('{', "{\"sub\":\"x\",", 1)));
        forged.push(forger.raw(&header.replacen('{', "{\"alg\":\"none\",", 1), &claims));
        let other_kid = header.replacen('{', "{\"kid\":\"other\",", 1);
        forged.push(forger.raw(&other_kid, &claims));
        forged.push(forger.raw(&header, "[]"));
        forged.push(forger.raw(&header, "not JSON"));
        for name in [
            "iss",
            "aud",
            "exp",
            "nbf",
            "iat",
            "sub",
            "sid",
            "jti",
            "auth_time",
            "role",
        ] {
            forged.push(forger.with_claim(name, None));
            forged.push(forger.with_claim(name, Some(json!(null))));
            forged.push(forger.with_claim(name, Some(json!({}))));
        }
        forged.push(forger.with_claim("exp", Some(json!("9999999999"))));
        forged.push(forger.with_claim("exp", Some(json!(-1.5))));
        forged.push(forger.with_claim("exp", Some(json!(1e300))));
        forged.push(forger.with_claim("iss", Some(json!("http://evil.example"))));
        forged.push(forger.with_claim("iss", Some(json!("http://localhost/"))));
        forged.push(forger.with_claim("aud", Some(json!("evil"))));
        forged.push(forger.with_claim("aud", Some(json!([]))));
        for name in ["nbf", "iat"] {
            let ahead = |seconds| Some(json!(app.now().seconds() + seconds));
            forged.push(forger.with_claim(name, ahead(6)));
            good(app.me(&forger.with_claim(name, ahead(5))).await).await;
        }
        // Another kind of token in its place.
        forged.push(pair.refresh.clone());
        for forged in &forged {
            let answer = app.me(forged).await;
            assert_eq!(answer.status(), 401, "{of:?} {forged}");
            refused(answer, 401, "token_invalid").await;
        }
        // A login that does not exist has surely not begun; and nobody says more of it.
        let strange = app.me(&forger.with_claim("sid", Some(json!("x")))).await;
        refused(strange, 401, "token_revoked").await;
        for headers in [
            ["Bearer a", "Bearer b"],
            [&format!("Bearer {genuine}"), "Bearer b"],
        ] {
            let mut request = app.call(Method::GET, "/api/v1/me");
            for value in headers {
                request = request.header("authorization", value);
            }
            let answer = request.send().await.expect("an answer");
            refused(answer, 401, "token_invalid").await;
        }
        let bare = app.call(Method::GET, "/api/v1/me").send().await;
        refused(bare.expect("an answer"), 401, "token_missing").await;
        // Not a moment of leeway at the end.
        let end = forger.claims["exp"].as_i64().expect("seconds") * 1000;
        let left = u64::try_from(end - app.now().millis()).expect("a while");
        app.advance(Duration::from_millis(left - 1));
        good(app.me(&genuine).await).await;
        app.advance(Duration::from_millis(1));
        refused(app.me(&genuine).await, 401, "token_expired").await;
    }
    let knock = lure
        .accept()
        .expect_err("nobody follows an address in a header");
    assert_eq!(knock.kind(), std::io::ErrorKind::WouldBlock);
}

#[actix_web::test]
async fn others_verify_an_access_token_by_the_published_keys() {
    for of in JwtAlgorithm::ALL {
        let app = by(of).await;
        let access = app.log_in("ada").await.access;
        let answer = app.call(Method::GET, "/.well-known/jwks.json").send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "application/jwk-set+json");
        assert_eq!(answer.headers()["cache-control"], "public, max-age=120");
        let body = good(answer).await;
        let keys = body["keys"].as_array().expect("keys");
        if of == JwtAlgorithm::Hs256 {
            // Its key is a secret.
            assert_eq!(body, json!({"keys": []}));
            continue;
        }
        let [key] = &keys[..] else {
            panic!("one key: {body}");
        };
        let members: Vec<&str> = key
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let expected = match of {
            JwtAlgorithm::Rs256 => &["alg", "e", "kid", "kty", "n", "use"][..],
            JwtAlgorithm::Es256 => &["alg", "crv", "kid", "kty", "use", "x", "y"],
            _ => &["alg", "crv", "kid", "kty", "use", "x"],
        };
        let mut members = members;
        members.sort_unstable();
        // Public parts only.
        assert_eq!(members, expected);
        assert_eq!(
            (&key["use"], &key["alg"]),
            (&json!("sig"), &json!(of.name()))
        );
        let kinds = match of {
            JwtAlgorithm::Rs256 => (json!("RSA"), Value::Null),
            JwtAlgorithm::Es256 => (json!("EC"), json!("P-256")),
            _ => (json!("OKP"), json!("Ed25519")),
        };
        assert_eq!((key["kty"].clone(), key["crv"].clone()), kinds);

        let set: JwkSet = serde_json::from_value(body.clone()).expect("a key set");
        let header = jsonwebtoken::decode_header(&access).expect("a header");
        let jwk = set
            .find(header.kid.as_deref().expect("kid"))
            .expect("its key");
        let mut validation = Validation::new(algorithm(of));
        validation.set_audience(&["http://localhost"]);
        validation.set_issuer(&["http://localhost"]);
        let key = DecodingKey::from_jwk(jwk).expect("a key");
        let read = jsonwebtoken::decode::<Value>(&access, &key, &validation).expect("genuine");
        assert_eq!(read.claims["name"], "ada");
        let (message, _) = access.rsplit_once('.').unwrap();
        let unsigned = format!("{message}.{}", "A".repeat(86));
        assert!(jsonwebtoken::decode::<Value>(&unsigned, &key, &validation).is_err());
    }
}
