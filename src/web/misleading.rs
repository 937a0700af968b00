//! What looks wrong about how requests get here. A proxy that does not pass on who asks, or a public
//! URL that no browser shows, breaks nothing at once: limits then count everybody as one, and forms
//! and sockets are refused for no reason that a person could see. The log says so while people sign
//! in, each at most once in ten minutes.

use std::sync::Mutex;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{HOST, HeaderName, ORIGIN};
use tokio::time::Instant;

use super::origin::{self, header};
use crate::app::App;

const TOLD_EVERY: Duration = Duration::from_secs(600);

/// When each was told last.
#[derive(Default)]
pub struct Misleading(Mutex<[Option<Instant>; 5]>);

enum Oddity {
    /// A peer that is no trusted proxy says whom it speaks for.
    NotTrusted,
    /// A trusted proxy does not say whom it speaks for.
    NobodyNamed,
    /// A trusted proxy does not say how the browser came, where that ought to be by https.
    SchemeUnknown,
    /// A trusted proxy says that the browser came by plain http, where that ought to be by https.
    ByHttp,
    /// The browser takes a page for ours, and the public URL says otherwise.
    OtherOrigin,
}

impl Misleading {
    /// Looks at a request by which somebody signs in.
    pub fn look(&self, req: &HttpRequest, app: &App) {
        let tells = |name| req.headers().contains_key(HeaderName::from_static(name));
        let Some(peer) = req.peer_addr().map(|peer| peer.ip().to_canonical()) else {
            return;
        };
        let trusted = app.config.is_trusted_proxy(&peer);
        let forwarded = tells("x-forwarded-for");
        if forwarded && !trusted && self.is_due(Oddity::NotTrusted) {
            tracing::warn!(
                %peer,
                "X-Forwarded-For is not believed, since this peer is not in GAPURA_TRUSTED_PROXIES: \
                 if it is your proxy, everybody seems to come from its address"
            );
        }
        if trusted && !forwarded && self.is_due(Oddity::NobodyNamed) {
            tracing::warn!(
                %peer,
                "a trusted proxy sends no X-Forwarded-For: everybody seems to come from its address"
            );
        }
        let scheme = tells("x-forwarded-proto");
        if trusted && app.config.is_https() && !scheme && self.is_due(Oddity::SchemeUnknown) {
            tracing::warn!(
                %peer,
                "a trusted proxy sends no X-Forwarded-Proto: who comes by plain http cannot be sent to https"
            );
        }
        self.look_for_origin(req, app);
    }

    /// A request was refused or sent away since it came to a trusted proxy by plain http.
    pub fn came_by_http(&self, req: &HttpRequest) {
        if self.is_due(Oddity::ByHttp) {
            let peer = req.peer_addr().map(|peer| peer.ip().to_string());
            tracing::warn!(
                peer,
                "X-Forwarded-Proto says http where the public URL says https: pages are sent to https and all else is \
                 refused. If people do come by https, the proxy must say so"
            );
        }
    }

    fn look_for_origin(&self, req: &HttpRequest, app: &App) {
        if let Some(origin) = header(req, ORIGIN)
            && header(req, HeaderName::from_static("sec-fetch-site"))
                .is_none_or(|site| site == "same-origin")
            && !origin::is_own(req, &app.config, origin)
            && !app.config.cors_origins.iter().any(|known| known == origin)
            && self.is_due(Oddity::OtherOrigin)
        {
            let ours = app.config.public_url.as_ref();
            let ours = ours.map(|url| url.origin().ascii_serialization());
            let ours = ours.or_else(|| header(req, HOST).map(str::to_owned));
            tracing::warn!(
                browser_shows = origin,
                expected = ours,
                "a page was opened at another address than GAPURA_PUBLIC_URL (or Host, where it is unset) \
                 says: its forms and sockets may be refused"
            );
        }
    }

    fn is_due(&self, oddity: Oddity) -> bool {
        let Ok(mut told) = self.0.lock() else {
            return false;
        };
        let last = &mut told[oddity as usize];
        let due = last.is_none_or(|last| last.elapsed() > TOLD_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
