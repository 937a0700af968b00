//! `/dashboard/sessions` and `/api/v1/sessions`.

use std::cmp::Reverse;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{Living, end_one, living_of};
use crate::app::App;
use crate::audit::{Actor, words};
use crate::caller::Caller;
use crate::caller::scope::{SessionsRead, SessionsWrite};
use crate::clock::Timestamp;
use crate::error::{AppError, Code};
use crate::login::{self, Cause, Client, Kind, Login};
use crate::session::extract::{BrowserSession, Confirmation, SessionForm};
use crate::session::idle_end;
use crate::web::page::{Page, When, render};
use crate::web::paging::{List, Paging, success_list};
use crate::web::{Success, origin, see_other, success};

#[derive(Template)]
#[template(path = "sessions.html")]
struct SessionsPage {
    page: Page,
    devices: Vec<Device>,
    others: usize,
}

/// A login as a page shows it.
pub struct Device {
    pub id: String,
    pub is_api: bool,
    pub name: String,
    pub address: String,
    pub started: When,
    pub last_active: When,
    pub ends: When,
    /// It ends earlier than it must, if nobody uses it.
    pub ends_if_away: bool,
    pub is_current: bool,
}

/// `GET /dashboard/sessions`.
pub async fn page(
    req: HttpRequest,
    app: web::Data<App>,
    session: BrowserSession,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let user_id = session.record.user_id.clone();
    let here = session.clone();
    let idle_timeout = app.config.clocks.session_idle_timeout;
    let logins = app
        .db
        .read(move |conn| living_of(conn, &user_id, &here, idle_timeout, now))
        .await?;
    let page = Page::signed_in(&req, &app, &session, "sessions", now);
    let current = &session.record.login_id;
    let mut devices: Vec<Device> = logins
        .iter()
        .map(|living| device(&page, living, current, now))
        .collect();
    devices.sort_by_key(|device| (!device.is_current, Reverse(device.last_active.iso.clone())));
    let others = devices.iter().filter(|device| !device.is_current).count();
    render(
        &SessionsPage {
            devices,
            others,
            page,
        },
        StatusCode::OK,
    )
}

/// A login for the page; `current` is the one that asks.
pub fn device(page: &Page, living: &Living, current: &str, now: Timestamp) -> Device {
    let Living { login, ends } = living;
    let unnamed = if login.kind == Kind::Api.name() {
        "device.api"
    } else {
        "device.unknown"
    };
    Device {
        id: login.id.clone(),
        is_api: login.kind == Kind::Api.name(),
        name: if login.device.is_empty() {
            page.t(unnamed).into_owned()
        } else {
            words::device(page.language(), &login.device)
        },
        address: login.ip.clone(),
        started: page.when(login.started_at, now),
        last_active: page.when(login.last_activity_at, now),
        ends: page.when(*ends, now),
        ends_if_away: *ends < login.expires_at,
        is_current: login.id == current,
    }
}

/// When idleness ends a login; a login by API has no such end.
fn idle_until(app: &App, login: &Login) -> Option<Timestamp> {
    let timeout = app.config.clocks.session_idle_timeout;
    (login.kind == Kind::Browser.name()).then(|| idle_end(login.last_activity_at, timeout))
}

/// `POST /dashboard/sessions/{id}/revoke`.
pub async fn revoke(
    req: HttpRequest,
    app: web::Data<App>,
    sent: SessionForm<Confirmation>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, AppError> {
    end_mine(&req, &app, sent.session.record.user_id, id.into_inner()).await?;
    Ok(see_other("/dashboard/sessions"))
}

/// `POST /dashboard/sessions/revoke-others`.
pub async fn revoke_others(
    req: HttpRequest,
    app: web::Data<App>,
    sent: SessionForm<Confirmation>,
) -> Result<HttpResponse, AppError> {
    let record = sent.session.record;
    let client = origin::client(&req, &app.config, None);
    end_others(&app, &record.user_id, Some(&record.login_id), client).await?;
    Ok(see_other("/dashboard/sessions"))
}

/// A login.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct SessionOut {
    #[schemars(example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    id: String,
    #[schemars(extend("enum" = ["browser", "api"]))]
    kind: String,
    /// As the program named itself, or what the browser seems to be.
    #[schemars(example = &"Firefox on Linux")]
    device: String,
    #[schemars(example = &"192.0.2.7")]
    ip: String,
    started_at: Timestamp,
    last_activity_at: Timestamp,
    /// `null` for a login by API, which has no idle end.
    idle_expires_at: Option<Timestamp>,
    expires_at: Timestamp,
    /// Whether it is the one that asks.
    current: bool,
}

impl SessionOut {
    /// `current` is the login that asks, if one does.
    pub fn new(app: &App, login: &Login, current: Option<&str>) -> Self {
        Self {
            id: login.id.clone(),
            kind: login.kind.clone(),
            device: login.device.clone(),
            ip: login.ip.clone(),
            started_at: login.started_at,
            last_activity_at: login.last_activity_at,
            idle_expires_at: idle_until(app, login).map(|idle| idle.min(login.expires_at)),
            expires_at: login.expires_at,
            current: Some(login.id.as_str()) == current,
        }
    }
}

/// `GET /api/v1/sessions`.
pub async fn list(
    app: web::Data<App>,
    caller: Caller<SessionsRead>,
    paging: Paging,
) -> Result<List<SessionOut>, AppError> {
    list_of(&app, caller.user_id(), caller.login_id(), &paging).await
}

/// The living logins of a person; `current` is the one that asks, if one does.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list_of(
    app: &App,
    user_id: &str,
    current: Option<&str>,
    paging: &Paging,
) -> Result<List<SessionOut>, AppError> {
    let now = app.clock.now();
    let user_id = user_id.to_owned();
    let (rows, after) = (paging.rows(), paging.after.clone());
    let idle_since = now - app.config.clocks.session_idle_timeout;
    let logins = app
        .db
        .read(move |conn| login::usable_of(conn, &user_id, after.as_deref(), rows, idle_since, now))
        .await?;
    let (logins, next) = paging.cut(logins, |login| &login.id);
    let out: Vec<SessionOut> = logins
        .iter()
        .map(|login| SessionOut::new(app, login, current))
        .collect();
    Ok(success_list("Living logins.", out, next.as_deref()))
}

/// `DELETE /api/v1/sessions`: ends every login but the one that asks.
pub async fn delete_others(
    req: HttpRequest,
    app: web::Data<App>,
    caller: Caller<SessionsWrite>,
) -> Result<Success<()>, AppError> {
    let client = origin::client(&req, &app.config, None);
    let own = caller.login_id();
    end_others(&app, caller.user_id(), own, client).await?;
    Ok(success("Every other login has ended.", ()))
}

async fn end_others(
    app: &App,
    user_id: &str,
    own: Option<&str>,
    client: Client,
) -> Result<(), AppError> {
    let (user_id, own) = (user_id.to_owned(), own.map(str::to_owned));
    let now = app.clock.now();
    let ended = app.db.write(move |conn| {
        let by = Some(Actor::person(&user_id, &client));
        login::end_all_of(conn, &user_id, Cause::Revoked, own.as_deref(), by, now)
    });
    for login in ended.await? {
        app.announce(&login, Cause::Revoked);
    }
    Ok(())
}

/// `DELETE /api/v1/sessions/{id}`.
pub async fn delete(
    req: HttpRequest,
    app: web::Data<App>,
    caller: Caller<SessionsWrite>,
    id: web::Path<Uuid>,
) -> Result<Success<()>, AppError> {
    let ended = end_mine(&req, &app, caller.user_id().to_owned(), id.into_inner()).await?;
    if ended {
        Ok(success("The login has ended.", ()))
    } else {
        Err(Code::NotFound.into())
    }
}

async fn end_mine(
    req: &HttpRequest,
    app: &App,
    user_id: String,
    id: Uuid,
) -> Result<bool, AppError> {
    let (now, id) = (app.clock.now(), id.to_string());
    let client = origin::client(req, &app.config, None);
    let ended = app
        .db
        .write(move |conn| end_one(conn, &user_id, &id, &client, now))
        .await?;
    if let Some(login) = &ended {
        app.announce(login, Cause::Revoked);
    }
    Ok(ended.is_some())
}
