//! `/admin`: figures, and people.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use serde::Deserialize;
use tokio::time::Instant;
use url::form_urlencoded;
use uuid::Uuid;

use super::api::{Search, doer, person};
use super::overview::{self, CLASSES, Day, Overview};
use super::{
    Changes, Done, Outcome, Refusal, Taken, announce, change, create, end_logins, or_taken,
    revoke_tokens, temporary_password,
};
use crate::account::password::normalise;
use crate::account::{self, Role, User};
use crate::activity::EventRow;
use crate::app::App;
use crate::audit::{self, Filter};
use crate::caller::admin::{AdminForm, AdminSession};
use crate::clock::Timestamp;
use crate::devices;
use crate::devices::http::{Device, device};
use crate::error::{AppError, Code, FieldErrors};
use crate::figures::DAY;
use crate::session::extract::{BrowserSession, FormToken};
use crate::token::personal;
use crate::web::chart::{Chart, Column, Drawing, Series, Shape, Tone};
use crate::web::input::{Check, Query};
use crate::web::page::{Page, When, render};
use crate::web::paging::Paging;
use crate::web::see_other;

/// How many events of a person are shown.
const EVENTS_SHOWN: i64 = 10;

#[derive(Template)]
#[template(path = "admin.html")]
struct OverviewPage {
    tiles: Vec<Tile>,
    charts: Vec<Drawing>,
    page: Page,
}

/// One figure, large.
struct Tile {
    name: String,
    value: String,
    hint: String,
}

/// `GET /admin`.
pub async fn overview(
    req: HttpRequest,
    app: web::Data<App>,
    AdminSession { session, .. }: AdminSession,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let read = match app.overview.get(now) {
        Some(read) => read,
        None => {
            // What this node has counted is in the figures, too.
            app.figures.flush(&app.db, now).await?;
            let began = Instant::now();
            let idle_timeout = app.config.clocks.session_idle_timeout;
            let days = Arc::clone(&app.days);
            let read = app
                .db
                .read(move |conn| overview::read(conn, &days, idle_timeout, now))
                .await?;
            app.overview.put(began, read)
        }
    };
    let page = Page::signed_in(&req, &app, &session, "admin", now);
    let template = OverviewPage {
        tiles: tiles(&page, &read),
        charts: charts(&page, &read),
        page,
    };
    render(&template, StatusCode::OK)
}

fn tiles(page: &Page, read: &Overview) -> Vec<Tile> {
    let lang = page.language();
    let none = || page.t("admin.tile.none").into_owned();
    let tile = |name: &str, value: String, hint: String| Tile {
        name: page.t(&format!("admin.tile.{name}")).into_owned(),
        value,
        hint,
    };
    let total = read.total();
    let count = |number: i64| lang.number(number as f64);
    let live = [
        ("browsers", &count(read.live_browsers)[..]),
        ("apps", &count(read.live_api)),
    ];
    let refused = [("count", &count(total.refused())[..])];
    vec![
        tile(
            "live",
            count(read.live_browsers + read.live_api),
            lang.text_with("admin.tile.live_hint", &live),
        ),
        tile(
            "people",
            count(read.people),
            page.t("admin.tile.people_hint").into_owned(),
        ),
        tile(
            "rate",
            total
                .success_rate()
                .map_or_else(none, |rate| format!("{} %", lang.number(rate))),
            lang.text_with("admin.tile.rate_hint", &refused),
        ),
        tile(
            "between",
            total
                .time_between_refreshes()
                .map_or_else(none, |time| lang.duration(time)),
            page.t("admin.tile.between_hint").into_owned(),
        ),
    ]
}

fn charts(page: &Page, read: &Overview) -> Vec<Drawing> {
    let lang = page.language();
    let t = |key: &str| page.t(&format!("admin.chart.{key}")).into_owned();
    let per_day = |wanted: fn(&Day) -> bool| {
        let days = (read.first..).zip(&read.days);
        days.filter(move |(_, day)| wanted(day))
    };
    let series = |name: &str, tone, wanted: fn(&Day) -> bool, value: fn(&Day) -> f64| Series {
        name: t(name),
        tone,
        values: per_day(wanted).map(|(_, day)| value(day)).collect(),
    };
    let daily = |title: &str, shape, unit, wanted: fn(&Day) -> bool, series| Chart {
        title: t(title),
        shape,
        axis: t("day"),
        columns: per_day(wanted)
            .map(|(day, _)| Column::of_day(Timestamp::from_millis(day * DAY), lang))
            .collect(),
        series,
        unit,
    };
    let all: fn(&Day) -> bool = |_| true;
    let refreshed: fn(&Day) -> bool = |day| day.success_rate().is_some();
    let exchanged: fn(&Day) -> bool = |day| day.refreshed > 0;
    let of_classes = |name: &str, tone, kind: usize| Series {
        name: t(name),
        tone,
        values: read.durations[kind].map(|count| count as f64).to_vec(),
    };
    let minutes = |day: &Day| {
        day.time_between_refreshes()
            .unwrap_or_default()
            .as_secs_f64()
            / 60.0
    };
    let charts = [
        daily(
            "logins",
            Shape::Bars,
            "",
            all,
            vec![
                series("succeeded", Tone::Main, all, |day| day.logins as f64),
                series("failed", Tone::Bad, all, |day| day.failures as f64),
            ],
        ),
        daily(
            "refused",
            Shape::Bars,
            "",
            all,
            vec![
                series("expired", Tone::Quiet, all, |day| day.expired as f64),
                series("invalid", Tone::Main, all, |day| day.invalid as f64),
                series("reused", Tone::Bad, all, |day| day.reused as f64),
            ],
        ),
        daily(
            "rate",
            Shape::Lines,
            "%",
            refreshed,
            vec![series("rate_of", Tone::Main, refreshed, |day| {
                day.success_rate().unwrap_or_default()
            })],
        ),
        daily(
            "between",
            Shape::Lines,
            "min",
            exchanged,
            vec![series("between_of", Tone::Main, exchanged, minutes)],
        ),
        Chart {
            title: t("durations"),
            shape: Shape::Bars,
            axis: t("length"),
            columns: CLASSES
                .iter()
                .map(|class| Column {
                    label: t(&format!("class.{class}.label")),
                    exact: t(&format!("class.{class}.exact")),
                })
                .collect(),
            series: vec![
                of_classes("browser", Tone::Main, 0),
                of_classes("api", Tone::Quiet, 1),
            ],
            unit: "",
        },
    ];
    charts.map(|chart| chart.draw(lang)).into()
}

#[derive(Template)]
#[template(path = "people.html")]
struct PeoplePage {
    q: String,
    people: Vec<Person>,
    /// Where the next piece is.
    next: Option<String>,
    /// This is not the first.
    is_further: bool,
    page: Page,
}

/// Somebody in the list and on a page of their own.
struct Person {
    id: String,
    username: String,
    email: String,
    name: String,
    is_admin: bool,
    disabled: Option<When>,
    must_change_password: bool,
    /// After too many wrong passwords.
    is_closed: bool,
    created: When,
    last_login: Option<When>,
    is_me: bool,
}

impl Person {
    fn new(page: &Page, user: &User, last: Option<Timestamp>, now: Timestamp) -> Self {
        Self {
            id: user.id.clone(),
            username: user.username.clone(),
            email: user.email.clone(),
            name: user.name.clone(),
            is_admin: user.role == Role::Admin.name(),
            disabled: user.disabled_at.map(|at| page.when(at, now)),
            must_change_password: user.must_change_password,
            is_closed: user.is_closed(),
            created: page.when(user.created_at, now),
            last_login: last.map(|at| page.when(at, now)),
            is_me: page.user.as_ref().is_some_and(|me| me.id == user.id),
        }
    }
}

/// `GET /admin/users`.
pub async fn people(
    req: HttpRequest,
    app: web::Data<App>,
    AdminSession { session, .. }: AdminSession,
    search: Query<Search>,
    paging: Paging,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let q = search.0.q.trim().to_owned();
    let (wanted, rows, after) = (q.clone(), paging.rows(), paging.after.clone());
    let found = app.db.read(move |conn| {
        let people = super::search(conn, &wanted, after.as_deref(), rows)?;
        let ids: Vec<&str> = people.iter().map(|user| user.id.as_str()).collect();
        let last = super::last_logins(conn, &ids)?;
        Ok((people, last))
    });
    let (found, last) = found.await?;
    let (found, next) = paging.cut(found, |user| &user.username);
    let page = Page::signed_in(&req, &app, &session, "admin", now);
    let template = PeoplePage {
        people: found
            .iter()
            .map(|user| Person::new(&page, user, last.get(&user.id).copied(), now))
            .collect(),
        next: next.map(|cursor| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("q", &q).append_pair("cursor", &cursor);
            query.append_pair("limit", &paging.limit.to_string());
            format!("/admin/users?{}", query.finish())
        }),
        is_further: paging.after.is_some(),
        q,
        page,
    };
    render(&template, StatusCode::OK)
}

#[derive(Template)]
#[template(path = "person.html")]
struct PersonPage {
    person: Person,
    devices: Vec<Device>,
    /// How many personal tokens of theirs are good, where there are any.
    tokens: Option<String>,
    events: Vec<EventRow>,
    /// What has just been done.
    done: Option<String>,
    /// Why it has not been done.
    refused: Option<String>,
    page: Page,
}

/// What a page has to tell besides what it shows.
enum News {
    Nothing,
    Done(Act),
    Refused(Refusal),
}

/// What can be done with somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Act {
    Disable,
    Enable,
    Promote,
    Demote,
    ResetPassword,
    EndLogins,
    EndLogin,
    RevokeTokens,
}

impl Act {
    const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Promote => "promote",
            Self::Demote => "demote",
            Self::ResetPassword => "reset_password",
            Self::EndLogins => "end_logins",
            Self::EndLogin => "end_login",
            Self::RevokeTokens => "revoke_tokens",
        }
    }
}

/// What was done before the browser came here.
#[derive(Deserialize)]
pub struct Came {
    done: Option<Act>,
}

impl Check for Came {
    fn check(&self, _: &mut FieldErrors) {}
}

/// `GET /admin/users/{id}`.
pub async fn one(
    req: HttpRequest,
    app: web::Data<App>,
    AdminSession { session, .. }: AdminSession,
    id: web::Path<Uuid>,
    came: Query<Came>,
) -> Result<HttpResponse, AppError> {
    let news = came.0.done.map_or(News::Nothing, News::Done);
    let user = person(&app, *id).await?;
    show(&req, &app, &session, &user, news, StatusCode::OK).await
}

async fn show(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    user: &User,
    news: News,
    status: StatusCode,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let id = user.id.clone();
    let here = session.clone();
    let idle_timeout = app.config.clocks.session_idle_timeout;
    let read = app.db.read(move |conn| {
        let logins = devices::living_of(conn, &id, &here, idle_timeout, now)?;
        let events = audit::page(conn, &Filter::of_user(&id), None, EVENTS_SHOWN)?;
        let last = super::last_logins(conn, &[&id])?;
        let tokens = personal::count_living(conn, &id, now)?;
        Ok((logins, events, last, tokens))
    });
    let (logins, events, last, tokens) = read.await?;
    let page = Page::signed_in(req, app, session, "admin", now);
    let current = &session.record.login_id;
    let (done, refused) = match news {
        News::Nothing => (None, None),
        News::Done(act) => (Some(format!("admin.done.{}", act.name())), None),
        News::Refused(refusal) => (None, Some(format!("admin.refused.{}", refusal.name()))),
    };
    let template = PersonPage {
        person: Person::new(&page, user, last.get(&user.id).copied(), now),
        devices: logins
            .iter()
            .map(|living| device(&page, living, current, now))
            .collect(),
        tokens: (tokens > 0).then(|| page.language().number(tokens as f64)),
        events: events
            .iter()
            .map(|event| EventRow::new(&page, event, now))
            .collect(),
        done: done.map(|key| page.t(&key).into_owned()),
        refused: refused.map(|key| page.t(&key).into_owned()),
        page,
    };
    render(&template, status)
}

/// What an administrator wants done with somebody.
#[derive(Deserialize)]
pub struct ActForm {
    act: Act,
    /// Which login [`Act::EndLogin`] ends.
    #[serde(default)]
    login: String,
    #[serde(default)]
    csrf_token: String,
}

impl Check for ActForm {
    fn check(&self, errors: &mut FieldErrors) {
        if self.act == Act::EndLogin && Uuid::try_parse(&self.login).is_err() {
            errors.add("login", "This is not the id of a login.");
        }
    }
}

impl FormToken for ActForm {
    fn form_token(&self) -> &str {
        &self.csrf_token
    }
}

/// `POST /admin/users/{id}`.
pub async fn act(
    req: HttpRequest,
    app: web::Data<App>,
    sent: AdminForm<ActForm>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, AppError> {
    let AdminForm { session, form, .. } = sent;
    let user = person(&app, *id).await?;
    let mut made = None;
    let mut changes = Changes::default();
    match form.act {
        Act::Disable => changes.disabled = Some(true),
        Act::Enable => changes.disabled = Some(false),
        Act::Promote => changes.role = Some(Role::Admin),
        Act::Demote => changes.role = Some(Role::User),
        Act::ResetPassword => {
            let password = temporary_password();
            let hash = app.hasher.hash(normalise(password.expose())).await?;
            changes.password_hash = Some(hash);
            made = Some(password);
        }
        Act::EndLogins | Act::EndLogin | Act::RevokeTokens => {}
    }
    let doer = doer(&req, &app, &session.record.user_id);
    let (now, subject) = (app.clock.now(), user.id.clone());
    let (own_login, login) = (session.record.login_id.clone(), form.login);
    let outcome = app.db.write(move |conn| match form.act {
        Act::EndLogins => end_logins(conn, &subject, None, &doer, &own_login, now),
        Act::EndLogin => end_logins(conn, &subject, Some(&login), &doer, &own_login, now),
        Act::RevokeTokens => revoke_tokens(conn, &subject, &doer, now),
        _ => change(conn, &subject, &changes, &doer, now),
    });
    match outcome.await? {
        Outcome::Unknown => Err(Code::NotFound.into()),
        Outcome::Refused(refusal) => {
            let news = News::Refused(refusal);
            show(&req, &app, &session, &user, news, StatusCode::CONFLICT).await
        }
        Outcome::Done(done) => {
            announce(&app, &done).await;
            match made {
                Some(password) => {
                    let page = Page::signed_in(&req, &app, &session, "admin", now);
                    show_password(page, &done.user, password.expose(), StatusCode::OK)
                }
                None => Ok(see_other(&back(&done, form.act))),
            }
        }
    }
}

fn back(done: &Done, act: Act) -> String {
    format!("/admin/users/{}?done={}", done.user.id, act.name())
}

#[derive(Template)]
#[template(path = "temporary_password.html")]
struct PasswordPage<'a> {
    user: &'a User,
    password: &'a str,
    /// The account has just been made, too.
    is_new: bool,
    page: Page,
}

/// The one time that a temporary password is seen.
fn show_password(
    page: Page,
    user: &User,
    password: &str,
    status: StatusCode,
) -> Result<HttpResponse, AppError> {
    let template = PasswordPage {
        user,
        password,
        is_new: status == StatusCode::CREATED,
        page,
    };
    render(&template, status)
}

#[derive(Template)]
#[template(path = "new_person.html")]
struct NewPage {
    form: NewForm,
    wrong: Wrong,
    page: Page,
}

/// What is wrong with which field.
#[derive(Default)]
struct Wrong {
    username: Option<String>,
    email: Option<String>,
    name: Option<String>,
}

/// Somebody to be added.
#[derive(Default, Deserialize)]
pub struct NewForm {
    #[serde(default)]
    username: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    csrf_token: String,
}

impl Check for NewForm {
    fn check(&self, _: &mut FieldErrors) {}
}

impl FormToken for NewForm {
    fn form_token(&self) -> &str {
        &self.csrf_token
    }
}

/// `GET /admin/users/new`.
pub async fn new_page(
    req: HttpRequest,
    app: web::Data<App>,
    AdminSession { session, .. }: AdminSession,
) -> Result<HttpResponse, AppError> {
    let template = NewPage {
        form: NewForm::default(),
        wrong: Wrong::default(),
        page: Page::signed_in(&req, &app, &session, "admin", app.clock.now()),
    };
    render(&template, StatusCode::OK)
}

/// `POST /admin/users/new`.
pub async fn add(
    req: HttpRequest,
    app: web::Data<App>,
    sent: AdminForm<NewForm>,
) -> Result<HttpResponse, AppError> {
    let AdminForm { session, form, .. } = sent;
    let now = app.clock.now();
    let page = Page::signed_in(&req, &app, &session, "admin", now);
    let name = match form.name.trim() {
        "" => &form.username,
        name => name,
    };
    let checked = (
        account::username(&form.username),
        account::email(&form.email),
        account::display_name(name),
    );
    let (Ok(username), Ok(email), Ok(name)) = checked else {
        let (username, email, name) = checked;
        let told = |wrong: bool, key: &str| {
            wrong.then(|| page.t(&format!("admin.new.wrong_{key}")).into_owned())
        };
        let wrong = Wrong {
            username: told(username.is_err(), "username"),
            email: told(email.is_err(), "email"),
            // The username stands in for it, and is told already.
            name: told(name.is_err() && !form.name.trim().is_empty(), "name"),
        };
        let template = NewPage { form, wrong, page };
        return render(&template, StatusCode::UNPROCESSABLE_ENTITY);
    };
    let role = form.role.unwrap_or(Role::User);
    let password = temporary_password();
    let hash = app.hasher.hash(normalise(password.expose())).await?;
    let user = User {
        must_change_password: true,
        ..User::new(username, email, name, role, hash, now)
    };
    let (doer, added) = (doer(&req, &app, &session.record.user_id), user.clone());
    let outcome = app.db.write(move |conn| create(conn, &added, &doer)).await;
    let (username, email) = (Some(user.username.as_str()), Some(user.email.as_str()));
    match or_taken(outcome, &app.db, username, email, None).await? {
        Ok(()) => show_password(page, &user, password.expose(), StatusCode::CREATED),
        Err(Taken { username, email }) => {
            let told = |taken: bool, key: &str| {
                taken.then(|| page.t(&format!("admin.new.taken_{key}")).into_owned())
            };
            let wrong = Wrong {
                username: told(username, "username"),
                email: told(email, "email"),
                name: None,
            };
            let template = NewPage { form, wrong, page };
            render(&template, StatusCode::CONFLICT)
        }
    }
}
