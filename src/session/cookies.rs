//! Which of the cookies that a browser sends are ours to read. A neighbour on the same domain can
//! plant cookies beside ours, of the same name even, and they may arrive first.

use std::collections::HashMap;

use actix_web::HttpMessage;
use actix_web::cookie::{Cookie, CookieJar};
use actix_web::dev::ServiceRequest;
use actix_web::http::header::{COOKIE, HeaderValue};
use actix_web::web::Data;

use super::remember::cookie_name;
use crate::app::App;
use crate::config::Config;
use crate::login::rotation::{Purpose, TokenId};

/// The session cookie's name. One that is shared with sister hosts cannot be bound to ours.
pub fn session_name(config: &Config) -> String {
    match &config.cookie_domain {
        Some(_) if config.is_https() => "__Secure-gapura_session".to_owned(),
        Some(_) => "gapura_session".to_owned(),
        None => cookie_name(config, "gapura_session"),
    }
}

/// Leaves one session and one remember cookie at the most. Of several, forged ones do not count; of
/// several genuine ones nobody can tell which one this browser was given, so none does: a planted
/// session of somebody else's must never be taken for the person's own. What cannot be read at all
/// is dropped, since one such cookie would make every other unreadable.
pub fn sort_out(req: &mut ServiceRequest) {
    if !req.headers().contains_key(COOKIE) {
        return;
    }
    let Some(app) = req.app_data::<Data<App>>().cloned() else {
        return;
    };
    let (session, remember) = (
        session_name(&app.config),
        cookie_name(&app.config, "gapura_remember"),
    );
    let lines = req.headers().get_all(COOKIE).map(HeaderValue::as_bytes);
    let pairs: Vec<&[u8]> = lines
        .flat_map(|line| line.split(|byte| *byte == b';'))
        .collect();
    let readable = pairs.iter().filter_map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?.trim();
        Cookie::parse_encoded(pair).ok()
    });
    let readable: Vec<Cookie<'_>> = readable.collect();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for cookie in &readable {
        *seen.entry(cookie.name()).or_default() += 1;
    }
    let several = |name: &String| seen.get(name.as_str()).is_some_and(|count| *count > 1);
    if readable.len() == pairs.len() && !several(&session) && !several(&remember) {
        return;
    }
    let mut kept: Vec<String> = Vec::new();
    let single = |cookie: &&Cookie<'_>| {
        let name = cookie.name().to_owned();
        !((name == session || name == remember) && several(&name))
    };
    kept.extend(
        readable
            .iter()
            .filter(single)
            .map(|cookie| cookie.encoded().stripped().to_string()),
    );
    for name in [&session, &remember] {
        let same_name = readable
            .iter()
            .filter(|cookie| several(name) && cookie.name() == name);
        let genuine = same_name.filter_map(|cookie| {
            let stands_for = if *name == session {
                session_id(&app, cookie)?.into_bytes()
            } else {
                let token = TokenId::read(&app.secrets, Purpose::Remember, cookie.value())?;
                token.as_bytes().to_vec()
            };
            Some((stands_for, cookie))
        });
        let genuine: Vec<_> = genuine.collect();
        if let Some((first, cookie)) = genuine.first()
            && genuine.iter().all(|(other, _)| other == first)
        {
            kept.push(cookie.encoded().stripped().to_string());
        }
    }
    let value = HeaderValue::from_str(&kept.join("; "));
    req.headers_mut().remove(COOKIE);
    if let Ok(value) = value {
        req.headers_mut().insert(COOKIE, value);
    }
}

fn session_id(app: &App, cookie: &Cookie<'_>) -> Option<String> {
    let mut jar = CookieJar::new();
    jar.add_original(cookie.clone().into_owned());
    let private = jar.private(&app.secrets.cookie).get(cookie.name())?;
    Some(private.value().to_owned())
}
