//! `GET /dashboard`: who I am, the session's clocks, and what happened lately.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;

use super::ClockPicture;
use crate::app::App;
use crate::audit::{self, Event};
use crate::error::AppError;
use crate::login::Cause;
use crate::session::extract::BrowserSession;
use crate::web::page::{Page, When, render};

/// How many events the overview shows.
const EVENTS_SHOWN: i64 = 8;

#[derive(Template)]
#[template(path = "dashboard.html")]
struct Dashboard {
    device: String,
    address: String,
    started: When,
    idle_until: When,
    hard_end: When,
    remember_until: Option<When>,
    clocks: ClockPicture,
    events: Vec<EventRow>,
    page: Page,
}

struct EventRow {
    /// Something that the person had better look at.
    alarming: bool,
    when: When,
    text: String,
    device: String,
    address: String,
}

/// `GET /dashboard`.
pub async fn overview(
    req: HttpRequest,
    app: web::Data<App>,
    session: BrowserSession,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let record = &session.record;
    let user_id = record.user_id.clone();
    let events = app
        .db
        .read(move |conn| audit::of_user(conn, &user_id, EVENTS_SHOWN))
        .await?;
    let page = Page::signed_in(&req, &app, &session, "overview", now);
    let idle_until = session.idle_until(&app);
    let device = |name: &str| device(&page, name);
    let row = |event: &Event| EventRow {
        alarming: is_alarming(event),
        when: page.when(event.at, now),
        text: sentence(&page, event),
        device: device(event.device.as_deref().unwrap_or_default()),
        address: event.ip.clone().unwrap_or_default(),
    };
    let template = Dashboard {
        device: device(&record.device),
        address: record.ip.clone(),
        started: page.when(record.started_at(), now),
        idle_until: page.when(idle_until, now),
        hard_end: page.when(record.expires_at(), now),
        remember_until: record
            .remember_until()
            .filter(|until| *until > now)
            .map(|until| page.when(until, now)),
        clocks: ClockPicture::draw(
            record,
            session.last_activity,
            idle_until,
            now,
            page.language(),
        ),
        events: events.iter().map(row).collect(),
        page,
    };
    render(&template, StatusCode::OK)
}

/// A device's name, kept as "Chrome on Linux", in the page's language.
pub fn device(page: &Page, name: &str) -> String {
    match name.split_once(" on ") {
        Some((browser, system)) => page.language().text_with(
            "device.browser_on",
            &[("browser", browser), ("system", system)],
        ),
        None if name.is_empty() => page.t("device.unknown").into_owned(),
        None => name.to_owned(),
    }
}

/// Something that the person had better look at.
pub fn is_alarming(event: &Event) -> bool {
    let alarming = [audit::Kind::LoginFailed, audit::Kind::RefreshReused];
    alarming.iter().any(|kind| kind.name() == event.kind)
        || event.cause.as_deref() == Some(Cause::Theft.name())
}

/// What happened, in the page's language.
pub fn sentence(page: &Page, event: &Event) -> String {
    let text = page.t(&format!("event.{}", event.kind)).into_owned();
    match &event.cause {
        Some(cause) if cause == Cause::LoggedOut.name() => page.t("event.logout").into_owned(),
        Some(cause) if event.kind == audit::Kind::LoginEnded.name() => {
            format!("{text} ({})", page.t(&format!("cause.{cause}")))
        }
        _ => text,
    }
}
