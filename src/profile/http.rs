//! What a caller sees and does of their own account, by API and on the pages.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Changed, GoesOn, NewPassword, change, change_password};
use crate::account::password::{self, Weakness, normalise};
use crate::account::{self, Changes, Role, User};
use crate::app::App;
use crate::caller::scope::{OwnPassword, ProfileRead, ProfileWrite};
use crate::caller::{Caller, Credential};
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::i18n::Lang;
use crate::login::{self, Cause, sign_in};
use crate::openapi::schema;
use crate::session::extract::{BrowserSession, FormToken, SessionForm, begin, update};
use crate::session::{Record, keeper, remember};
use crate::token::Pair;
use crate::token::refresh::{self, Carried, Delivery};
use crate::web::flash::{self, Notice};
use crate::web::input::{self, Check, Json};
use crate::web::page::{Page, When, remember_language, render, too_many, with_retry_after};
use crate::web::{Success, origin, see_other, success};

const PROFILE_PAGE: &str = "/dashboard/profile";

/// `GET /api/v1/me`.
pub async fn me(
    app: web::Data<App>,
    caller: Caller<ProfileRead>,
) -> Result<Success<AccountOut>, AppError> {
    let user = person(&app, caller.user_id()).await?;
    Ok(success("Your account.", AccountOut::from(&user)))
}

async fn person(app: &App, id: &str) -> Result<User, AppError> {
    let id = id.to_owned();
    let user = app.db.read(move |conn| account::by_id(conn, &id)).await?;
    user.ok_or_else(|| Code::TokenRevoked.into())
}

/// A person as they see themselves.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Account")]
pub struct AccountOut {
    #[schemars(example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    id: String,
    #[schemars(example = &"ada")]
    username: String,
    #[schemars(example = &"ada@example.org")]
    email: String,
    email_verified: bool,
    #[schemars(example = &"Ada Lovelace")]
    name: String,
    #[schemars(with = "Role")]
    role: String,
    /// `null`: the browser's choice.
    #[schemars(extend("enum" = ["en", "id", null]))]
    locale: Option<String>,
    #[schemars(extend("enum" = ["auto", "light", "dark"]))]
    theme: String,
    created_at: Timestamp,
}

impl From<&User> for AccountOut {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.clone(),
            username: user.username.clone(),
            email: user.email.clone(),
            email_verified: user.email_verified,
            name: user.name.clone(),
            role: user.role.clone(),
            locale: user.locale.clone(),
            theme: user.theme.clone(),
            created_at: user.created_at,
        }
    }
}

/// What is to change: what is absent stays as it is. Other fields are refused rather than
/// passed over: whoever sends an `email` must not believe that it was changed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Profile")]
pub struct ProfilePatch {
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::required::<100>", example = &"Ada King")]
    name: Option<String>,
    /// `null`: the browser's choice.
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(with = "Option<String>", extend("enum" = ["en", "id", null]))]
    locale: Option<Option<String>>,
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(with = "String", extend("enum" = ["auto", "light", "dark"]))]
    theme: Option<String>,
}

impl ProfilePatch {
    fn changes(&self) -> Result<Changes, FieldErrors> {
        let mut errors = FieldErrors::default();
        let mut noted = |field: &str, error: &str| errors.add(field, error);
        let name = self.name.as_deref().map(account::display_name);
        let locale = self
            .locale
            .as_ref()
            .map(|tag| account::locale(tag.as_deref()));
        let theme = self.theme.as_deref().map(account::theme);
        let changes = Changes {
            name: name.and_then(|name| name.map_err(|error| noted("name", error)).ok()),
            locale: locale.and_then(|tag| tag.map_err(|error| noted("locale", error)).ok()),
            theme: theme.and_then(|name| name.map_err(|error| noted("theme", error)).ok()),
        };
        match errors.0.is_empty() {
            true => Ok(changes),
            false => Err(errors),
        }
    }
}

impl Check for ProfilePatch {
    fn check(&self, errors: &mut FieldErrors) {
        if let Err(wrong) = self.changes() {
            errors.0.extend(wrong.0);
        }
    }
}

/// `PATCH /api/v1/me`.
pub async fn patch_me(
    req: HttpRequest,
    app: web::Data<App>,
    caller: Caller<ProfileWrite>,
    body: Json<ProfilePatch>,
) -> Result<Success<AccountOut>, AppError> {
    let changes = body.0.changes().map_err(AppError::Invalid)?;
    let session = match &caller.credential {
        Credential::Session(session) => Some(session.record.clone()),
        _ => None,
    };
    let user = save(
        &req,
        &app,
        caller.user_id(),
        caller.login_id(),
        session,
        changes,
    )
    .await?;
    Ok(success("Saved.", AccountOut::from(&user)))
}

/// Changes the profile and lets every living session of the person know.
async fn save(
    req: &HttpRequest,
    app: &App,
    user_id: &str,
    login_id: Option<&str>,
    session: Option<Record>,
    changes: Changes,
) -> Result<User, AppError> {
    // Asked first, so that an outage is told before anything has happened.
    app.keystore.ping().await?;
    let now = app.clock.now();
    let client = origin::client(req, &app.config, None);
    let (id, login_id) = (user_id.to_owned(), login_id.map(str::to_owned));
    let changed = app
        .db
        .write(move |conn| change(conn, &id, login_id.as_deref(), changes, &client, now));
    let user = changed.await?.ok_or(Code::TokenRevoked)?;
    keeper::retell(app, user_id).await;
    if let Some(mut record) = session {
        // This request may be about to write its own copy of the session.
        record.know(&user);
        update(req, &record)?;
    }
    Ok(user)
}

#[derive(Template)]
#[template(path = "profile.html")]
struct ProfilePage {
    page: Page,
    notice: Option<String>,
    name: String,
    locale: String,
    chosen_theme: String,
    wrong_name: Option<String>,
    wrong_locale: Option<String>,
    wrong_theme: Option<String>,
    username: String,
    email: String,
    role: String,
    member_since: When,
}

/// The profile form. `locale` is empty for the browser's choice.
#[derive(Deserialize)]
pub struct ProfileForm {
    #[serde(default)]
    name: String,
    #[serde(default)]
    locale: String,
    #[serde(default)]
    theme: String,
    #[serde(default)]
    csrf_token: String,
}

impl Check for ProfileForm {
    fn check(&self, _: &mut FieldErrors) {}
}

impl FormToken for ProfileForm {
    fn form_token(&self) -> &str {
        &self.csrf_token
    }
}

/// `GET /dashboard/profile`.
pub async fn profile_page(
    req: HttpRequest,
    app: web::Data<App>,
    session: BrowserSession,
) -> Result<HttpResponse, AppError> {
    let user = person(&app, &session.record.user_id).await?;
    show_profile(&req, &app, &session, &user, None)
}

/// The profile page; `wrong`: a form that was refused, and why.
fn show_profile(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    user: &User,
    wrong: Option<(ProfileForm, FieldErrors)>,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let page = Page::signed_in(req, app, session, "profile", now);
    let (form, errors) = wrong.unwrap_or_else(|| {
        let form = ProfileForm {
            name: user.name.clone(),
            locale: user.locale.clone().unwrap_or_default(),
            theme: user.theme.clone(),
            csrf_token: String::new(),
        };
        (form, FieldErrors::default())
    });
    let told = |field: &str| {
        let wrong = errors.0.contains_key(field);
        wrong.then(|| page.t(&format!("profile.wrong_{field}")).into_owned())
    };
    let status = match errors.0.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let template = ProfilePage {
        notice: flash::take(req, &page),
        wrong_name: told("name"),
        wrong_locale: told("locale"),
        wrong_theme: told("theme"),
        name: form.name,
        locale: form.locale,
        chosen_theme: form.theme,
        username: user.username.clone(),
        email: user.email.clone(),
        role: page.t(&format!("role.{}", user.role)).into_owned(),
        member_since: page.when(user.created_at, now),
        page,
    };
    render(&template, status)
}

/// `POST /dashboard/profile`.
pub async fn save_profile(
    req: HttpRequest,
    app: web::Data<App>,
    sent: SessionForm<ProfileForm>,
) -> Result<HttpResponse, AppError> {
    let SessionForm { session, form } = sent;
    let record = &session.record;
    let patch = ProfilePatch {
        name: Some(form.name.clone()),
        locale: Some(Some(form.locale.clone()).filter(|tag| !tag.is_empty())),
        theme: Some(form.theme.clone()),
    };
    let changes = match patch.changes() {
        Ok(changes) => changes,
        Err(errors) => {
            let user = person(&app, &record.user_id).await?;
            return show_profile(&req, &app, &session, &user, Some((form, errors)));
        }
    };
    let (user_id, login_id) = (&record.user_id, Some(record.login_id.as_str()));
    let user = save(&req, &app, user_id, login_id, Some(record.clone()), changes).await?;
    // The login page speaks it as well, and an automatic choice is not overruled by an older one.
    remember_language(&req, user.locale.as_deref().and_then(Lang::from_tag));
    flash::leave(&req, Notice::ProfileSaved);
    Ok(see_other(PROFILE_PAGE))
}

/// The language switch of the signed-in pages.
#[derive(Deserialize)]
pub struct LanguageForm {
    #[serde(default)]
    locale: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    csrf_token: String,
}

impl Check for LanguageForm {
    fn check(&self, errors: &mut FieldErrors) {
        if account::locale(Some(&self.locale)).is_err() {
            errors.add("locale", "This is `en` or `id`.");
        }
    }
}

impl FormToken for LanguageForm {
    fn form_token(&self) -> &str {
        &self.csrf_token
    }
}

/// `POST /dashboard/language`: the switch in the header. It is the person's choice from now on, in
/// every browser of theirs, and so a change of their profile: a link with `?lang=` would last no
/// longer than the page.
pub async fn choose_language(
    req: HttpRequest,
    app: web::Data<App>,
    sent: SessionForm<LanguageForm>,
) -> Result<HttpResponse, AppError> {
    let SessionForm { session, form } = sent;
    let record = session.record;
    let lang = Lang::from_tag(&form.locale);
    let changes = Changes {
        locale: Some(Some(form.locale)),
        ..Changes::default()
    };
    let (user_id, login_id) = (record.user_id.clone(), record.login_id.clone());
    save(&req, &app, &user_id, Some(&login_id), Some(record), changes).await?;
    remember_language(&req, lang);
    Ok(see_other(&without_lang(origin::local_path(&form.next))))
}

/// The same address without a language that was chosen in it.
fn without_lang(next: &str) -> String {
    let Some((path, query)) = next.split_once('?') else {
        return next.to_owned();
    };
    let kept = query.split('&').filter(|pair| !pair.starts_with("lang="));
    let kept = kept.collect::<Vec<_>>().join("&");
    match kept.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{kept}"),
    }
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
    revoke_tokens: bool,
    hint: String,
    least: usize,
}

/// What is wrong with a password form.
#[derive(Default)]
struct Wrong {
    current: Option<String>,
    new: Option<String>,
    again: Option<String>,
}

/// The password form.
#[derive(Default, Deserialize)]
pub struct PasswordForm {
    #[serde(default)]
    current_password: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    password_confirmation: String,
    /// Any value: the box is ticked.
    revoke_tokens: Option<String>,
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
    let (form, wrong) = (PasswordForm::default(), Wrong::default());
    show_password(&req, &app, &session, &form, wrong, StatusCode::OK)
}

fn show_password(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    form: &PasswordForm,
    wrong: Wrong,
    status: StatusCode,
) -> Result<HttpResponse, AppError> {
    let page = Page::signed_in(req, app, session, "profile", app.clock.now());
    let least = app.config.password_min_length;
    let template = PasswordPage {
        notice: session
            .record
            .must_change_password
            .then(|| page.t("password.must_change").into_owned()),
        wrong_current: wrong.current,
        wrong_new: wrong.new,
        wrong_again: wrong.again,
        revoke_tokens: form.revoke_tokens.is_some(),
        hint: page
            .language()
            .text_with("password.hint", &[("count", &least.to_string())]),
        least,
        page,
    };
    render(&template, status)
}

/// Why a password is not changed.
enum Refusal {
    /// The present one is not it; counted as a failed login.
    WrongCurrent,
    Weak(Weakness),
    /// It is the present one.
    Same,
}

/// What a caller asks for.
struct Asked<'a> {
    user_id: &'a str,
    login_id: &'a str,
    remember_until: Option<Timestamp>,
    current: &'a str,
    new: &'a str,
    revoke_tokens: bool,
}

/// Checks both passwords and makes the change: the same for the page and the API.
async fn carry_out(
    req: &HttpRequest,
    app: &App,
    asked: &Asked<'_>,
) -> Result<Result<(User, Changed), Refusal>, AppError> {
    let client = origin::client(req, &app.config, None);
    let user = match sign_in::confirm(app, asked.user_id, asked.current, &client).await {
        Ok(user) => user,
        Err(AppError::Problem(Code::InvalidCredentials)) => return Ok(Err(Refusal::WrongCurrent)),
        Err(error) => return Err(error),
    };
    let new = normalise(asked.new);
    let names = [user.username.as_str(), &user.email, &user.name];
    if let Err(weakness) = password::check(&new, &names, app.config.password_min_length) {
        return Ok(Err(Refusal::Weak(weakness)));
    }
    if new == normalise(asked.current) {
        return Ok(Err(Refusal::Same));
    }
    let hash = app.hasher.hash(new).await?;
    let now = app.clock.now();
    let goes_on = GoesOn {
        remember_until: asked.remember_until,
        refresh: refresh::rules(&app.config),
    };
    let (login_id, person, revoke_tokens) =
        (asked.login_id.to_owned(), user.clone(), asked.revoke_tokens);
    let changed = app.db.write(move |conn| {
        let this = login::by_id(conn, &login_id)?;
        let Some(this) = this.filter(|this| this.cause_of_end(now).is_none()) else {
            return Ok(None);
        };
        let new = NewPassword {
            user: &person,
            hash: &hash,
            revoke_tokens,
        };
        change_password(conn, &new, &this, &goes_on, &client, now)
    });
    let changed = changed.await?.ok_or(Code::Conflict)?;
    for login in &changed.ended {
        app.announce(login, Cause::PasswordChanged);
    }
    if asked.revoke_tokens {
        app.personal_tokens.forget();
    }
    let user = User {
        must_change_password: false,
        ..user
    };
    Ok(Ok((user, changed)))
}

/// This browser goes on: under a new session id, and with a new remember cookie if it had one.
fn go_on(
    req: &HttpRequest,
    app: &App,
    user: &User,
    changed: &Changed,
    now: Timestamp,
) -> Result<(), AppError> {
    if let Some((token, until)) = changed.carries_on {
        remember::set(req, app, token, until, now);
    }
    let until = changed.carries_on.map(|(_, until)| until);
    begin(req, &Record::new(user, &changed.this, until))
}

/// `POST /dashboard/password`: a wrong present password counts as a failed login.
pub async fn set_password(
    req: HttpRequest,
    app: web::Data<App>,
    sent: SessionForm<PasswordForm>,
) -> Result<HttpResponse, AppError> {
    let SessionForm { session, form } = sent;
    let record = &session.record;
    let lang = Page::new(&req, Some(record), String::new()).language();
    let text = |key: &str| Some(lang.text(key).into_owned());
    let again = |wrong| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        show_password(&req, &app, &session, &form, wrong, status)
    };
    if form.password != form.password_confirmation {
        return again(Wrong {
            again: text("password.differs"),
            ..Wrong::default()
        });
    }
    let asked = Asked {
        user_id: &record.user_id,
        login_id: &record.login_id,
        remember_until: record.remember_until(),
        current: &form.current_password,
        new: &form.password,
        revoke_tokens: form.revoke_tokens.is_some(),
    };
    // Asked first, so that an outage is told before anything has happened.
    app.keystore.ping().await?;
    let (user, changed) = match carry_out(&req, &app, &asked).await {
        Ok(Ok(changed)) => changed,
        Ok(Err(refusal)) => {
            return again(match refusal {
                Refusal::WrongCurrent => Wrong {
                    current: text("password.wrong"),
                    ..Wrong::default()
                },
                Refusal::Weak(weakness) => Wrong {
                    new: Some(weakness.sentence(lang)),
                    ..Wrong::default()
                },
                Refusal::Same => Wrong {
                    new: text("password.same"),
                    ..Wrong::default()
                },
            });
        }
        Err(error) => {
            let AppError::RateLimited { retry_after } = error else {
                return Err(error);
            };
            let wrong = Wrong {
                current: Some(too_many(lang, retry_after)),
                ..Wrong::default()
            };
            let status = StatusCode::TOO_MANY_REQUESTS;
            let page = show_password(&req, &app, &session, &form, wrong, status)?;
            return Ok(with_retry_after(page, &error));
        }
    };
    go_on(&req, &app, &user, &changed, app.clock.now())?;
    flash::leave(&req, Notice::PasswordChanged(changed.ended.len()));
    Ok(see_other(PROFILE_PAGE))
}

/// A password, and the one that takes its place.
#[derive(Deserialize, JsonSchema)]
pub struct PasswordChange {
    #[schemars(schema_with = "schema::password")]
    current_password: String,
    #[schemars(schema_with = "schema::new_password")]
    password: String,
    /// Personal tokens too are revoked.
    #[serde(default)]
    revoke_tokens: bool,
}

impl Check for PasswordChange {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_password(errors, "current_password", &self.current_password);
        input::check_password(errors, "password", &self.password);
    }
}

/// `PUT /api/v1/me/password`: the present password is always asked for, however lately it was given.
/// This login goes on with new ids: a browser's session under a new cookie, a program with the new
/// pair in `X-New-Access-Token` and `X-New-Refresh-Token`.
pub async fn put_password(
    req: HttpRequest,
    app: web::Data<App>,
    caller: Caller<OwnPassword>,
    body: Json<PasswordChange>,
) -> Result<Success<AccountOut>, AppError> {
    let remember_until = match &caller.credential {
        Credential::Session(session) => {
            // As for the form.
            app.keystore.ping().await?;
            session.record.remember_until()
        }
        _ => None,
    };
    let asked = Asked {
        user_id: caller.user_id(),
        login_id: caller.login_id().ok_or(Code::Forbidden)?,
        remember_until,
        current: &body.0.current_password,
        new: &body.0.password,
        revoke_tokens: body.0.revoke_tokens,
    };
    let (user, changed) = carry_out(&req, &app, &asked).await?.map_err(|refusal| {
        AppError::Invalid(match refusal {
            Refusal::WrongCurrent => {
                FieldErrors::one("current_password", "This is not your current password.")
            }
            Refusal::Weak(weakness) => {
                FieldErrors::one("password", weakness.sentence(Lang::English))
            }
            Refusal::Same => FieldErrors::one("password", Lang::English.text("password.same")),
        })
    })?;
    let now = app.clock.now();
    match &caller.credential {
        Credential::Session(_) => go_on(&req, &app, &user, &changed, now)?,
        _ => {
            if let Some((refresh, until)) = changed.carries_on {
                let pair = Pair::issue(&app, user.clone(), &changed.this, refresh, until, now)?;
                let carried = Carried::beside(&req, &app).unwrap_or(None);
                let delivery = carried.map_or(Delivery::Body, |carried| carried.delivery);
                refresh::send_along(&req, &app, &pair, delivery, now)?;
            }
        }
    }
    let message = ended_in_words(changed.ended.len());
    Ok(success(&message, AccountOut::from(&user)))
}

fn ended_in_words(ended: usize) -> String {
    match ended {
        0 => "The password was changed.".to_owned(),
        1 => "The password was changed, and one other login was ended.".to_owned(),
        _ => format!("The password was changed, and {ended} other logins were ended."),
    }
}

#[cfg(test)]
mod tests {
    use super::without_lang;

    #[test]
    fn a_language_in_the_address_does_not_overrule_the_one_chosen_now() {
        for (next, expected) in [
            ("/dashboard", "/dashboard"),
            ("/dashboard?lang=en", "/dashboard"),
            ("/a?kind=login&lang=en&cursor=1", "/a?kind=login&cursor=1"),
        ] {
            assert_eq!(without_lang(next), expected);
        }
    }
}
