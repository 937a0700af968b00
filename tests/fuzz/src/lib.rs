//! What each fuzz target does with its bytes: hands them to a parser of ours, and panics where the answer is not one that the parser
//! may give. Where it can be told another way what is right, it is.

use std::sync::LazyLock;
use std::time::Duration;

use actix_web::cookie::{Cookie, CookieJar};
use actix_web::dev::Payload;
use actix_web::http::Uri;
use actix_web::http::header::{
    AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use actix_web::test::TestRequest;
use actix_web::{FromRequest, HttpRequest, ResponseError};
use aws_lc_rs::{hmac, signature};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gapura::account::password::{self, Weakness};
use gapura::account::{self, is_invisible};
use gapura::activity::http::AskedOfApi;
use gapura::admin::api::Search;
use gapura::clock::Timestamp;
use gapura::config::{Config, JwtAlgorithm, Secret};
use gapura::error::{AppError, FieldErrors};
use gapura::i18n::Lang;
use gapura::keys::{Entry, SigningKey};
use gapura::login::rotation::{Purpose, TokenId};
use gapura::realtime::protocol::Incoming;
use gapura::session::cookies::{self as session_cookies, session_name};
use gapura::session::remember::cookie_name;
use gapura::token::jwt::{Jwt, Reading};
use gapura::token::personal::{Candidate, Draft};
use gapura::token::refresh;
use gapura::vault::Secrets;
use gapura::web::input::{self, Check, FormFields, Query};
use gapura::web::origin;
use gapura::web::paging::{MOST, Paging};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;
use url::Url;

/// A target, by the name of its file in `targets/` and of its folder in `seeds/`.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("access_tokens", access_tokens),
    ("opaque_tokens", opaque_tokens),
    ("cookies", cookies),
    ("next", next),
    ("settings", settings),
    ("client", client),
    ("language", language),
    ("input", input),
    ("names", names),
    ("passwords", passwords),
    ("socket", socket),
];

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

static SECRETS: LazyLock<Secrets> =
    LazyLock::new(|| Secrets::derive(&Secret::new((0..32).rev().map(|n| n * 7).collect())));

fn config(settings: &[(&str, &str)]) -> Config {
    let settings = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_sources("", settings).expect("settings that can be right")
}

/// The first line, and the rest.
fn line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// A genuine text with a piece of it replaced: where, how much, and by what.
fn spliced(genuine: &str, data: &[u8]) -> String {
    let ([at, cut], put) = data.split_first_chunk().unwrap_or((&[0, 0], &[]));
    let at = usize::from(*at) * genuine.len() / 256;
    let end = genuine.len().min(at + usize::from(*cut));
    [
        &genuine[..at],
        &String::from_utf8_lossy(put),
        &genuine[end..],
    ]
    .concat()
}

/// A request with that header, if it can stand in one.
fn with_header(name: HeaderName, value: &[u8]) -> Option<HttpRequest> {
    let value = HeaderValue::from_bytes(value).ok()?;
    Some(
        TestRequest::default()
            .insert_header((name, value))
            .to_http_request(),
    )
}

// --- Access tokens ---------------------------------------------------------------------------------------------------

const HMAC_KEY: [u8; 32] = *b"nobody knows 32 bytes of a test.";
const HMAC_ID: &str = "0199f0c1-2345-7abc-8def-0123456789ab";
const ED_ID: &str = "0199f0c1-2345-7abc-8def-0123456789ac";

/// A reader, and a genuine token of each of its keys.
struct Signed {
    jwt: Jwt,
    tokens: Vec<String>,
    issuer: String,
}

fn part(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

/// With the key that the reader knows by [`HMAC_ID`].
fn signed(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &HMAC_KEY),
        message.as_bytes(),
    );
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
    let config = config(&[("GAPURA_PUBLIC_URL", "https://gate.example")]);
    let seed: Vec<u8> = (0..32).collect();
    let pair = signature::Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key");
    let pkcs8 = pair.to_pkcs8v1().expect("a key").as_ref().to_vec();
    let key = |id: &str, algorithm, secret| SigningKey {
        entry: Entry {
            id: id.to_owned(),
            algorithm,
            signs_from: Timestamp::from_seconds(0),
            signs_until: None,
        },
        secret: Secret::new(secret),
    };
    let keys = vec![
        key(HMAC_ID, JwtAlgorithm::Hs256, HMAC_KEY.to_vec()),
        key(ED_ID, JwtAlgorithm::EdDsa, pkcs8),
    ];
    let issuer = config.issuer();
    let now = NOW.seconds();
    let claims = json!({
        "sub": "0199f0c1-0000-7abc-8def-0123456789ab", "name": "ada", "email": "ada@example.org", "role": "user", "email_verified": true,
        "iss": issuer, "aud": issuer, "iat": now, "nbf": now, "exp": now + 1800, "auth_time": now, "jti": "j", "sid": "s",
    });
    let claims = claims.to_string();
    let by_hmac = signed(
        &json!({"typ": "JWT", "alg": "HS256", "kid": HMAC_ID}).to_string(),
        &claims,
    );
    let message = format!(
        "{}.{}",
        part(&json!({"typ": "JWT", "alg": "EdDSA", "kid": ED_ID}).to_string()),
        part(&claims)
    );
    let by_ed = format!(
        "{message}.{}",
        BASE64_URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()))
    );
    Signed {
        jwt: Jwt::new(&config, keys, NOW).expect("a reader"),
        tokens: vec![by_hmac, by_ed],
        issuer,
    }
});

/// JWTs, and the header they come in. The first byte says how the rest is meant.
pub fn access_tokens(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    let ours = &*SIGNED;
    match way % 4 {
        // As it comes.
        0 => assert!(
            matches!(ours.jwt.read(&text, NOW), Reading::Invalid),
            "nobody signed {text:?}"
        ),
        // One of ours, with a piece replaced.
        way @ (1 | 2) => {
            let genuine = &ours.tokens[usize::from(way - 1)];
            let text = spliced(genuine, rest);
            let is_good = matches!(ours.jwt.read(&text, NOW), Reading::Good(_));
            assert_eq!(is_good, text == *genuine, "{text:?}");
        }
        // Our key under a header and claims that are not ours: on the first line and on the second.
        _ => {
            let (header, claims) = line(&text);
            let token = signed(header, claims);
            judge_signed(&ours.jwt.read(&token, NOW), header, claims, &ours.issuer);
        }
    }
    bearer(rest);
}

fn judge_signed(reading: &Reading, header: &str, claims: &str, issuer: &str) {
    let (Reading::Good(read) | Reading::Expired(read)) = reading else {
        return;
    };
    let header: Value = serde_json::from_str(header).expect("a header");
    let claims: Value = serde_json::from_str(claims).expect("claims");
    assert!(
        header["alg"] == "HS256" && header["typ"] == "JWT" && header["kid"] == HMAC_ID,
        "{header}"
    );
    assert!(header.get("crit").is_none_or(Value::is_null), "{header}");
    assert!(
        claims["iss"] == *issuer && claims["aud"] == *issuer,
        "{claims}"
    );
    assert!(
        claims["sub"] == read.sub.as_str() && claims["sid"] == read.sid.as_str(),
        "{claims}"
    );
    let (now, of) = (NOW.seconds(), |name: &str| {
        claims[name].as_i64().expect("a number")
    });
    assert!(of("nbf") <= now + 5 && of("iat") <= now + 5, "{claims}");
    assert_eq!(
        matches!(reading, Reading::Good(_)),
        of("exp") > now,
        "{claims}"
    );
}

/// `Authorization`, by bytes.
fn bearer(value: &[u8]) {
    let Some(req) = with_header(AUTHORIZATION, value) else {
        return;
    };
    // What is read stands in the header as it is, behind the scheme and one space.
    if let Some(token) = origin::bearer(&req) {
        let (scheme, rest) = value.split_at(6);
        assert!(scheme.eq_ignore_ascii_case(b"bearer"));
        assert_eq!(rest, format!(" {token}").as_bytes());
    }
    let two = TestRequest::default()
        .append_header((AUTHORIZATION, value))
        .append_header((AUTHORIZATION, "Bearer x"));
    assert_eq!(origin::bearer(&two.to_http_request()), None);
}

// --- Refresh, remember and personal tokens ---------------------------------------------------------------------------

/// CRC-32 (IEEE 802.3), bit by bit, in base 62.
fn checksum(text: &str) -> String {
    let fold = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    };
    let mut rest = !text.bytes().fold(u32::MAX, fold);
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[rest as usize % 62];
        rest /= 62;
    }
    String::from_utf8(digits.to_vec()).expect("digits")
}

/// Whether a personal token without its checksum has its shape: `<id>|gpr_<40 characters>`.
fn has_personal_shape(body: &str) -> bool {
    let of_uuid = |(at, c): (usize, char)| {
        if [8, 13, 18, 23].contains(&at) {
            c == '-'
        } else {
            c.is_ascii_hexdigit()
        }
    };
    let Some((id, secret)) = body.split_once("|gpr_") else {
        return false;
    };
    id.chars().count() == 36
        && id.chars().enumerate().all(of_uuid)
        && secret.chars().count() == 40
        && secret
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}

/// Tokens that are no JWTs. The first byte says how the rest is meant.
pub fn opaque_tokens(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else {
        return;
    };
    let purposes = [Purpose::Refresh, Purpose::Remember];
    let text = String::from_utf8_lossy(rest);
    match way % 4 {
        // As it comes.
        0 => {
            assert!(
                purposes
                    .iter()
                    .all(|purpose| TokenId::read(&SECRETS, *purpose, &text).is_none()),
                "{text:?}"
            );
            let (body, sum) = text
                .split_at_checked(text.len().saturating_sub(6))
                .unwrap_or_default();
            let is_one = has_personal_shape(body) && checksum(body) == sum;
            assert_eq!(
                Candidate::read(&SECRETS, &text).is_some(),
                is_one,
                "{text:?}"
            );
        }
        // One of ours, with a piece replaced; of one kind is never of the other.
        way @ (1 | 2) => {
            let purpose = purposes[usize::from(way - 1)];
            let token = TokenId::from_stored(purpose, &[7; 22]).expect("an id");
            let genuine = token.to_token(&SECRETS);
            let text = spliced(genuine.expose(), rest);
            for asked in purposes {
                let read = TokenId::read(&SECRETS, asked, &text);
                assert_eq!(
                    read.is_some(),
                    asked == purpose && text == genuine.expose(),
                    "{text:?}"
                );
                assert!(read.is_none_or(|read| read.to_token(&SECRETS).expose() == text));
            }
        }
        // What may be a personal token, with the right checksum.
        _ => {
            let read = Candidate::read(&SECRETS, &format!("{text}{}", checksum(&text)));
            assert_eq!(read.is_some(), has_personal_shape(&text), "{text:?}");
        }
    }
}

// --- Cookies ---------------------------------------------------------------------------------------------------------

/// An installation, and cookies of it: two genuine ones of each name.
struct Baker {
    config: Config,
    genuine: Vec<(String, [String; 2])>,
}

static BAKERS: LazyLock<Vec<Baker>> = LazyLock::new(|| {
    let url = ("GAPURA_PUBLIC_URL", "https://gate.example");
    let settings: [&[(&str, &str)]; 3] = [
        &[],
        &[url],
        &[url, ("GAPURA_COOKIE_DOMAIN", "gate.example")],
    ];
    let baker = |settings: &&[(&str, &str)]| {
        let config = config(settings);
        let session = |id: &str| {
            let mut jar = CookieJar::new();
            jar.private_mut(&SECRETS.cookie)
                .add(Cookie::new(session_name(&config), id.to_owned()));
            let sealed = jar.get(&session_name(&config)).expect("the cookie").clone();
            let pair = sealed.encoded().stripped().to_string();
            pair.split_once('=').expect("a pair").1.to_owned()
        };
        let token = |purpose, id| {
            let token = TokenId::from_stored(purpose, &[id; 22]).expect("an id");
            token.to_token(&SECRETS).expose().to_owned()
        };
        let genuine = vec![
            (session_name(&config), [session("one"), session("two")]),
            (
                cookie_name(&config, "gapura_remember"),
                [1, 2].map(|id| token(Purpose::Remember, id)),
            ),
            (
                refresh::COOKIE.to_owned(),
                [3, 4].map(|id| token(Purpose::Refresh, id)),
            ),
        ];
        Baker { config, genuine }
    };
    settings.iter().map(baker).collect()
});

/// `Cookie`, a header a line. `{0}` to `{5}` stand for genuine values, `{s}`, `{r}` and `{f}` for the names of session, remember and
/// refresh cookie.
pub fn cookies(data: &[u8]) {
    for baker in &*BAKERS {
        let mut data = data.to_vec();
        for (index, (name, values)) in baker.genuine.iter().enumerate() {
            let letter = ["s", "r", "f"][index];
            data = replaced(&data, format!("{{{letter}}}").as_bytes(), name.as_bytes());
            for (second, value) in values.iter().enumerate() {
                data = replaced(
                    &data,
                    format!("{{{}}}", index * 2 + second).as_bytes(),
                    value.as_bytes(),
                );
            }
        }
        let values = data
            .split(|byte| *byte == b'\n')
            .map(HeaderValue::from_bytes);
        let mut headers = HeaderMap::new();
        values
            .flatten()
            .for_each(|value| headers.append(COOKIE, value));
        sort_out(baker, headers);
    }
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn sort_out(baker: &Baker, mut headers: HeaderMap) {
    // As a browser means them: a name is bytes, and only spaces and tabs around a pair are none of it.
    let mut sent: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for value in headers.get_all(COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let blank = |byte: &u8| [b' ', b'\t'].contains(byte);
            let start = pair
                .iter()
                .position(|byte| !blank(byte))
                .unwrap_or(pair.len());
            let end = pair
                .iter()
                .rposition(|byte| !blank(byte))
                .map_or(start, |at| at + 1);
            let pair = &pair[start..end];
            if let Some(at) = pair.iter().position(|byte| *byte == b'=') {
                sent.push((pair[..at].to_vec(), pair[at + 1..].to_vec()));
            }
        }
    }
    session_cookies::sort_out(&mut headers, &baker.config, &SECRETS);
    let mut req = TestRequest::default();
    for value in headers.get_all(COOKIE) {
        req = req.append_header((COOKIE, value.clone()));
    }
    let req = req.to_http_request();
    let left: Vec<Cookie<'_>> = req.cookies().expect("what is left can be read").clone();
    for cookie in &left {
        // A browser binds some names to their host; a name that only we read as such a one it binds to nothing.
        assert!(
            sent.iter()
                .any(|(name, _)| name == cookie.name().as_bytes()),
            "{cookie} was not sent"
        );
    }
    for (name, genuine) in &baker.genuine {
        // Another text may stand for the same: `%41` is `A`.
        let meant = |value: &[u8]| {
            let pair = format!("x={}", std::str::from_utf8(value).ok()?);
            Some(Cookie::parse_encoded(pair).ok()?.value().to_owned())
        };
        let of_name = sent.iter().filter(|(known, _)| known == name.as_bytes());
        let values: Vec<_> = of_name.filter_map(|(_, value)| meant(value)).collect();
        let [one, two] = genuine.each_ref().map(|value| {
            let value = meant(value.as_bytes()).expect("a genuine value");
            values.contains(&value).then_some(value)
        });
        let left: Vec<_> = left.iter().filter(|cookie| cookie.name() == name).collect();
        assert!(left.len() <= 1, "{left:?}");
        let left = left.first().map(|cookie| cookie.value().to_owned());
        match (one, two) {
            (Some(_), Some(_)) => assert_eq!(left, None, "one of two genuine ones was taken"),
            (None, None) => {}
            (one, two) => assert_eq!(left, one.or(two), "{name}"),
        }
    }
    let once: Vec<_> = headers.get_all(COOKIE).cloned().collect();
    session_cookies::sort_out(&mut headers, &baker.config, &SECRETS);
    assert_eq!(once, headers.get_all(COOKIE).cloned().collect::<Vec<_>>());
}

// --- Where to go next ------------------------------------------------------------------------------------------------

/// As WHATWG's URL standard has browsers read an address: whether it leads from a page of ours to a path of ours.
fn stays(address: &str) -> bool {
    let is_edge = |c: char| c <= ' ';
    let seen: String = address
        .trim_matches(is_edge)
        .chars()
        .filter(|c| !"\t\n\r".contains(*c))
        .collect();
    let seen = seen.replace('\\', "/");
    seen.starts_with('/') && !seen.starts_with("//")
}

/// `next`, and an address of which only the path counts.
pub fn next(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    judge_next(&text);
    if let Some(path) = input::path_of_url(&text) {
        judge_next(&path);
    }
}

fn judge_next(text: &str) {
    let path = origin::local_path(text);
    assert!(path == text || path == "/dashboard", "{path:?}");
    assert!(
        path.bytes().all(|byte| (0x21..0x7f).contains(&byte)) && !path.contains(['\\', '"']),
        "{path:?}"
    );
    assert!(HeaderValue::from_str(path).is_ok(), "{path:?}");
    // As it stands, and as somebody between us and the browser may have decoded it.
    let decoded: Vec<u8> = percent_decoded(path);
    for address in [path, &String::from_utf8_lossy(&decoded)] {
        assert!(stays(address), "{address:?} of {text:?}");
        for base in ["https://ours.example/login", "http://localhost:8080/a/b?c"] {
            let base = Url::parse(base).expect("a URL");
            let target = base
                .join(address)
                .unwrap_or_else(|error| panic!("{address:?}: {error}"));
            assert_eq!(target.origin(), base.origin(), "{address:?} of {text:?}");
            // Nor does what is left of it, once its dots are gone.
            let left = target.path();
            let leads_on = stays(left) && !["/login", "/logout"].contains(&left);
            assert!(leads_on || address != path, "{target} of {text:?}");
        }
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

// --- Settings --------------------------------------------------------------------------------------------------------

/// The text of a settings file and, behind a line `---`, variables, one a line. Without such a line also a duration.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (file, rest) = text.split_once("\n---\n").unwrap_or((&text, ""));
    let variables: Vec<(String, String)> = rest
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let read = Config::from_sources(file, variables.clone());
    let told = match &read {
        Ok(config) => {
            judge_config(config);
            format!("{config:?}")
        }
        Err(problems) => {
            assert!(
                !problems.is_empty() && problems.iter().all(|problem| !problem.trim().is_empty())
            );
            problems.join("\n")
        }
    };
    for secret in variables
        .iter()
        .filter_map(|(name, value)| secret_in(name, value))
    {
        assert!(
            text.matches(secret).count() > 1 || !told.contains(secret),
            "{secret:?} is told in {told:?}"
        );
    }
    if rest.is_empty() {
        judge_duration(&text);
    }
}

/// The part of a value that nobody may see, where it is long enough to be none by chance.
fn secret_in<'a>(name: &str, value: &'a str) -> Option<&'a str> {
    let value = value.trim();
    let secret = match name {
        "GAPURA_APP_KEY" | "GAPURA_ADMIN_PASSWORD" => value,
        "DATABASE_URL" | "REDIS_URL" => {
            value
                .split_once("://")?
                .1
                .rsplit_once('@')?
                .0
                .split_once(':')?
                .1
        }
        _ => return None,
    };
    // Made of words of ours it would be found everywhere.
    (secret.len() >= 8 && secret.bytes().any(|byte| byte.is_ascii_digit())).then_some(secret)
}

fn judge_config(config: &Config) {
    let clocks = &config.clocks;
    let [second, decade] = [1, 3650 * 86_400].map(Duration::from_secs);
    let lives = [
        clocks.session_idle_timeout,
        clocks.session_lifetime,
        clocks.access_token,
        clocks.refresh_token,
        clocks.login_lifetime,
    ];
    assert!(lives.iter().all(|life| (second..=decade).contains(life)));
    assert!(
        clocks.session_idle_timeout <= clocks.session_lifetime
            && clocks.refresh_threshold < clocks.access_token
    );
    assert!(
        clocks.refresh_grace <= Duration::from_secs(300)
            && clocks.refresh_token <= clocks.login_lifetime
    );
    assert!(
        (1..=1024).contains(&config.workers) && (8..=1024).contains(&config.password_min_length)
    );
    let origin_of = |text: &str| {
        Url::parse(text)
            .expect("a URL")
            .origin()
            .ascii_serialization()
    };
    for known in &config.cors_origins {
        assert_eq!(origin_of(known), *known);
    }
    if let Some(url) = &config.public_url {
        assert_eq!(
            config.issuer(),
            origin_of(url.as_str()),
            "more than a scheme and a host"
        );
    }
    if let Some(domain) = &config.cookie_domain {
        let is_of_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        assert!(
            domain.chars().all(is_of_host)
                && domain
                    .trim_start_matches('.')
                    .starts_with(|c: char| c != '.'),
            "{domain:?}"
        );
    }
    assert!(config.app_keys.iter().all(|key| key.expose().len() >= 32));
    // What is shown is what is in force: read again it says the same.
    let shown = config
        .shown
        .iter()
        .filter(|(_, value, from)| from != "default" && !value.contains("[hidden]"));
    let shown = shown.map(|(name, value, _)| ((*name).to_owned(), value.clone()));
    if config
        .shown
        .iter()
        .all(|(_, value, _)| !value.contains("[hidden]"))
    {
        let again = Config::from_sources("", shown).expect("as before");
        let [before, after] = [config, &again].map(|config| Config {
            shown: Vec::new(),
            // About what is no setting, and so not shown.
            doubts: Vec::new(),
            ..config.clone()
        });
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }
}

fn judge_duration(text: &str) {
    let set = [("GAPURA_AUDIT_RETENTION".to_owned(), text.to_owned())];
    let text = text.trim();
    let (number, unit) = text.split_at(
        text.len()
            .saturating_sub(1)
            .min(text.floor_char_boundary(text.len().saturating_sub(1))),
    );
    let unit = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, seconds)| *seconds);
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = unit.filter(|_| is_number).and_then(|unit: u64| {
        number
            .parse::<u32>()
            .ok()
            .map(|number| u64::from(number) * unit)
    });
    let expected = match seconds {
        _ if text.is_empty() => Some(400 * 86_400),
        seconds => seconds.filter(|seconds| (1..=3650 * 86_400).contains(seconds)),
    };
    let read = Config::from_sources("", set).map(|config| config.audit_retention.as_secs());
    assert_eq!(read.as_ref().ok(), expected.as_ref(), "{text:?}: {read:?}");
}

// --- Who asks --------------------------------------------------------------------------------------------------------

static BEHIND_PROXY: LazyLock<Config> =
    LazyLock::new(|| config(&[("GAPURA_TRUSTED_PROXIES", "10.0.0.0/8,fd00::/8")]));

/// `X-Forwarded-For` on the first line, `User-Agent` on the second, then what an app calls itself.
pub fn client(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let [forwarded, agent, name] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let (Ok(agent), Ok(forwarded)) = (
        HeaderValue::from_bytes(agent),
        HeaderValue::from_bytes(forwarded),
    ) else {
        return;
    };
    let from = |peer: &str, lines: &[&HeaderValue]| {
        let mut req = TestRequest::default().peer_addr(peer.parse().expect("an address"));
        req = req.insert_header((USER_AGENT, agent.clone()));
        for line in lines {
            req = req.append_header(("x-forwarded-for", (*line).clone()));
        }
        req.to_http_request()
    };
    let address = |peer: &str, lines: &[&HeaderValue]| {
        origin::address(&from(peer, lines), &BEHIND_PROXY).to_string()
    };
    assert_eq!(
        address("192.0.2.7:1", &[&forwarded]),
        "192.0.2.7",
        "somebody who is no proxy was believed"
    );
    let _ = address("10.0.0.1:1", &[&forwarded]);
    // A proxy adds the address it sees, on the same line or on one of its own: whatever came before, that is who asks.
    let appended = [forwarded.as_bytes(), b", 198.51.100.4"].concat();
    let appended = HeaderValue::from_bytes(&appended).expect("a header");
    let (own, proxy) = (
        HeaderValue::from_static("198.51.100.4"),
        HeaderValue::from_static("fd00::1"),
    );
    for lines in [
        vec![&appended],
        vec![&forwarded, &own],
        vec![&appended, &proxy],
    ] {
        assert_eq!(address("10.0.0.1:1", &lines), "198.51.100.4", "{lines:?}");
    }
    let name = String::from_utf8_lossy(name);
    for told in [None, Some(&*name)] {
        let device = origin::client(&from("192.0.2.7:1", &[]), &BEHIND_PROXY, told).device;
        assert!(
            device.chars().count() <= 100 && !device.chars().any(is_invisible),
            "{device:?}"
        );
        if let Some((browser, system)) = origin::browser_and_system(&device) {
            assert_eq!(format!("{browser} on {system}"), device);
        }
    }
}

/// `Accept-Language`.
pub fn language(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = Lang::from_accept_language(&text);
    if let Some(expected) = preferred(&text) {
        assert_eq!(read, expected, "{text:?}");
    }
    if let Some(lang) = Lang::from_tag(&text) {
        assert!(Lang::from_tag(lang.code()) == Some(lang));
    }
}

/// The language that a header asks for, if it is written as RFC 9110 (12.5.4) has it and not endless.
#[expect(
    clippy::option_option,
    reason = "no answer, and the answer that there is none"
)]
fn preferred(text: &str) -> Option<Option<Lang>> {
    let blank = [' ', '\t'];
    let mut best: (u32, Option<Lang>) = (0, None);
    if text.split(',').count() > 20 {
        return None;
    }
    for member in text.split(',').map(|member| member.trim_matches(blank)) {
        if member.is_empty() {
            continue;
        }
        let (tag, weight) = member
            .split_once(';')
            .map_or((member, None), |(tag, weight)| {
                (tag.trim_end_matches(blank), Some(weight))
            });
        let weight = match weight.map(|weight| weight.trim_matches(blank)) {
            None => 1000,
            Some(weight) => thousandths(
                weight
                    .strip_prefix("q=")
                    .or_else(|| weight.strip_prefix("Q="))?,
            )?,
        };
        let is_tag = |part: &str| {
            (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        if tag != "*" && !tag.split('-').all(is_tag) {
            return None;
        }
        let spoken = match tag.split('-').next()?.to_ascii_lowercase().as_str() {
            "en" => Some(Lang::English),
            "id" | "in" => Some(Lang::Indonesian),
            _ => None,
        };
        if spoken.is_some() && weight > best.0 {
            best = (weight, spoken);
        }
    }
    Some(best.1)
}

/// `0.5` is 500; nothing is more than `1.000`.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = rest.len() <= 3 && rest.bytes().all(|byte| byte.is_ascii_digit());
    let number: u32 = format!("{rest:0<3}").parse().ok().filter(|_| is_digits)?;
    match whole {
        "0" => Some(number),
        "1" if number == 0 => Some(1000),
        _ => None,
    }
}

// --- Bodies and queries ----------------------------------------------------------------------------------------------

/// A body with a field of each sort that there is.
#[derive(Deserialize)]
struct Body {
    name: String,
    #[serde(default, deserialize_with = "input::given")]
    note: Option<String>,
    #[serde(default, deserialize_with = "input::given_whole")]
    days: Option<u64>,
}

impl Check for Body {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_required(errors, "name", &self.name, 20);
        if let Some(note) = &self.note {
            input::check_text(errors, "note", note, 40);
        }
    }
}

fn judge_refusal(error: &AppError) -> u16 {
    let status = error.status_code().as_u16();
    match error {
        AppError::Invalid(errors) => {
            assert_eq!(status, 422);
            assert!(
                !errors.0.is_empty()
                    && errors
                        .0
                        .values()
                        .flatten()
                        .all(|sentence| !sentence.is_empty())
            );
        }
        _ => assert_eq!(status, 400, "{error:?}"),
    }
    status
}

/// What stands behind the `?` of an address, if it can stand there.
fn query<T: FromRequest<Future = std::future::Ready<Result<T, AppError>>>>(
    text: &str,
) -> Option<Result<T, AppError>> {
    let address = format!("/?{text}");
    address.parse::<Uri>().ok()?;
    let req = TestRequest::default().uri(&address).to_http_request();
    Some(T::from_request(&req, &mut Payload::None).into_inner())
}

/// A body as JSON, and a query or form.
pub fn input(data: &[u8]) {
    // Of bytes serde_json would not look whether they are text where it leaves something out.
    let json = std::str::from_utf8(data).ok();
    let is_json = json.is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    match input::json::<Body>(data) {
        Ok(body) => {
            assert!(
                is_json
                    && !body.name.trim().is_empty()
                    && body.name.chars().count() <= 20
                    && !body.name.chars().any(is_invisible)
            );
            // A number of no use to anybody may be too large for a value.
            if let Ok(value) = serde_json::from_slice::<Value>(data) {
                assert_eq!(value["name"], body.name);
                assert_eq!(value.get("note"), body.note.map(Value::from).as_ref());
                assert_eq!(
                    value.get("days").and_then(Value::as_f64),
                    body.days.map(|days| days as f64)
                );
            }
        }
        Err(error) => assert!(judge_refusal(&error) != 400 || !is_json, "{error:?}"),
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match query::<Paging>(text) {
        // What stands behind a `#` is no part of it.
        None => return,
        Some(_) if text.contains('#') => return,
        Some(Ok(paging)) => {
            assert!((1..=MOST).contains(&paging.limit));
            let is_cursor = |cursor: &String| {
                !cursor.trim().is_empty()
                    && cursor.chars().count() <= 64
                    && !cursor.chars().any(is_invisible)
            };
            assert!(paging.after.as_ref().is_none_or(is_cursor));
        }
        Some(Err(error)) => assert_eq!(judge_refusal(&error), 422),
    }
    for refusal in [
        query::<Query<Search>>(text).and_then(Result::err),
        query::<Query<AskedOfApi>>(text).and_then(Result::err),
    ] {
        assert!(refusal.is_none_or(|error| judge_refusal(&error) == 422));
    }
    if let Some(Ok(Query(fields))) = query::<Query<FormFields>>(text) {
        // As the URL standard reads it.
        let read: Vec<_> = url::form_urlencoded::parse(data).into_owned().collect();
        let ours: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(ours, read);
        match fields.parse::<Body>() {
            Ok(body) => assert_eq!(fields.get("name"), Some(body.name.as_str())),
            Err(error) => assert_eq!(judge_refusal(&error), 422),
        }
    }
}

// --- Names and passwords ---------------------------------------------------------------------------------------------

/// Nobody sees these, and the second half turns a text around (Unicode's `Bidi_Control`).
const UNSEEN: [char; 14] = [
    '\u{ad}', '\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}', '\u{200b}', '\u{2060}', '\u{feff}',
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2066}',
];

/// What people call themselves and their tokens.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(name) = account::username(&text) {
        assert!(name.is_ascii() && (3..=64).contains(&name.len()) && !name.contains('@'));
        assert_eq!(account::username(&name).as_ref(), Ok(&name));
        assert_eq!(account::username(&text.to_ascii_uppercase()), Ok(name));
    }
    // What is kept is kept in one form: giving it again finds it.
    if let Ok(email) = account::email(&text) {
        assert_eq!(account::email(&email).as_ref(), Ok(&email), "{text:?}");
        assert!(email.nfc().eq(email.chars()), "{email:?}");
        let composed: [String; 2] = [text.nfc().collect(), text.nfd().collect()];
        for form in composed {
            assert_eq!(account::email(&form).as_ref(), Ok(&email), "{text:?}");
        }
        judge_seen(&email);
    }
    if let Ok(name) = account::display_name(&text) {
        assert_eq!(account::display_name(&name).as_ref(), Ok(&name), "{text:?}");
        assert_eq!(
            account::display_name(&text.nfd().collect::<String>()),
            Ok(name.clone()),
            "{text:?}"
        );
        assert!(name.chars().count() <= 100);
        judge_seen(&name);
    }
    if Draft::check(&text, None, None, Duration::from_secs(86_400)).is_ok() {
        judge_seen(text.trim());
    }
}

/// A new password on the first line, and names of the person's own.
pub fn passwords(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (text, own_names) = line(&text);
    let password = password::normalise(text);
    assert_eq!(
        password::normalise(password.expose()).expose(),
        password.expose()
    );
    assert_eq!(
        password::normalise(&text.nfd().collect::<String>()).expose(),
        password.expose()
    );
    let own_names: Vec<&str> = own_names.lines().take(3).collect();
    let judged = password::judge(&password, &own_names, 12);
    let length = password.expose().chars().count();
    assert_eq!(
        (12..=128).contains(&length),
        matches!(judged.weakness, None | Some(Weakness::Guessable)),
        "{text:?}"
    );
    assert_eq!(judged.score >= 3, judged.weakness.is_none(), "{text:?}");
}

fn judge_seen(text: &str) {
    assert!(
        !text.trim().is_empty() && !text.contains(['\r', '\n', '\0']) && !text.contains(UNSEEN),
        "{text:?}"
    );
}

// --- WebSocket messages ----------------------------------------------------------------------------------------------

/// A message of a client.
pub fn socket(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let value = serde_json::from_str::<Value>(&text);
    match Incoming::read(&text) {
        Some(message) => {
            let value = value.unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(value.is_object() && value["type"].is_string(), "{text:?}");
            match message {
                Incoming::Authenticate { token } => assert!(
                    value["type"] == "authenticate" && value["token"] == token,
                    "{text:?}"
                ),
                Incoming::Unknown => assert_ne!(value["type"], "authenticate", "{text:?}"),
            }
        }
        None => assert!(
            value.is_err()
                || value.is_ok_and(
                    |value| !value["type"].is_string() || value["type"] == "authenticate"
                ),
            "{text:?}"
        ),
    }
}
