//! `/register` and `POST /api/v1/auth/register`; both are 404 while registration is closed.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use askama::Template;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Wanted, Wrong, make, store, taken};
use crate::app::App;
use crate::error::{AppError, Code, FieldErrors};
use crate::i18n::Lang;
use crate::openapi::{Input, Operation, schema};
use crate::session::csrf;
use crate::session::extract::{app_of, look};
use crate::session::http::open;
use crate::token::refresh::{Delivery, deliver};
use crate::token::{self, Pair, PairOut};
use crate::web::input::{self, Check, Form, Json};
use crate::web::page::{Page, render, too_many, with_retry_after};
use crate::web::{Created, created, origin, see_other};

/// Naming this first in a handler closes it where registration is closed, before a body is read.
pub struct RegistrationOpen;

impl FromRequest for RegistrationOpen {
    type Error = AppError;
    type Future = Ready<Result<Self, AppError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match app_of(req).config.registration_open {
            true => Ok(Self),
            false => Err(Code::NotFound.into()),
        })
    }
}

impl Input for RegistrationOpen {
    fn describe(operation: &mut Operation) {
        operation.fails(&[Code::NotFound]);
    }
}

/// The sign-up form.
#[derive(Default, Deserialize)]
pub struct RegisterForm {
    #[serde(default)]
    username: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    csrf_token: String,
}

impl Check for RegisterForm {
    fn check(&self, errors: &mut FieldErrors) {
        if self.password.len() > 4096 {
            errors.add("password", "This is too long to be a password.");
        }
    }
}

impl RegisterForm {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            username: &self.username,
            email: &self.email,
            name: &self.name,
            password: &self.password,
        }
    }
}

#[derive(Template)]
#[template(path = "register.html")]
struct RegisterPage {
    page: Page,
    failure: Option<String>,
    told: Told,
    username: String,
    email: String,
    name: String,
    next: String,
    hint: String,
    least: usize,
}

/// What the page says beside each field.
#[derive(Default)]
struct Told {
    username: Option<String>,
    email: Option<String>,
    name: Option<String>,
    password: Option<String>,
}

impl Told {
    fn of(wrong: &Wrong, lang: Lang) -> Self {
        let text = |wrong: Option<_>, key| wrong.map(|_: &str| lang.text(key).into_owned());
        Self {
            username: text(wrong.username, "register.wrong_username"),
            email: text(wrong.email, "register.wrong_email"),
            name: text(wrong.name, "profile.wrong_name"),
            password: wrong.password.map(|weakness| weakness.sentence(lang)),
        }
    }
}

/// `?next=…` of the sign-up page.
#[derive(Default, Deserialize)]
pub struct RegisterQuery {
    #[serde(default)]
    next: String,
}

/// `GET /register`: stores nothing on the server. Somebody who is signed in goes on.
pub async fn page(
    _open: RegistrationOpen,
    req: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, AppError> {
    let query = web::Query::<RegisterQuery>::from_query(req.query_string());
    let next = query
        .map(|query| query.into_inner().next)
        .unwrap_or_default();
    let next = origin::local_path(&next).to_owned();
    if look(&req, &app, app.clock.now()).await.is_ok() {
        return Ok(see_other(&next));
    }
    let form = RegisterForm {
        next,
        ..RegisterForm::default()
    };
    show(&req, &app, form, None, |_| Told::default(), StatusCode::OK)
}

fn show(
    req: &HttpRequest,
    app: &App,
    form: RegisterForm,
    failure: Option<&dyn Fn(Lang) -> String>,
    told: impl FnOnce(Lang) -> Told,
    status: StatusCode,
) -> Result<HttpResponse, AppError> {
    let page = Page::new(req, None, csrf::of_visitor(req, app));
    let lang = page.language();
    let least = app.config.password_min_length;
    let template = RegisterPage {
        failure: failure.map(|failure| failure(lang)),
        told: told(lang),
        username: form.username,
        email: form.email,
        name: form.name,
        next: origin::local_path(&form.next).to_owned(),
        hint: lang.text_with("password.hint", &[("count", &least.to_string())]),
        least,
        page,
    };
    render(&template, status)
}

/// `POST /register`: 303 on success; otherwise the page again, with what was typed except the
/// password.
pub async fn sign_up(
    _open: RegistrationOpen,
    req: HttpRequest,
    app: web::Data<App>,
    form: Form<RegisterForm>,
) -> Result<HttpResponse, AppError> {
    let form = form.0;
    let again = |form, failure: &dyn Fn(Lang) -> String, status| {
        show(&req, &app, form, Some(failure), |_| Told::default(), status)
    };
    let trusted = origin::refuse_foreign(&req, &app)
        .and_then(|()| csrf::check_visitor(&req, &app, &form.csrf_token));
    if trusted.is_err() {
        let failure = |lang: Lang| lang.text("register.csrf_failed").into_owned();
        return again(form, &failure, StatusCode::FORBIDDEN);
    }
    let checked = match form.wanted().check(app.config.password_min_length) {
        Ok(checked) => checked,
        Err(wrong) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            let told = |lang: Lang| Told::of(&wrong, lang);
            return show(&req, &app, form, None, told, status);
        }
    };
    // Asked first, so that an outage is told before anything has happened.
    app.keystore.ping().await?;
    let client = origin::client(&req, &app.config, None);
    let user = match make(&app, checked, &client).await {
        Ok(user) => user,
        Err(error) => {
            let AppError::RateLimited { retry_after } = error else {
                return Err(error);
            };
            let failure = |lang: Lang| too_many(lang, retry_after);
            let page = again(form, &failure, StatusCode::TOO_MANY_REQUESTS)?;
            return Ok(with_retry_after(page, &error));
        }
    };
    let (person, from) = (user.clone(), client.clone());
    let first = move |conn: &mut _| store(conn, &person, &from);
    match open(&req, &app, user.clone(), client, false, first).await {
        Ok(()) => Ok(see_other(origin::local_path(&form.next))),
        Err(AppError::Problem(Code::Conflict)) => {
            let taken = taken(&app, &user).await?;
            let told = |lang: Lang| {
                let text = |taken: bool, key| taken.then(|| lang.text(key).into_owned());
                Told {
                    username: text(taken.username, "register.taken_username"),
                    email: text(taken.email, "register.taken_email"),
                    ..Told::default()
                }
            };
            show(&req, &app, form, None, told, StatusCode::CONFLICT)
        }
        Err(error) => Err(error),
    }
}

/// Who signs up.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Registration")]
pub struct RegisterRequest {
    #[schemars(schema_with = "schema::username")]
    username: String,
    #[schemars(schema_with = "schema::email")]
    email: String,
    #[schemars(schema_with = "schema::required::<100>", example = &"Grace Hopper")]
    name: String,
    #[schemars(schema_with = "schema::new_password")]
    password: String,
    /// Shown in the list of logins.
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::text::<100>", example = &"my laptop")]
    device_name: Option<String>,
    /// How the refresh token comes: `cookie` for pages, which then cannot read it.
    #[serde(default)]
    refresh_token_delivery: Delivery,
}

impl Check for RegisterRequest {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_password(errors, "password", &self.password);
        if let Some(name) = &self.device_name {
            input::check_text(errors, "device_name", name, 100);
        }
    }
}

/// `POST /api/v1/auth/register`.
pub async fn register(
    _open: RegistrationOpen,
    req: HttpRequest,
    app: web::Data<App>,
    body: Json<RegisterRequest>,
) -> Result<Created<PairOut>, AppError> {
    let asked = body.0;
    let wanted = Wanted {
        username: &asked.username,
        email: &asked.email,
        name: &asked.name,
        password: &asked.password,
    };
    let checked = wanted.check(app.config.password_min_length);
    let checked = checked.map_err(|wrong| AppError::Invalid(in_english(&wrong)))?;
    let client = origin::client(&req, &app.config, asked.device_name.as_deref());
    let user = make(&app, checked, &client).await?;
    let now = user.created_at;
    let (person, clocks) = (user.clone(), app.config.clocks.clone());
    let begun = app.db.write(move |conn| {
        store(conn, &person, &client)?;
        token::begin(conn, &person, &client, &clocks, now)
    });
    let begun = match begun.await.map_err(AppError::from) {
        Ok(begun) => begun.ok_or(Code::InvalidCredentials)?,
        Err(AppError::Problem(Code::Conflict)) => {
            let taken = taken(&app, &user).await?;
            let mut errors = FieldErrors::default();
            if taken.username {
                errors.add("username", "Somebody has this username already.");
            }
            if taken.email {
                errors.add("email", "Somebody has this address already.");
            }
            return Err(AppError::Conflict(errors));
        }
        Err(error) => return Err(error),
    };
    app.announce_change(&user.id);
    let pair = Pair::first(&app, user, begun, now)?;
    let data = deliver(&req, &app, &pair, asked.refresh_token_delivery, now);
    Ok(created("Welcome.", data))
}

fn in_english(wrong: &Wrong) -> FieldErrors {
    let mut errors = FieldErrors::default();
    let sentences = [
        ("username", wrong.username),
        ("email", wrong.email),
        ("name", wrong.name),
    ];
    for (field, sentence) in sentences {
        if let Some(sentence) = sentence {
            errors.add(field, sentence);
        }
    }
    if let Some(weakness) = wrong.password {
        errors.add("password", weakness.sentence(Lang::English));
    }
    errors
}
