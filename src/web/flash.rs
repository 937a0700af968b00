//! A notice for the next page: "saved", after the redirect that follows a form. A cookie of a minute,
//! told once; it says which of our sentences, never one of somebody else's.

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, SameSite, time::Duration};

use super::answer::Outgoing;
use super::page::Page;
use crate::session::extract::app_of;
use crate::session::remember::cookie_name;

const COOKIE: &str = "gapura_notice";

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    ProfileSaved,
    /// And how many other logins that ended.
    PasswordChanged(usize),
}

impl Notice {
    fn to_value(self) -> String {
        match self {
            Self::ProfileSaved => "profile_saved".to_owned(),
            Self::PasswordChanged(ended) => format!("password_changed.{ended}"),
        }
    }

    fn from_value(value: &str) -> Option<Self> {
        match value.split_once('.') {
            None if value == "profile_saved" => Some(Self::ProfileSaved),
            Some(("password_changed", ended)) => Some(Self::PasswordChanged(ended.parse().ok()?)),
            _ => None,
        }
    }

    fn sentence(self, page: &Page) -> String {
        match self {
            Self::ProfileSaved => page.t("notice.profile_saved").into_owned(),
            Self::PasswordChanged(0) => page.t("notice.password_changed").into_owned(),
            Self::PasswordChanged(1) => page.t("notice.password_changed_one").into_owned(),
            Self::PasswordChanged(ended) => page.language().text_with(
                "notice.password_changed_many",
                &[("count", &ended.to_string())],
            ),
        }
    }
}

/// Leaves a notice for the next page that takes one.
pub fn leave(req: &HttpRequest, notice: Notice) {
    let cookie = bare(req, notice.to_value()).max_age(Duration::minutes(1));
    Outgoing::set_cookie(req, cookie.finish());
}

/// The notice left for this page, in its language; told once.
pub fn take(req: &HttpRequest, page: &Page) -> Option<String> {
    let cookie = req.cookie(&cookie_name(&app_of(req).config, COOKIE))?;
    let mut spent = bare(req, String::new()).finish();
    spent.make_removal();
    Outgoing::set_cookie(req, spent);
    Some(Notice::from_value(cookie.value())?.sentence(page))
}

fn bare(req: &HttpRequest, value: String) -> actix_web::cookie::CookieBuilder<'static> {
    let config = &app_of(req).config;
    Cookie::build(cookie_name(config, COOKIE), value)
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(config.is_https())
}
