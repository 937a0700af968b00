//! What a caller sees and does of their own account, by API and on the pages.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use serde::Deserialize;
use serde_json::json;

use super::change_password;
use crate::account::password::{self, Weakness, normalise};
use crate::account::{self, User};
use crate::app::App;
use crate::caller::Caller;
use crate::caller::scope::ProfileRead;
use crate::error::{AppError, Code, FieldErrors};
use crate::login::{self, Cause, sign_in};
use crate::session::extract::{BrowserSession, FormToken, SessionForm, begin};
use crate::session::{Record, remember};
use crate::web::input::Check;
use crate::web::page::{Page, render};
use crate::web::{origin, see_other, success};

/// `GET /api/v1/me`.
pub async fn me(
    app: web::Data<App>,
    caller: Caller<ProfileRead>,
) -> Result<HttpResponse, AppError> {
    let id = caller.user_id().to_owned();
    let user = app.db.read(move |conn| account::by_id(conn, &id)).await?;
    let user = user.ok_or(Code::TokenRevoked)?;
    Ok(success("Your account.", whole(&user)))
}

fn whole(user: &User) -> serde_json::Value {
    json!({
        "id": user.id,
        "username": user.username,
        "email": user.email,
        "email_verified": user.email_verified,
        "name": user.name,
        "role": user.role,
        "locale": user.locale,
        "theme": user.theme,
        "created_at": user.created_at,
    })
}

#[derive(Template)]
#[template(path = "password.html")]
struct PasswordPage {
    page: Page,
    notice: Option<String>,
    /// What is wrong, and with which field.
    wrong_current: Option<String>,
    wrong_new: Option<String>,
    wrong_again: Option<String>,
    hint: String,
}

/// What is wrong with a password form.
#[derive(Default)]
struct Wrong {
    current: Option<String>,
    new: Option<String>,
    again: Option<String>,
}

/// The password form.
#[derive(Deserialize)]
pub struct PasswordForm {
    #[serde(default)]
    current_password: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    password_confirmation: String,
    #[serde(default)]
    csrf_token: String,
}

impl Check for PasswordForm {
    fn check(&self, _: &mut FieldErrors) {}
}

impl FormToken for PasswordForm {
    fn form_token(&self) -> &str {
        &self.csrf_token
    }
}

/// `GET /dashboard/password`.
pub async fn password_page(
    req: HttpRequest,
    app: web::Data<App>,
    session: BrowserSession,
) -> Result<HttpResponse, AppError> {
    show_password(&req, &app, &session, Wrong::default(), StatusCode::OK)
}

fn show_password(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    wrong: Wrong,
    status: StatusCode,
) -> Result<HttpResponse, AppError> {
    let page = Page::signed_in(req, app, session, "profile", app.clock.now());
    let template = PasswordPage {
        notice: session
            .record
            .must_change_password
            .then(|| page.t("password.must_change").into_owned()),
        wrong_current: wrong.current,
        wrong_new: wrong.new,
        wrong_again: wrong.again,
        hint: page.language().text_with(
            "password.hint",
            &[("count", &app.config.password_min_length.to_string())],
        ),
        page,
    };
    render(&template, status)
}

/// `POST /dashboard/password`: a wrong present password counts as a failed login.
pub async fn set_password(
    req: HttpRequest,
    app: web::Data<App>,
    sent: SessionForm<PasswordForm>,
) -> Result<HttpResponse, AppError> {
    let SessionForm { session, form } = sent;
    let lang = Page::new(&req, Some(&session.record), String::new()).language();
    let client = origin::client(&req, &app.config, None);
    let again = |wrong, status| show_password(&req, &app, &session, wrong, status);
    let wrong_now = |key: &str| Wrong {
        current: Some(lang.text(key).into_owned()),
        ..Wrong::default()
    };
    let user = match sign_in::authenticate(
        &app,
        &session.record.username,
        &form.current_password,
        &client,
    )
    .await
    {
        Ok(user) => user,
        Err(AppError::Problem(Code::InvalidCredentials)) => {
            return again(
                wrong_now("password.wrong"),
                StatusCode::UNPROCESSABLE_ENTITY,
            );
        }
        Err(error) => return Err(error),
    };
    let new = normalise(&form.password);
    let mut wrong = Wrong::default();
    let names = [user.username.as_str(), &user.email, &user.name];
    wrong.new = password::check(&new, &names, app.config.password_min_length)
        .err()
        .map(|weak: Weakness| weak.sentence(lang));
    if wrong.new.is_none() && form.password == form.current_password {
        wrong.new = Some(lang.text("password.same").into_owned());
    }
    if form.password != form.password_confirmation {
        wrong.again = Some(lang.text("password.differs").into_owned());
    }
    if wrong.new.is_some() || wrong.again.is_some() {
        return again(wrong, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let hash = app.hasher.hash(new).await?;
    let now = app.clock.now();
    let remember_until = session.record.remember_until();
    let login_id = session.record.login_id.clone();
    let person = user.clone();
    let changed = app.db.write(move |conn| {
        let Some(this) = login::by_id(conn, &login_id)? else {
            return Ok(None);
        };
        change_password(conn, &person, &hash, &this, remember_until, &client, now)
    });
    let changed = changed.await?.ok_or(Code::Conflict)?;
    for login in &changed.ended {
        app.announce(login, Cause::PasswordChanged);
    }
    if let (Some(token), Some(until)) = (changed.remember, remember_until) {
        remember::set(&req, &app, token, until, now);
    }
    let user = User {
        must_change_password: false,
        ..user
    };
    begin(&req, &Record::new(&user, &changed.this, remember_until))?;
    Ok(see_other("/dashboard"))
}
