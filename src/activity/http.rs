//! `/dashboard/activity`, `/admin/activity` and `/api/v1/audit`.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use super::export::{self, Format};
use super::{Attempts, EventOut, EventRow, Named, Period, View};
use crate::account;
use crate::app::App;
use crate::audit::{self, Event, Filter, Group, Kind};
use crate::caller::Caller;
use crate::caller::admin::{AdminSession, administrator};
use crate::caller::scope::AuditRead;
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::error::{AppError, Code, FieldErrors};
use crate::i18n::Lang;
use crate::openapi::schema;
use crate::session::extract::BrowserSession;
use crate::web::chart::Drawing;
use crate::web::input::{self, Check, Query};
use crate::web::page::{Page, render};
use crate::web::paging::{List, Paging, success_list};

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
    is_everybodys: bool,
    view: View,
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
    /// Whom it concerns, in everybody's log.
    #[serde(default)]
    person: String,
    /// The event after which the page begins.
    after: Option<String>,
    /// The event before which it ends.
    before: Option<String>,
}

impl Check for Asked {
    fn check(&self, _: &mut FieldErrors) {}
}

impl Asked {
    fn view(&self, log: &Log) -> View {
        View {
            show: Group::named(&self.show),
            period: Period::named(&self.period).unwrap_or_default(),
            person: match log {
                Log::Own(_) => String::new(),
                Log::Everybodys => self.person.trim().to_owned(),
            },
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

/// Whose log it is.
#[derive(Clone)]
enum Log {
    /// One's own, by one's id.
    Own(String),
    /// For administrators.
    Everybodys,
}

impl Log {
    const fn path(&self) -> &'static str {
        match self {
            Self::Own(_) => "/dashboard/activity",
            Self::Everybodys => "/admin/activity",
        }
    }

    const fn section(&self) -> &'static str {
        match self {
            Self::Own(_) => "activity",
            Self::Everybodys => "admin",
        }
    }

    /// The part of the log that `view` asks for.
    fn filter(
        &self,
        conn: &mut AnyConnection,
        view: &View,
        now: Timestamp,
    ) -> diesel::QueryResult<Filter> {
        let user_id = match self {
            Self::Own(id) => Some(id.clone()),
            Self::Everybodys if view.person.is_empty() => None,
            Self::Everybodys => {
                let user = account::by_login_name(conn, &view.person)?;
                // Nobody has an empty id, and nothing concerns them.
                Some(user.map_or_else(String::new, |user| user.id))
            }
        };
        Ok(view.filter(user_id, now))
    }

    /// As whoever reads this log may see an event.
    fn told(&self, event: Event) -> Event {
        match self {
            Self::Own(_) => event.for_its_subject(),
            Self::Everybodys => event,
        }
    }
}

/// `GET /dashboard/activity`.
pub async fn page(
    req: HttpRequest,
    app: web::Data<App>,
    session: BrowserSession,
    Query(asked): Query<Asked>,
) -> Result<HttpResponse, AppError> {
    let own = Log::Own(session.record.user_id.clone());
    show(&req, &app, &session, own, asked).await
}

/// `GET /admin/activity`.
pub async fn everybodys_page(
    req: HttpRequest,
    app: web::Data<App>,
    AdminSession { session, .. }: AdminSession,
    Query(asked): Query<Asked>,
) -> Result<HttpResponse, AppError> {
    show(&req, &app, &session, Log::Everybodys, asked).await
}

async fn show(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    log: Log,
    asked: Asked,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let view = asked.view(&log);
    let (path, section, wanted) = (log.path(), log.section(), view.clone());
    let is_everybodys = matches!(log, Log::Everybodys);
    let everybodys = Arc::clone(&app.days);
    let read = app.db.read(move |conn| {
        let filter = log.filter(conn, &wanted, now)?;
        let attempts = Attempts::count(conn, &everybodys, filter.user_id.as_deref(), now)?;
        let mut piece = piece(conn, &filter, &asked)?;
        let events = piece.events.into_iter();
        piece.events = events.map(|event| log.told(event)).collect();
        let people = match log {
            Log::Own(_) => Vec::new(),
            Log::Everybodys => people(conn, &piece.events)?,
        };
        Ok((attempts, piece, people))
    });
    let (attempts, piece, people) = read.await?;
    let page = Page::signed_in(req, app, session, section, now);
    let lang = page.language();
    let beyond = |there: bool, name: &str, event: Option<&Event>| {
        let event = event.filter(|_| there)?;
        Some(view.address(path, Some((name, &event.id))))
    };
    let retention = lang.duration(app.config.audit_retention);
    let template = ActivityPage {
        chart: attempts.chart(lang).draw(lang),
        groups: groups(&page, &view, path),
        periods: periods(&page, &view, path),
        older: beyond(piece.has_older, "after", piece.events.last()),
        newer: beyond(piece.has_newer, "before", piece.events.first()),
        is_everything: view == View::default(),
        is_everybodys,
        all: path,
        csv: view.address(&format!("{path}.csv"), None),
        json: view.address(&format!("{path}.json"), None),
        kept: lang.text_with("activity.kept", &[("time", &retention)]),
        days: days(&piece.events, lang, now, |event| match is_everybodys {
            true => EventRow::of_anybody(&page, event, &people, now),
            false => EventRow::new(&page, event, now),
        }),
        view,
        page,
    };
    render(&template, StatusCode::OK)
}

/// Whom these events concern, and who did it.
fn people(conn: &mut AnyConnection, events: &[Event]) -> diesel::QueryResult<Vec<Named>> {
    let ids = events
        .iter()
        .flat_map(|event| [&event.user_id, &event.actor_id]);
    let mut ids: Vec<&str> = ids.flatten().map(String::as_str).collect();
    ids.sort_unstable();
    ids.dedup();
    let people = account::by_ids(conn, &ids)?;
    Ok(people.into_iter().map(Named::from).collect())
}

fn piece(conn: &mut AnyConnection, filter: &Filter, asked: &Asked) -> diesel::QueryResult<Piece> {
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

fn groups(page: &Page, view: &View, path: &str) -> Vec<Choice> {
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
        is_chosen: view.show == show,
        address: View {
            show,
            ..view.clone()
        }
        .address(path, None),
    };
    [None]
        .into_iter()
        .chain(offered.map(Some))
        .map(choice)
        .collect()
}

fn periods(page: &Page, view: &View, path: &str) -> Vec<Choice> {
    let choice = |period: Period| Choice {
        text: page
            .t(&format!("activity.period.{}", period.name()))
            .into_owned(),
        is_chosen: view.period == period,
        address: View {
            period,
            ..view.clone()
        }
        .address(path, None),
    };
    Period::ALL.map(choice).into()
}

fn days(
    events: &[Event],
    lang: Lang,
    now: Timestamp,
    row: impl Fn(&Event) -> EventRow,
) -> Vec<Day> {
    let mut days: Vec<Day> = Vec::new();
    for event in events {
        let date = |at: Timestamp| at.date_time().date();
        let title = match (date(now) - date(event.at)).whole_days() {
            0 => lang.text("activity.today").into_owned(),
            1 => lang.text("activity.yesterday").into_owned(),
            _ => lang.day(event.at),
        };
        match days.last_mut().filter(|day| day.title == title) {
            Some(day) => day.events.push(row(event)),
            None => days.push(Day {
                title,
                events: vec![row(event)],
            }),
        }
    }
    days
}

/// `GET /dashboard/activity.{csv,json}`.
pub async fn file(
    app: web::Data<App>,
    session: BrowserSession,
    format: web::Path<Format>,
    Query(asked): Query<Asked>,
) -> Result<HttpResponse, AppError> {
    let own = Log::Own(session.record.user_id);
    take_away(&app, own, &asked, *format).await
}

/// `GET /admin/activity.{csv,json}`.
pub async fn everybodys_file(
    app: web::Data<App>,
    _admin: AdminSession,
    format: web::Path<Format>,
    Query(asked): Query<Asked>,
) -> Result<HttpResponse, AppError> {
    take_away(&app, Log::Everybodys, &asked, *format).await
}

async fn take_away(
    app: &App,
    log: Log,
    asked: &Asked,
    format: Format,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let view = asked.view(&log);
    let read = app.db.read(move |conn| {
        let filter = log.filter(conn, &view, now)?;
        Ok((filter, log))
    });
    let (filter, log) = read.await?;
    let told = move |event| log.told(event);
    Ok(export::file(app.db.clone(), filter, told, format, now))
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
