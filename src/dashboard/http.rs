//! `GET /dashboard`: who I am, the session's clocks, and what happened lately.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;

use super::ClockPicture;
use crate::activity::EventRow;
use crate::app::App;
use crate::audit::{self, Event, Filter, words};
use crate::error::AppError;
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

/// `GET /dashboard`.
pub async fn overview(
    req: HttpRequest,
    app: web::Data<App>,
    session: BrowserSession,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let record = &session.record;
    let filter = Filter::of_user(&record.user_id);
    let events = app
        .db
        .read(move |conn| audit::page(conn, &filter, None, EVENTS_SHOWN))
        .await?;
    let page = Page::signed_in(&req, &app, &session, "overview", now);
    let idle_until = session.idle_until(&app);
    let row = |event: Event| EventRow::new(&page, &event.for_its_subject(), now);
    let template = Dashboard {
        device: match record.device.as_str() {
            "" => page.t("device.unknown").into_owned(),
            name => words::device(page.language(), name),
        },
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
        events: events.into_iter().map(row).collect(),
        page,
    };
    render(&template, StatusCode::OK)
}
