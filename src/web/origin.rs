//! Where a request comes from: the address behind trusted proxies, the device in words, and whether
//! a change was asked for by one of our own pages.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN, USER_AGENT};
use url::Url;

use crate::account::is_invisible;
use crate::app::App;
use crate::config::Config;
use crate::error::{AppError, Code};
use crate::login::Client;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Between browser and system.
const ON: &str = " on ";
/// As woothee names those that people use.
const BROWSERS: [&str; 12] = [
    "Chrome",
    "Edge",
    "Firefox",
    "Google Search App",
    "Internet Explorer",
    "Opera",
    "Safari",
    "SamsungBrowser",
    "Sleipnir",
    "Vivaldi",
    "Webview",
    "Yandex Browser",
];
const SYSTEMS: [&str; 9] = [
    "Android", "BSD", "ChromeOS", "Linux", "iOS", "iPad", "iPhone", "iPod", "macOS",
];

/// A device's name is cut to this many characters.
const LONGEST_DEVICE: usize = 100;

/// The value of a header, if it is text and there is just one.
pub fn header(req: &HttpRequest, name: impl Into<HeaderName>) -> Option<&str> {
    single(req.headers(), name)
}

/// As [`header`], where there is no whole request.
pub fn single(headers: &HeaderMap, name: impl Into<HeaderName>) -> Option<&str> {
    let mut values = headers.get_all(name.into());
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// What stands behind `Authorization: Bearer`. The scheme's name is case-insensitive (RFC 9110, 11.1).
/// Of two headers nobody knows which one a proxy in front has looked at.
pub fn bearer(req: &HttpRequest) -> Option<&str> {
    let mut values = req.headers().get_all(AUTHORIZATION);
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    // Not by `to_str`, which takes longer for a JWT than all that is done with it.
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// The caller's address: the peer's, or the last in `X-Forwarded-For` that is not a trusted proxy.
pub fn address(req: &HttpRequest, config: &Config) -> IpAddr {
    let peer = req
        .peer_addr()
        .map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip().to_canonical());
    if !config.is_trusted_proxy(&peer) {
        return peer;
    }
    let headers = req.headers().get_all("x-forwarded-for");
    // By bytes: what a client wrote at the front must not hide what a proxy added behind it.
    let hops: Vec<&[u8]> = headers
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .collect();
    let mut caller = peer;
    for hop in hops.iter().rev() {
        let hop = std::str::from_utf8(hop).unwrap_or_default();
        let Ok(ip) = hop.trim().parse::<IpAddr>() else {
            break;
        };
        caller = ip.to_canonical();
        if !config.is_trusted_proxy(&caller) {
            break;
        }
    }
    caller
}

/// Whether a trusted proxy says that the browser came to it by plain http.
pub fn came_by_http(req: &HttpRequest, config: &Config) -> bool {
    let peer = req.peer_addr().map(|peer| peer.ip().to_canonical());
    let trusted = peer.is_some_and(|peer| config.is_trusted_proxy(&peer));
    let scheme = header(req, HeaderName::from_static("x-forwarded-proto"));
    trusted && scheme.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("http"))
}

/// Device and address of the caller; `device_name` is what an app calls itself.
pub fn client(req: &HttpRequest, config: &Config, device_name: Option<&str>) -> Client {
    let device = device_name.map_or_else(|| device_in_words(req), str::to_owned);
    let device: String = device
        .chars()
        .filter(|c| !is_invisible(*c))
        .take(LONGEST_DEVICE)
        .collect();
    Client {
        device: device.trim().to_owned(),
        ip: address(req, config).to_string(),
    }
}

fn device_in_words(req: &HttpRequest) -> String {
    let agent = header(req, USER_AGENT).unwrap_or_default();
    if let Some(found) = woothee::parser::Parser::new().parse(agent)
        && found.os != "UNKNOWN"
    {
        let system = match found.os {
            "Mac OSX" => "macOS",
            system => system,
        };
        return match found.name {
            "UNKNOWN" => system.to_owned(),
            browser => format!("{browser}{ON}{system}"),
        };
    }
    let product = agent.split(['/', ' ']).next().unwrap_or_default();
    product.to_owned()
}

/// Browser and system of a device's name, if it is one that we gave ("Chrome on Linux"), and not an
/// app's own ("Backup on Sunday").
pub fn browser_and_system(device: &str) -> Option<(&str, &str)> {
    let (browser, system) = device.split_once(ON)?;
    let ours = BROWSERS.contains(&browser)
        && (SYSTEMS.contains(&system) || system.starts_with("Windows "));
    ours.then_some((browser, system))
}

/// Whether that is our own origin: the public URL's, or whatever host the browser believes to be
/// talking to. Without a public URL we cannot know whether a proxy in front of us speaks TLS.
pub fn is_own(req: &HttpRequest, config: &Config, origin: &str) -> bool {
    match &config.public_url {
        Some(url) => origin == url.origin().ascii_serialization(),
        None => {
            let host = origin.strip_prefix("http://");
            let host = host.or_else(|| origin.strip_prefix("https://"));
            host.is_some() && host == header(req, HOST)
        }
    }
}

/// Refuses a change that another site or origin asked for. `Sec-Fetch-Site` decides, then `Origin`;
/// where a client sends neither, the form token alone decides (OWASP CSRF Prevention).
///
/// # Errors
/// 403 `csrf_failed`.
pub fn refuse_foreign(req: &HttpRequest, app: &App) -> Result<(), AppError> {
    let tells = |name: HeaderName| req.headers().contains_key(name);
    let says_nothing = !tells(SEC_FETCH_SITE) && !tells(ORIGIN);
    let typed = header(req, SEC_FETCH_SITE).is_some_and(|site| site == "none");
    if says_nothing || typed || is_surely_ours(req, &app.config) {
        Ok(())
    } else {
        Err(Code::CsrfFailed.into())
    }
}

/// Whether the browser says that one of our own pages asked for this.
pub fn is_surely_ours(req: &HttpRequest, config: &Config) -> bool {
    if req.headers().contains_key(SEC_FETCH_SITE) {
        return header(req, SEC_FETCH_SITE) == Some("same-origin");
    }
    header(req, ORIGIN).is_some_and(|origin| is_own(req, config, origin))
}

/// Whether a person opened this page, rather than a script, a prefetch or a page left open. Browsers
/// that tell (Fetch Metadata) tell it truly; from others a page counts.
pub fn is_opened_by_person(req: &HttpRequest) -> bool {
    let headers = req.headers();
    if headers.contains_key("sec-purpose") || headers.contains_key("purpose") {
        return false;
    }
    match headers.get(SEC_FETCH_MODE) {
        Some(mode) => {
            mode == "navigate"
                && headers
                    .get("sec-fetch-user")
                    .is_some_and(|user| user == "?1")
        }
        None => true,
    }
}

/// As [`is_opened_by_person`], where nothing said is nothing that a person did.
pub fn is_surely_opened_by_person(req: &HttpRequest) -> bool {
    req.headers().contains_key(SEC_FETCH_MODE) && is_opened_by_person(req)
}

/// Whether a page is being opened, by its person or by a browser that brings its tabs back, and not
/// fetched by a script. Where a browser does not tell, our own scripts do.
pub fn is_page_load(req: &HttpRequest) -> bool {
    match req.headers().get(SEC_FETCH_MODE) {
        Some(mode) => mode == "navigate",
        None => !req.headers().contains_key("purpose"),
    }
}

/// A path of ours to go to after signing in, or the dashboard. Never another site: backslashes,
/// `//`, encoded slashes at the front, control characters and schemes are refused.
pub fn local_path(next: &str) -> &str {
    const HOME: &str = "/dashboard";
    let lower = next
        .get(..16.min(next.len()))
        .unwrap_or(next)
        .to_ascii_lowercase();
    let plain = next
        .bytes()
        .all(|byte| (0x21..0x7f).contains(&byte) && byte != b'\\' && byte != b'"');
    let slashes = [
        "//", "/%2f", "/%5c", "/./", "/..", "/%2e", "/%09", "/%0a", "/%0d",
    ];
    let sneaky = slashes.iter().any(|start| lower.starts_with(start));
    if !plain || sneaky || !next.starts_with('/') || next.len() > 2000 {
        return HOME;
    }
    // As a browser asks for it: without its dots.
    match Url::parse(&format!("http://localhost{next}")) {
        Ok(url)
            if !url.path().starts_with("//") && !["/login", "/logout"].contains(&url.path()) =>
        {
            next
        }
        _ => HOME,
    }
}

#[cfg(test)]
mod tests {
    use super::{browser_and_system, local_path};

    #[test]
    fn next_is_followed_only_to_a_local_path() {
        for good in ["/", "/dashboard", "/dashboard?x=1&y=%2F", "/a/b#c"] {
            assert_eq!(local_path(good), good);
        }
        for bad in [
            "",
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/%2f%2fevil.example",
            "/%2Fevil",
            "/%5cevil",
            "javascript:alert(1)",
            "/a\r\nSet-Cookie: x=1",
            "/\tevil",
            " /dashboard",
            "evil",
            "user@evil.example",
            "/..//evil.example",
            "/login",
            "/logout?x=1",
        ] {
            assert_eq!(local_path(bad), "/dashboard", "{bad:?}");
        }
    }

    #[test]
    fn only_a_name_that_we_gave_is_taken_apart() {
        for (device, expected) in [
            ("Chrome on Linux", Some(("Chrome", "Linux"))),
            ("Safari on macOS", Some(("Safari", "macOS"))),
            ("Edge on Windows 10", Some(("Edge", "Windows 10"))),
            ("Backup on Sunday", None),
            ("Backup on Linux", None),
            ("Chrome on the left", None),
            ("Firefox", None),
        ] {
            assert_eq!(browser_and_system(device), expected);
        }
    }
}
