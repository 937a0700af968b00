//! Which of the cookies that a browser sends are ours to read. A neighbour on the same domain can
//! plant cookies beside ours, of the same name even, and they may arrive first.

use actix_web::cookie::{Cookie, CookieJar};
use actix_web::http::header::{COOKIE, HeaderMap, HeaderValue};

use super::remember::cookie_name;
use crate::config::Config;
use crate::login::rotation::{Purpose, TokenId};
use crate::token::refresh;
use crate::vault::Secrets;

/// The session cookie's name. One that is shared with sister hosts cannot be bound to ours.
pub fn session_name(config: &Config) -> String {
    match &config.cookie_domain {
        Some(_) if config.is_https() => "__Secure-gapura_session".to_owned(),
        Some(_) => "gapura_session".to_owned(),
        None => cookie_name(config, "gapura_session"),
    }
}

/// Leaves one session, one remember and one refresh cookie at the most. Of several, forged ones do not
/// count; of several genuine ones nobody can tell which one this browser was given, so none does: a
/// planted session of somebody else's must never be taken for the person's own. What cannot be read
/// at all is dropped, since one such cookie would make every other unreadable.
pub fn sort_out(headers: &mut HeaderMap, config: &Config, secrets: &Secrets) {
    if !headers.contains_key(COOKIE) {
        return;
    }
    let (session, remember) = (session_name(config), cookie_name(config, "gapura_remember"));
    let stands_for = |cookie: &Cookie<'_>| {
        let token = |purpose| {
            let token = TokenId::read(secrets, purpose, cookie.value())?;
            Some(token.as_bytes().to_vec())
        };
        match cookie.name() {
            name if name == session => session_id(secrets, cookie).map(String::into_bytes),
            name if name == remember => token(Purpose::Remember),
            _ => token(Purpose::Refresh),
        }
    };
    let lines = headers.get_all(COOKIE).map(HeaderValue::as_bytes);
    let pairs: Vec<&[u8]> = lines
        .flat_map(|line| line.split(|byte| *byte == b';'))
        .collect();
    let ours = [session.as_str(), &remember, refresh::COOKIE];
    if is_settled(&pairs, ours) {
        return;
    }
    let mut kept: Vec<_> = pairs.iter().filter_map(|pair| readable(pair)).collect();
    let mut settled = kept.len() == pairs.len();
    for name in ours {
        let (same, others): (Vec<_>, Vec<_>) = kept
            .into_iter()
            .partition(|(_, cookie)| cookie.name() == name);
        kept = others;
        if same.len() < 2 {
            kept.extend(same);
            continue;
        }
        settled = false;
        let genuine = same
            .into_iter()
            .filter_map(|found| Some((stands_for(&found.1)?, found)));
        let mut genuine: Vec<_> = genuine.collect();
        genuine.dedup_by(|one, other| one.0 == other.0);
        if let [_] = &genuine[..] {
            kept.extend(genuine.into_iter().map(|(_, found)| found));
        }
    }
    if settled {
        return;
    }
    let kept: Vec<&[u8]> = kept.iter().map(|(pair, _)| pair.as_bytes()).collect();
    let value = HeaderValue::from_bytes(&kept.join(&b"; "[..]));
    headers.remove(COOKIE);
    if let Ok(value) = value {
        headers.insert(COOKIE, value);
    }
}

/// Whether there is nothing to sort out, as nearly always: each pair is plainly readable, and no two have
/// the same name of `ours`. Told at a glance; where that is not enough, the cookies are read.
fn is_settled(pairs: &[&[u8]], ours: [&str; 3]) -> bool {
    let mut seen = [false; 3];
    pairs.iter().all(|pair| {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
            return false;
        };
        let name = name.trim_ascii_start();
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let again = ours
            .iter()
            .position(|known| known.as_bytes() == name)
            .is_some_and(|index| std::mem::replace(&mut seen[index], true));
        !again && !name.is_empty() && name.iter().all(is_plain) && value.is_ascii()
    })
}

/// A cookie, and how it was sent. Its name must be written as it is meant: to a browser the name of
/// `%5F_Host-x`, or of one behind a wide space, has no prefix, and any neighbour may plant it.
fn readable(pair: &[u8]) -> Option<(&str, Cookie<'_>)> {
    let pair = std::str::from_utf8(pair).ok()?.trim_matches([' ', '\t']);
    let (name, _) = pair.split_once('=')?;
    let cookie = Cookie::parse_encoded(pair).ok()?;
    (cookie.name() == name).then_some((pair, cookie))
}

fn session_id(secrets: &Secrets, cookie: &Cookie<'_>) -> Option<String> {
    let mut jar = CookieJar::new();
    jar.add_original(cookie.clone().into_owned());
    let private = jar.private(&secrets.cookie).get(cookie.name())?;
    Some(private.value().to_owned())
}
