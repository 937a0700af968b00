//! `/dashboard/activity` and `/api/v1/audit`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use super::export::{self, Format};
use super::{Attempts, EventOut, EventRow, Period, View};
use crate::app::App;
use crate::audit::{self, Event, Filter, Group, Kind};
use crate::caller::Caller;
use crate::caller::admin::administrator;
use crate::caller::scope::AuditRead;
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::openapi::schema;
use crate::session::extract::BrowserSession;
use crate::web::chart::Drawing;
use crate::web::input::{self, Check, Query};
use crate::web::page::{Page, render};
use crate::web::paging::{List, Paging, success_list};

const PATH: &str = "/dashboard/activity";
/// How many events a page shows.
const SHOWN: i64 = 20;

#[derive(Template)]
#[template(path = "activity.html")]
struct ActivityPage {
    page: Page,
    chart: Drawing,
    groups: Vec<Choice>,
    periods: Vec<Choice>,
    days: Vec<Day>,
    older: Option<String>,
    newer: Option<String>,
    /// The whole log is empty so far, not just this view of it.
    is_everything: bool,
    all: &'static str,
    csv: String,
    json: String,
    kept: String,
}

/// One of several views, as a link.
struct Choice {
    text: String,
    address: String,
    is_chosen: bool,
}

/// The events of one day.
struct Day {
    title: String,
    events: Vec<EventRow>,
}

/// What an address asks for. What it does not know is left out of account: a link that somebody
/// kept still shows something.
#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    show: String,
    #[serde(default)]
    period: String,
    /// The event after which the page begins.
    after: Option<String>,
    /// The event before which it ends.
    before: Option<String>,
}

impl Check for Asked {
    fn check(&self, _: &mut FieldErrors) {}
}

impl Asked {
    fn view(&self) -> View {
        View {
            show: Group::named(&self.show),
            period: Period::named(&self.period).unwrap_or_default(),
        }
    }
}

fn cursor(asked: Option<&str>) -> Option<String> {
    let id = Uuid::parse_str(asked?).ok()?;
    Some(id.to_string())
}

/// A page of a list, and whether there is more on either side.
struct Piece {
    events: Vec<Event>,
    has_newer: bool,
    has_older: bool,
}

/// `GET /dashboard/activity`.
pub async fn page(
    req: HttpRequest,
    app: web::Data<App>,
    session: BrowserSession,
    Query(asked): Query<Asked>,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let view = asked.view();
    let user_id = session.record.user_id.clone();
    let read = app.db.read(move |conn| {
        let attempts = Attempts::count(conn, Some(user_id.clone()), now)?;
        let piece = piece(conn, &view.filter(&user_id, now), &asked)?;
        Ok((attempts, piece))
    });
    let (attempts, piece) = read.await?;
    let page = Page::signed_in(&req, &app, &session, "activity", now);
    let lang = page.language();
    let beyond = |there: bool, name: &str, event: Option<&Event>| {
        let event = event.filter(|_| there)?;
        Some(view.address(PATH, Some((name, &event.id))))
    };
    let retention = lang.duration(app.config.audit_retention);
    let template = ActivityPage {
        chart: attempts.chart(lang).draw(lang),
        groups: groups(&page, view),
        periods: periods(&page, view),
        older: beyond(piece.has_older, "after", piece.events.last()),
        newer: beyond(piece.has_newer, "before", piece.events.first()),
        is_everything: view == View::default(),
        all: PATH,
        csv: view.address("/dashboard/activity.csv", None),
        json: view.address("/dashboard/activity.json", None),
        kept: lang.text_with("activity.kept", &[("time", &retention)]),
        days: days(&page, piece.events, now),
        page,
    };
    render(&template, StatusCode::OK)
}

fn piece(
    conn: &mut crate::db::AnyConnection,
    filter: &Filter,
    asked: &Asked,
) -> diesel::QueryResult<Piece> {
    if let Some(before) = cursor(asked.before.as_deref()) {
        let mut events = audit::page_before(conn, filter, &before, SHOWN + 1)?;
        if events.len() as i64 > SHOWN {
            events.remove(0);
            return Ok(Piece {
                events,
                has_newer: true,
                has_older: true,
            });
        }
        // Nothing newer is left out: that is the first page.
    }
    let after = cursor(asked.after.as_deref()).filter(|_| asked.before.is_none());
    let mut events = audit::page(conn, filter, after.as_deref(), SHOWN + 1)?;
    let has_older = events.len() as i64 > SHOWN;
    events.truncate(SHOWN as usize);
    Ok(Piece {
        events,
        has_newer: after.is_some(),
        has_older,
    })
}

fn groups(page: &Page, view: View) -> Vec<Choice> {
    let offered = Group::ALL
        .into_iter()
        .filter(|group| !group.kinds().is_empty());
    let choice = |show: Option<Group>| Choice {
        text: page
            .t(&format!(
                "activity.show.{}",
                show.map_or("all", Group::name)
            ))
            .into_owned(),
        address: View { show, ..view }.address(PATH, None),
        is_chosen: view.show == show,
    };
    [None]
        .into_iter()
        .chain(offered.map(Some))
        .map(choice)
        .collect()
}

fn periods(page: &Page, view: View) -> Vec<Choice> {
    let choice = |period: Period| Choice {
        text: page
            .t(&format!("activity.period.{}", period.name()))
            .into_owned(),
        address: View { period, ..view }.address(PATH, None),
        is_chosen: view.period == period,
    };
    Period::ALL.map(choice).into()
}

fn days(page: &Page, events: Vec<Event>, now: Timestamp) -> Vec<Day> {
    let lang = page.language();
    let mut days: Vec<Day> = Vec::new();
    for event in events {
        let event = event.for_its_subject();
        let date = |at: Timestamp| at.date_time().date();
        let title = match (date(now) - date(event.at)).whole_days() {
            0 => page.t("activity.today").into_owned(),
            1 => page.t("activity.yesterday").into_owned(),
            _ => lang.day(event.at),
        };
        let row = EventRow::new(page, &event, now);
        match days.last_mut().filter(|day| day.title == title) {
            Some(day) => day.events.push(row),
            None => days.push(Day {
                title,
                events: vec![row],
            }),
        }
    }
    days
}

/// `GET /dashboard/activity.csv`.
pub async fn csv(
    app: web::Data<App>,
    session: BrowserSession,
    Query(asked): Query<Asked>,
) -> HttpResponse {
    file(app, &session, &asked, Format::Csv)
}

/// `GET /dashboard/activity.json`.
pub async fn json(
    app: web::Data<App>,
    session: BrowserSession,
    Query(asked): Query<Asked>,
) -> HttpResponse {
    file(app, &session, &asked, Format::Json)
}

fn file(
    app: web::Data<App>,
    session: &BrowserSession,
    asked: &Asked,
    format: Format,
) -> HttpResponse {
    let now = app.clock.now();
    let filter = asked.view().filter(&session.record.user_id, now);
    export::file(app.db.clone(), filter, format, now)
}

/// `?user=…&kind=…` of the API.
#[derive(Deserialize, JsonSchema)]
pub struct AskedOfApi {
    /// Whose events, by id; other people's only for administrators.
    #[serde(default)]
    #[schemars(schema_with = "schema::required::<64>")]
    user: Option<String>,
    /// One or several, with commas in between.
    #[serde(default)]
    #[schemars(schema_with = "kinds_schema")]
    kind: Option<String>,
}

fn kinds_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    schemars::json_schema!({"type": "array", "minItems": 1, "items": schema::one_of(&names)})
}

impl Check for AskedOfApi {
    fn check(&self, errors: &mut FieldErrors) {
        if let Some(user) = &self.user {
            input::check_required(errors, "user", user, 64);
        }
        let mut kinds = self.kind.iter().flat_map(|kinds| kinds.split(','));
        if kinds.any(|kind| Kind::named(kind).is_none()) {
            errors.add("kind", "There is no such kind of event.");
        }
    }
}

/// `GET /api/v1/audit`: an administrator sees everybody's events, others their own.
pub async fn list(
    app: web::Data<App>,
    caller: Caller<AuditRead>,
    Query(asked): Query<AskedOfApi>,
    paging: Paging,
) -> Result<List<EventOut>, AppError> {
    let me = caller.user_id().to_owned();
    let is_admin = administrator(&app, &me).await?.is_some();
    if !is_admin && asked.user.as_ref().is_some_and(|user| *user != me) {
        return Err(Code::Forbidden.into());
    }
    let kinds = asked.kind.iter().flat_map(|kinds| kinds.split(','));
    let filter = Filter {
        user_id: if is_admin { asked.user } else { Some(me) },
        kinds: kinds.filter_map(Kind::named).collect(),
        ..Filter::default()
    };
    let (rows, after) = (paging.rows(), paging.after.clone());
    let events = app
        .db
        .read(move |conn| audit::page(conn, &filter, after.as_deref(), rows))
        .await?;
    let (events, next) = paging.cut(events, |event| &event.id);
    let events = events.into_iter().map(|event| match is_admin {
        true => event,
        false => event.for_its_subject(),
    });
    let out: Vec<EventOut> = events.map(EventOut::from).collect();
    Ok(success_list("Audit events.", out, next.as_deref()))
}
