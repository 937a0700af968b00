//! What all pages have in common: language, theme, form token, who is signed in.

use std::borrow::Cow;

use actix_web::cookie::{Cookie, SameSite, time::Duration};
use actix_web::http::Method;
use actix_web::http::header::{ACCEPT_LANGUAGE, RETRY_AFTER};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use askama::Template;

use super::answer::Outgoing;
use super::{assets, origin};
use crate::account::Role;
use crate::app::App;
use crate::clock::Timestamp;
use crate::error::AppError;
use crate::i18n::Lang;
use crate::session::extract::{BrowserSession, app_of};
use crate::session::{Record, csrf};

/// Remembers a language chosen before signing in.
const LANGUAGE_COOKIE: &str = "gapura_language";

/// What every template gets as `page`.
pub struct Page {
    lang: Lang,
    /// `auto`, `light` or `dark`.
    pub theme: String,
    /// The form token.
    pub csrf: String,
    /// This page's path, for links that come back to it.
    pub path: String,
    /// This page's address with its query, where asking for it again changes nothing.
    here: Option<String>,
    /// Who is signed in.
    pub user: Option<PageUser>,
    /// Which of the signed-in pages this is, for the navigation.
    pub section: &'static str,
    /// What `activity.js` needs to know of the session.
    pub activity: Option<Activity>,
}

/// How somebody wants pages to be: left with the request once it is known who asks, so that an
/// error page, which nobody is named on, speaks their language and spares their eyes.
pub struct Appearance {
    pub locale: Option<String>,
    pub theme: String,
}

/// The session's clocks as a page left open follows them, in milliseconds from the page's making.
pub struct Activity {
    pub now: String,
    pub ping_interval: u128,
    pub idle_remaining: u128,
    pub session_remaining: u128,
    pub idle_lifetime: u128,
    pub session_lifetime: u128,
}

/// The signed-in person as the page's header shows them.
pub struct PageUser {
    pub id: String,
    pub name: String,
    pub username: String,
    pub initials: String,
    pub is_admin: bool,
}

impl Page {
    /// A page for this request; `session` when somebody is signed in.
    pub fn new(req: &HttpRequest, session: Option<&Record>, csrf: String) -> Self {
        let chosen = session.map(|record| (record.locale.clone(), record.theme.clone()));
        let chosen = chosen.or_else(|| {
            let extensions = req.extensions();
            let known = extensions.get::<Appearance>()?;
            Some((known.locale.clone(), known.theme.clone()))
        });
        let (locale, theme) = chosen.unwrap_or_else(|| (None, "auto".to_owned()));
        Self {
            lang: language(req, locale.as_deref()),
            theme,
            csrf,
            path: req.path().to_owned(),
            here: (*req.method() == Method::GET).then(|| req.uri().to_string()),
            section: "",
            activity: None,
            user: session.map(|record| PageUser {
                id: record.user_id.clone(),
                name: record.name.clone(),
                username: record.username.clone(),
                initials: initials(&record.name),
                is_admin: record.role == Role::Admin.name(),
            }),
        }
    }

    /// A page of somebody who is signed in.
    pub fn signed_in(
        req: &HttpRequest,
        app: &App,
        session: &BrowserSession,
        section: &'static str,
        now: Timestamp,
    ) -> Self {
        let (record, clocks) = (&session.record, &app.config.clocks);
        let activity = Activity {
            now: now.rfc3339(),
            ping_interval: clocks.ping_interval.as_millis(),
            idle_remaining: now.until(session.idle_until(app)).as_millis(),
            session_remaining: now.until(record.expires_at()).as_millis(),
            idle_lifetime: clocks.session_idle_timeout.as_millis(),
            session_lifetime: clocks.session_lifetime.as_millis(),
        };
        Self {
            section,
            activity: Some(activity),
            ..Self::new(req, Some(record), csrf::of_session(app, record))
        }
    }

    /// The language's tag.
    pub fn lang(&self) -> &'static str {
        self.lang.code()
    }

    /// The language itself.
    pub const fn language(&self) -> Lang {
        self.lang
    }

    /// Where a change of language comes back to: this page, and what was asked of it, or its path
    /// where asking again would change something.
    pub fn here(&self) -> &str {
        self.here.as_deref().unwrap_or(&self.path)
    }

    /// The text under `key`.
    pub fn t(&self, key: &str) -> Cow<'static, str> {
        self.lang.text(key)
    }

    /// The address of a static file.
    pub fn asset(&self, path: &str) -> String {
        assets::url(path)
    }

    /// A moment in words.
    pub fn when(&self, at: Timestamp, now: Timestamp) -> When {
        When {
            iso: at.rfc3339(),
            words: self.lang.relative(at, now),
            exact: self.lang.exact(at),
        }
    }
}

/// A moment: in words, with the exact time on hover.
pub struct When {
    pub iso: String,
    pub words: String,
    pub exact: String,
}

/// The language of an answer: just chosen (`?lang=`), the person's own, chosen before, the
/// browser's, English.
pub fn language(req: &HttpRequest, own: Option<&str>) -> Lang {
    let chosen =
        url::form_urlencoded::parse(req.query_string().as_bytes()).find(|(name, _)| name == "lang");
    if let Some(lang) = chosen.and_then(|(_, tag)| Lang::from_tag(&tag)) {
        remember_language(req, Some(lang));
        return lang;
    }
    let cookie = || Lang::from_tag(req.cookie(LANGUAGE_COOKIE)?.value());
    let browser = || Lang::from_accept_language(origin::header(req, ACCEPT_LANGUAGE)?);
    own.and_then(Lang::from_tag)
        .or_else(cookie)
        .or_else(browser)
        .unwrap_or_default()
}

/// Remembers a language for pages that do not know who is there; `None`: the browser's choice again.
pub fn remember_language(req: &HttpRequest, lang: Option<Lang>) {
    let cookie = Cookie::build(LANGUAGE_COOKIE, lang.map_or("", Lang::code))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(app_of(req).config.is_https())
        .max_age(Duration::days(365));
    let mut cookie = cookie.finish();
    if lang.is_none() {
        cookie.make_removal();
    }
    Outgoing::set_cookie(req, cookie);
}

/// "Too many attempts", and when to come back.
pub fn too_many(lang: Lang, retry_after: std::time::Duration) -> String {
    let seconds = i64::try_from(retry_after.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    let when = lang.relative(Timestamp::from_seconds(seconds), Timestamp::from_seconds(0));
    lang.text_with("failure.rate_limited", &[("when", &when)])
}

/// A page that tells of an error says when to come back, if that is known.
pub fn with_retry_after(mut page: HttpResponse, error: &AppError) -> HttpResponse {
    if let Some(seconds) = error.retry_after() {
        page.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    page
}

fn initials(name: &str) -> String {
    let words = name
        .split_whitespace()
        .filter_map(|word| word.chars().next());
    words.take(2).flat_map(char::to_uppercase).collect()
}

/// Renders a page.
///
/// # Errors
/// When the template fails.
pub fn render(
    template: &impl Template,
    status: actix_web::http::StatusCode,
) -> Result<HttpResponse, AppError> {
    let rendered = template
        .render()
        .map_err(|error| AppError::Internal(error.to_string()))?;
    Ok(html(rendered, status))
}

/// A page that has been rendered.
pub fn html(rendered: String, status: actix_web::http::StatusCode) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .body(rendered)
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    page: Page,
    status: u16,
    title: Cow<'static, str>,
    detail: Cow<'static, str>,
    request_id: &'a str,
    action_url: String,
    action_label: Cow<'static, str>,
}

/// The page that tells of an error, calmly.
pub fn error_page(page: Page, error: &AppError, request_id: &str) -> HttpResponse {
    let status = error.code().status();
    let name = error.code().name();
    // What may work in a moment is asked for again; the rest is left behind.
    let again = page.here.clone().filter(|_| error.retry_after().is_some());
    let template = ErrorPage {
        status: status.as_u16(),
        title: page.t(&format!("error.{name}.title")),
        detail: page.t(&format!("error.{name}.detail")),
        request_id,
        action_label: page.t(match again {
            Some(_) => "error.action.retry",
            None => "error.action.home",
        }),
        action_url: again.unwrap_or_else(|| "/".to_owned()),
        page,
    };
    render(&template, status).unwrap_or_else(|_| HttpResponse::new(status))
}
