//! The login page, logging in and out by browser, and the activity ping.

use actix_session::SessionExt;
use actix_web::cookie::Cookie;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use diesel::QueryResult;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extract::{Confirmation, SessionForm, begin, living, look};
use super::{Record, TypedSession, activity_after_ping, csrf, idle_end, keeper, remember};
use crate::account::User;
use crate::app::App;
use crate::audit::Actor;
use crate::caller::scope::OwnPassword;
use crate::caller::{Caller, Credential};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::error::{AppError, Code, FieldErrors, Reason};
use crate::login::rotation::{self, Purpose};
use crate::login::{self, Cause, Client, Kind, sign_in};
use crate::web::input::{self, Check, Form, OptionalJson};
use crate::web::page::{Page, render, too_many, with_retry_after};
use crate::web::{Success, answer, origin, see_other, success};

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    page: Page,
    notice: Option<String>,
    failure: Option<String>,
    login: String,
    remember: bool,
    next: String,
    remember_for: String,
    registration_open: bool,
}

/// `?next=…&reason=…` of the login page.
#[derive(Default, Deserialize)]
pub struct LoginQuery {
    #[serde(default)]
    next: String,
    /// Empty where a page was left and its script does not know why.
    reason: Option<String>,
}

/// The login form.
#[derive(Deserialize)]
pub struct LoginForm {
    #[serde(default)]
    login: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    remember: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    csrf_token: String,
}

impl Check for LoginForm {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_text(errors, "login", &self.login, 254);
        if self.password.len() > 4096 {
            errors.add("password", "This is too long to be a password.");
        }
    }
}

/// `GET /`. Whoever may be signed in goes to the dashboard, which settles it.
pub async fn home(req: HttpRequest, app: web::Data<App>) -> HttpResponse {
    let known = TypedSession(req.get_session()).loaded().is_some();
    see_other(match known || remember::is_carried(&req, &app) {
        true => "/dashboard",
        false => "/login",
    })
}

/// `GET /login`: stores nothing on the server. Somebody who is signed in goes on to where they were.
pub async fn login_page(req: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, AppError> {
    let query = web::Query::<LoginQuery>::from_query(req.query_string());
    let query = query.map(web::Query::into_inner).unwrap_or_default();
    let next = origin::local_path(&query.next).to_owned();
    let now = app.clock.now();
    let mut reason = query.reason.as_deref().and_then(Reason::named);
    // A page left open comes here by itself at its end: that must not open the next session, which
    // would go on for ever.
    let may_restore = match query.reason {
        Some(_) => origin::is_opened_by_person(&req),
        None => origin::is_page_load(&req),
    };
    match living(&req, &app, now).await {
        Ok(_) => return Ok(see_other(&next)),
        Err(AppError::Problem(Code::SessionMissing))
            if may_restore && remember::is_carried(&req, &app) =>
        {
            match remember::restore(&req, &app, now).await {
                Ok(record) => {
                    begin(&req, &record)?;
                    return Ok(see_other(&next));
                }
                Err(AppError::SessionOver(told)) => reason = Some(told),
                Err(_) => {}
            }
        }
        Err(AppError::SessionOver(told)) => {
            // Whatever id the browser still comes with by now is not going to be any good.
            TypedSession(req.get_session()).end();
            reason = reason.or(Some(told));
        }
        // Nobody knows who this is right now; the page itself needs nothing to be shown.
        Err(_) => {}
    }
    let form = LoginForm {
        login: String::new(),
        password: String::new(),
        remember: String::new(),
        next,
        csrf_token: String::new(),
    };
    let notice = reason.map(|reason| format!("reason.{}", reason.name()));
    show_login(&req, &app, form, notice.as_deref(), None)
}

fn show_login(
    req: &HttpRequest,
    app: &App,
    form: LoginForm,
    notice: Option<&str>,
    failure: Option<(&str, &AppError)>,
) -> Result<HttpResponse, AppError> {
    let page = Page::new(req, None, csrf::of_visitor(req, app));
    let template = LoginPage {
        notice: notice.map(|key| page.t(key).into_owned()),
        failure: failure.map(|(key, error)| match error {
            AppError::RateLimited { retry_after } => too_many(page.language(), *retry_after),
            _ => page.t(key).into_owned(),
        }),
        login: form.login,
        remember: !form.remember.is_empty(),
        next: form.next,
        remember_for: page
            .language()
            .duration(app.config.clocks.remember_lifetime),
        registration_open: app.config.registration_open,
        page,
    };
    render(
        &template,
        failure.map_or(StatusCode::OK, |(_, error)| error.code().status()),
    )
}

/// `POST /login`: 303 on success; on failure the page again, with what was typed except the password.
pub async fn log_in(
    req: HttpRequest,
    app: web::Data<App>,
    form: Form<LoginForm>,
) -> Result<HttpResponse, AppError> {
    let form = form.0;
    app.misleading.look(&req, &app);
    let again = |failure: &str, error: &AppError, form| {
        let failure = Some((failure, error));
        let page = show_login(&req, &app, form, None, failure)?;
        Ok(with_retry_after(page, error))
    };
    let trusted = origin::refuse_foreign(&req, &app)
        .and_then(|()| csrf::check_visitor(&req, &app, &form.csrf_token));
    if let Err(error) = trusted {
        return again("failure.csrf_failed", &error, form);
    }
    let missing = match (form.login.trim().is_empty(), form.password.is_empty()) {
        (true, _) => Some("failure.missing_login"),
        (_, true) => Some("failure.missing_password"),
        _ => None,
    };
    if let Some(failure) = missing {
        return again(failure, &AppError::from(Code::ValidationFailed), form);
    }
    let client = origin::client(&req, &app.config, None);
    let signed_in = async {
        // Asked first, so that an outage is told before anything has happened.
        app.keystore.ping().await?;
        let open = async |user, client| {
            let remember = !form.remember.is_empty();
            open(&req, &app, user, client, remember, |_| Ok(())).await
        };
        let (name, password) = (&form.login, &form.password);
        sign_in::let_in(&app, Kind::Browser, name, password, client, open).await
    };
    match signed_in.await {
        Ok(()) => Ok(see_other(origin::local_path(&form.next))),
        Err(error) => {
            let failure = format!("failure.{}", error.code().name());
            match error.code() {
                Code::InvalidCredentials
                | Code::AccountDisabled
                | Code::RateLimited
                | Code::Unavailable => {
                    if let Some(cause) = error.cause() {
                        answer::note_cause(&req, cause);
                    }
                    again(&failure, &error, form)
                }
                _ => Err(error),
            }
        }
    }
}

/// Begins a login in this browser, and ends the one it had; `first` is done first, in the same
/// transaction.
///
/// # Errors
/// 401 when the person has changed since they were read; 503 when it cannot be done now; and those
/// of `first`.
pub async fn open(
    req: &HttpRequest,
    app: &App,
    user: User,
    client: Client,
    remember: bool,
    first: impl FnOnce(&mut AnyConnection) -> QueryResult<()> + Send + 'static,
) -> Result<(), AppError> {
    let now = app.clock.now();
    // A dead one is left as it is: what is ended here could not be begun anew in this request.
    let before = look(req, app, now).await.ok();
    let before = before.map(|session| session.record.login_id);
    let remembered_before = remember::carried(req, app);
    let clocks = &app.config.clocks;
    let (lifetime, remember_lifetime) = (clocks.session_lifetime, clocks.remember_lifetime);
    let person = user.clone();
    let begun = app.db.write(move |conn| {
        first(conn)?;
        let mut ended = Vec::new();
        if let Some(id) = before {
            ended.extend(login::by_id(conn, &id)?);
        }
        if let Some(token) = remembered_before {
            ended.extend(rotation::login_of(conn, &token)?);
        }
        let begun = login::begin(conn, &person, Kind::Browser, &client, lifetime, now)?;
        let Some(login) = begun else {
            return Ok(None);
        };
        for before in &ended {
            let by = Actor::person(&person.id, &client);
            login::end(conn, before, Cause::LoggedOut, Some(by), now)?;
        }
        let remembered = match remember {
            true => Some(rotation::begin(
                conn,
                &login,
                Purpose::Remember,
                remember_lifetime,
                now,
            )?),
            false => None,
        };
        Ok(Some((login, remembered, ended)))
    });
    let (login, remembered, ended) = begun.await?.ok_or(Code::InvalidCredentials)?;
    app.announce_change(&user.id);
    for login in ended {
        app.announce(&login, login.cause_of_end(now).unwrap_or(Cause::LoggedOut));
    }
    if let Some((token, until)) = remembered {
        remember::set(req, app, token, until, now);
    } else if remember::is_carried(req, app) {
        remember::clear(req, app);
    }
    begin(
        req,
        &Record::new(&user, &login, remembered.map(|(_, until)| until)),
    )
}

/// `POST /logout`: ends the login, in the database first.
pub async fn log_out(
    req: HttpRequest,
    app: web::Data<App>,
    sent: Result<SessionForm<Confirmation>, AppError>,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let login_id = match sent {
        Ok(sent) => sent.session.record.login_id,
        Err(error) => {
            let dead = matches!(error.code(), Code::SessionExpired | Code::SessionMissing);
            if dead && origin::is_surely_ours(&req, &app.config) {
                remember::forget(&req, &app, now).await?;
            }
            return Err(error);
        }
    };
    let client = origin::client(&req, &app.config, None);
    let id = login_id.clone();
    let ended = app.db.write(move |conn| {
        let login = login::by_id(conn, &id)?;
        if let Some(login) = &login {
            let by = Actor::person(&login.user_id, &client);
            login::end(conn, login, Cause::LoggedOut, Some(by), now)?;
        }
        Ok(login)
    });
    if let Some(login) = ended.await? {
        app.announce(&login, Cause::LoggedOut);
    }
    // The set of ended logins refuses them already, so that this may fail.
    if let Err(error) = keeper::forget(&app.keystore, &login_id).await {
        tracing::warn!(%error, "the keys of an ended login could not be deleted");
    }
    TypedSession(req.get_session()).end();
    remember::clear(&req, &app);
    let mut answer = see_other("/login?reason=logged_out");
    // Not "cookies", which would reach other sites of the same domain.
    let clear = actix_web::http::header::HeaderValue::from_static("\"cache\", \"storage\"");
    answer.headers_mut().insert(
        actix_web::http::header::HeaderName::from_static("clear-site-data"),
        clear,
    );
    let mut form = Cookie::build(remember::cookie_name(&app.config, "gapura_form"), "")
        .path("/")
        .secure(app.config.is_https())
        .finish();
    form.make_removal();
    crate::web::answer::Outgoing::set_cookie(&req, form);
    Ok(answer)
}

/// The ping.
#[derive(Default, Deserialize, JsonSchema)]
pub struct Ping {
    /// How long ago the person last did something.
    #[serde(default, deserialize_with = "input::whole")]
    #[schemars(range(max = u64::MAX), example = 12)]
    idle_seconds: u64,
}

impl Check for Ping {
    fn check(&self, _: &mut FieldErrors) {}
}

/// The clocks of a session.
#[derive(Serialize, JsonSchema)]
pub struct Clocks {
    last_activity: Timestamp,
    /// `null` for a login by API, which has no idle end.
    idle_expires_at: Option<Timestamp>,
    session_expires_at: Timestamp,
}

/// `POST /api/update-activity`. Never revives a session that is over, never moves the hard end.
pub async fn update_activity(
    app: web::Data<App>,
    caller: Caller<OwnPassword>,
    ping: OptionalJson<Ping>,
) -> Result<Success<Clocks>, AppError> {
    let ping = ping.0;
    let now = app.clock.now();
    let clocks = match caller.credential {
        Credential::Session(session) => {
            let at = activity_after_ping(session.last_activity, ping.idle_seconds, now);
            let session = session.touch(&app, at, now).await?;
            let idle_expires_at = idle_end(
                session.last_activity,
                app.config.clocks.session_idle_timeout,
            );
            let session_expires_at = session.record.expires_at();
            Clocks {
                last_activity: session.last_activity,
                idle_expires_at: Some(idle_expires_at.min(session_expires_at)),
                session_expires_at,
            }
        }
        Credential::Personal(_) => return Err(Code::Forbidden.into()),
        Credential::Bearer(bearer) => {
            let at = activity_after_ping(Timestamp::from_seconds(0), ping.idle_seconds, now);
            let login = app.db.write(move |conn| {
                login::mark_activity(conn, &bearer.claims.sid, at)?;
                login::by_id(conn, &bearer.claims.sid)
            });
            let login = login.await?.ok_or(Code::TokenRevoked)?;
            Clocks {
                last_activity: login.last_activity_at,
                idle_expires_at: None,
                session_expires_at: login.expires_at,
            }
        }
    };
    Ok(success("Activity noted.", clocks))
}
