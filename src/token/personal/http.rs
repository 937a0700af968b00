//! `/dashboard/tokens` and `/api/v1/tokens`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

use super::{Draft, Flaw, Token, most_days, of_user, offered, page_of_user};
use crate::app::App;
use crate::caller::scope::{NoToken, Scope, TokensRead, TokensWrite};
use crate::caller::step_up::{self, SteppedUp};
use crate::caller::{Caller, scope::Scopes};
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::db::{DbError, is_unique_violation};
use crate::error::{AppError, Code, FieldErrors};
use crate::i18n::Lang;
use crate::id;
use crate::openapi::schema;
use crate::session::extract::{BrowserSession, Confirmation, FormToken, SessionForm};
use crate::web::input::{self, Check, Json};
use crate::web::page::{Page, When, render};
use crate::web::paging::{List, Paging, success_list};
use crate::web::{Created, Success, created, origin, see_other, success};

/// A token this close to its end is marked, if most of its life is over.
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// The lives that the page offers, in days, where the setting allows them.
const LIVES: [u64; 5] = [7, 30, 90, 180, 365];
/// The life that the page suggests.
const SUGGESTED: u64 = 90;

/// A token as the API shows it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PersonalToken")]
pub struct TokenOut {
    #[schemars(example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    id: String,
    #[schemars(example = &"nightly backup")]
    name: String,
    #[schemars(schema_with = "scopes_schema")]
    scopes: Vec<&'static str>,
    created_at: Timestamp,
    expires_at: Timestamp,
    last_used_at: Option<Timestamp>,
    #[schemars(example = &"192.0.2.7")]
    last_used_ip: Option<String>,
}

impl From<&Token> for TokenOut {
    fn from(token: &Token) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            scopes: token.scopes().names(),
            created_at: token.created_at,
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
            last_used_ip: token.last_used_ip.clone(),
        }
    }
}

/// A token that has just been made.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NewPersonalToken")]
pub struct MadeOut {
    #[serde(flatten)]
    made: TokenOut,
    /// The token itself: here, and never again.
    #[schemars(example = &"0199f0c1-2345-7abc-8def-0123456789ab|gpr_…")]
    token: String,
}

fn scopes_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut names = schema::one_of(&Scope::ALL.map(Scope::name));
    names.insert("examples".to_owned(), ["profile:read"].as_slice().into());
    schemars::json_schema!({"type": "array", "minItems": 1, "items": names})
}

/// `GET /api/v1/tokens`.
pub async fn list(
    app: web::Data<App>,
    caller: Caller<TokensRead>,
    paging: Paging,
) -> Result<List<TokenOut>, AppError> {
    let user_id = caller.user_id().to_owned();
    let (rows, after) = (paging.rows(), paging.after.clone());
    let tokens = app
        .db
        .read(move |conn| page_of_user(conn, &user_id, after.as_deref(), rows))
        .await?;
    let (tokens, next) = paging.cut(tokens, |token| &token.id);
    let out = tokens.iter().map(TokenOut::from);
    Ok(success_list(
        "Your personal tokens.",
        out.collect(),
        next.as_deref(),
    ))
}

/// A token that somebody wants.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("required" = ["name"]))]
pub struct NewToken {
    #[serde(default)]
    #[schemars(schema_with = "schema::required::<100>", example = &"nightly backup")]
    name: String,
    /// What it may do; every one where nothing is said.
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "scopes_schema")]
    scopes: Option<Vec<String>>,
    /// At most as many as the server allows, which is also what is meant where nothing is said.
    #[serde(default, deserialize_with = "input::given_whole")]
    #[schemars(with = "u64", range(min = 1, max = u64::MAX), example = 90)]
    expires_in_days: Option<u64>,
    /// Where the last one was given longer than ten minutes ago.
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::password")]
    current_password: Option<String>,
}

impl Check for NewToken {
    fn check(&self, errors: &mut FieldErrors) {
        if let Some(password) = &self.current_password {
            input::check_password(errors, "current_password", password);
        }
    }
}

/// `POST /api/v1/tokens`: needs a password given lately, and never by a token.
pub async fn create(
    req: HttpRequest,
    app: web::Data<App>,
    caller: Caller<NoToken>,
    body: Json<NewToken>,
) -> Result<Created<MadeOut>, AppError> {
    let wanted = body.0;
    let longest = app.config.clocks.personal_token;
    let draft = Draft::check(
        &wanted.name,
        wanted.scopes.as_deref(),
        wanted.expires_in_days,
        longest,
    );
    let draft = draft.map_err(|flaws| {
        let mut errors = FieldErrors::default();
        for flaw in flaws {
            errors.add(flaw.field(), sentence(flaw, Lang::English, longest));
        }
        AppError::Invalid(errors)
    })?;
    step_up::require(&req, &app, &caller, wanted.current_password.as_deref()).await?;
    let now = app.clock.now();
    let from = AskedFrom {
        user_id: caller.user_id(),
        login_id: caller.login_id().ok_or(Code::Forbidden)?,
    };
    match make(&req, &app, from, id::new(now), &draft, now).await? {
        Making::Made(token, text) => Ok(created(
            "The token was made. It is shown only this once.",
            MadeOut {
                made: TokenOut::from(&*token),
                token: text.expose().clone(),
            },
        )),
        Making::LoginOver => Err(Code::TokenRevoked.into()),
        Making::MadeBefore => Err(Code::Conflict.into()),
    }
}

/// What is wrong with a wanted token, as a sentence.
fn sentence(flaw: Flaw, lang: Lang, longest: Duration) -> String {
    let most = most_days(longest).to_string();
    lang.text_with(flaw.key(), &[("most", &most)])
}

/// Who asks for a token, and from which of their logins.
struct AskedFrom<'a> {
    user_id: &'a str,
    login_id: &'a str,
}

enum Making {
    Made(Box<Token>, Secret<String>),
    /// The login that asked for it has ended in the meantime.
    LoginOver,
    /// There is a token with that id: the same form has been sent before.
    MadeBefore,
}

async fn make(
    req: &HttpRequest,
    app: &App,
    from: AskedFrom<'_>,
    id: Uuid,
    draft: &Draft,
    now: Timestamp,
) -> Result<Making, AppError> {
    let client = origin::client(req, &app.config, None);
    let (token, text) = Token::new(&app.secrets, id, from.user_id, draft, now);
    let (new, login_id) = (token.clone(), from.login_id.to_owned());
    let created = app
        .db
        .write(move |conn| super::create(conn, &new, &login_id, &client))
        .await;
    match created {
        Ok(true) => Ok(Making::Made(Box::new(token), text)),
        Ok(false) => Ok(Making::LoginOver),
        Err(DbError::Query(error)) if is_unique_violation(&error) => Ok(Making::MadeBefore),
        Err(error) => Err(error.into()),
    }
}

/// `DELETE /api/v1/tokens/{id}`.
pub async fn delete(
    req: HttpRequest,
    app: web::Data<App>,
    caller: Caller<TokensWrite>,
    id: web::Path<Uuid>,
) -> Result<Success<()>, AppError> {
    let user_id = caller.user_id().to_owned();
    if revoke_mine(&req, &app, user_id, id.into_inner()).await? {
        Ok(success("The token has been revoked.", ()))
    } else {
        Err(Code::NotFound.into())
    }
}

async fn revoke_mine(
    req: &HttpRequest,
    app: &App,
    user_id: String,
    id: Uuid,
) -> Result<bool, AppError> {
    let (now, id) = (app.clock.now(), id.to_string());
    let client = origin::client(req, &app.config, None);
    let revoked = app
        .db
        .write(move |conn| super::revoke(conn, &user_id, &id, &client, now))
        .await?;
    app.personal_tokens.forget();
    Ok(revoked)
}

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    page: Page,
    /// Of the form: a token made from it takes this id, so that sending the form again makes none.
    id: String,
    name: String,
    scopes: Vec<Choice>,
    lives: Vec<Life>,
    wrong_name: Option<String>,
    wrong_scopes: Option<String>,
    wrong_days: Option<String>,
    made: Option<Made>,
    made_before: bool,
    tokens: Vec<Row>,
}

/// A token that has just been made.
struct Made {
    name: String,
    text: Secret<String>,
    expires: When,
}

/// A scope in the form.
struct Choice {
    name: &'static str,
    words: String,
    is_all: bool,
    is_chosen: bool,
}

/// A life in the form.
struct Life {
    days: u64,
    words: String,
    is_chosen: bool,
}

/// A token in the list.
struct Row {
    id: String,
    name: String,
    scopes: Vec<String>,
    created: When,
    expires: When,
    last_used: Option<(When, String)>,
    is_expired: bool,
    is_ending: bool,
    is_new: bool,
}

/// The form for a new token.
#[derive(Default, Deserialize)]
pub struct TokenForm {
    #[serde(default)]
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    scopes: Vec<String>,
    expires_in_days: Option<u64>,
    #[serde(default)]
    csrf_token: String,
}

impl Check for TokenForm {
    fn check(&self, errors: &mut FieldErrors) {
        if Uuid::try_parse(&self.id).is_err() {
            errors.add("id", "This field is required.");
        }
    }
}

impl FormToken for TokenForm {
    fn form_token(&self) -> &str {
        &self.csrf_token
    }
}

/// What the page has to say of the form that was sent.
enum Sent {
    Nothing,
    Wrong(TokenForm, Vec<Flaw>),
    Made(Box<Token>, Secret<String>),
    MadeBefore,
}

/// `GET /dashboard/tokens`.
pub async fn page(
    req: HttpRequest,
    app: web::Data<App>,
    session: BrowserSession,
) -> Result<HttpResponse, AppError> {
    show(&req, &app, &session, Sent::Nothing).await
}

/// `POST /dashboard/tokens`. The answer itself shows the token, once: sent again, the form finds the
/// token made and has nothing to show.
pub async fn create_on_page(
    req: HttpRequest,
    app: web::Data<App>,
    sent: SteppedUp<TokenForm>,
) -> Result<HttpResponse, AppError> {
    let SteppedUp { session, form } = sent;
    let id = Uuid::try_parse(&form.id).map_err(|_| Code::MalformedRequest)?;
    let draft = Draft::check(
        &form.name,
        Some(&form.scopes),
        form.expires_in_days,
        app.config.clocks.personal_token,
    );
    let draft = match draft {
        Ok(draft) => draft,
        Err(flaws) => return show(&req, &app, &session, Sent::Wrong(form, flaws)).await,
    };
    let from = AskedFrom {
        user_id: &session.record.user_id,
        login_id: &session.record.login_id,
    };
    match make(&req, &app, from, id, &draft, app.clock.now()).await? {
        Making::Made(token, text) => show(&req, &app, &session, Sent::Made(token, text)).await,
        Making::MadeBefore => show(&req, &app, &session, Sent::MadeBefore).await,
        Making::LoginOver => Err(Code::Conflict.into()),
    }
}

/// `POST /dashboard/tokens/{id}/revoke`.
pub async fn revoke_on_page(
    req: HttpRequest,
    app: web::Data<App>,
    sent: SessionForm<Confirmation>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, AppError> {
    revoke_mine(&req, &app, sent.session.record.user_id, id.into_inner()).await?;
    Ok(see_other("/dashboard/tokens"))
}

async fn show(
    req: &HttpRequest,
    app: &App,
    session: &BrowserSession,
    sent: Sent,
) -> Result<HttpResponse, AppError> {
    let now = app.clock.now();
    let longest = app.config.clocks.personal_token;
    let user_id = session.record.user_id.clone();
    let tokens = app.db.read(move |conn| of_user(conn, &user_id)).await?;
    let page = Page::signed_in(req, app, session, "tokens", now);
    let lang = page.language();
    let (made_before, status) = match &sent {
        Sent::Wrong(..) => (false, StatusCode::UNPROCESSABLE_ENTITY),
        sent => (matches!(sent, Sent::MadeBefore), StatusCode::OK),
    };
    let (form, flaws, made) = match sent {
        Sent::Wrong(form, flaws) => (form, flaws, None),
        Sent::Made(token, text) => (TokenForm::default(), Vec::new(), Some((token, text))),
        Sent::Nothing | Sent::MadeBefore => (TokenForm::default(), Vec::new(), None),
    };
    let wrong = |field| {
        let flaw = flaws.iter().find(|flaw| flaw.field() == field);
        flaw.map(|flaw| sentence(*flaw, lang, longest))
    };
    let new = made.as_ref().map(|(token, _)| token.id.clone());
    let row = |token: &Token| Row {
        is_new: new.as_ref() == Some(&token.id),
        ..row(&page, token, now)
    };
    let is_admin = page.user.as_ref().is_some_and(|user| user.is_admin);
    let template = TokensPage {
        id: id::new(now).to_string(),
        scopes: offered(is_admin)
            .map(|scope| Choice {
                name: scope.name(),
                words: words(lang, scope),
                is_all: scope == Scope::All,
                is_chosen: form.scopes.iter().any(|name| name == scope.name()),
            })
            .collect(),
        lives: lives(lang, longest, form.expires_in_days),
        wrong_name: wrong("name"),
        wrong_scopes: wrong("scopes"),
        wrong_days: wrong("expires_in_days"),
        tokens: tokens.iter().map(row).collect(),
        made: made.map(|(token, text)| Made {
            expires: page.when(token.expires_at, now),
            name: token.name,
            text,
        }),
        name: form.name,
        made_before,
        page,
    };
    render(&template, status)
}

fn row(page: &Page, token: &Token, now: Timestamp) -> Row {
    let last_used = token.last_used_at.map(|at| {
        let address = token.last_used_ip.clone().unwrap_or_default();
        (page.when(at, now), address)
    });
    let scopes: Scopes = token.scopes();
    let is_expired = token.expires_at <= now;
    let near = SOON.min(token.created_at.until(token.expires_at) / 4);
    Row {
        id: token.id.clone(),
        name: token.name.clone(),
        scopes: scopes
            .iter()
            .map(|scope| words(page.language(), scope))
            .collect(),
        created: page.when(token.created_at, now),
        expires: page.when(token.expires_at, now),
        last_used,
        is_expired,
        is_ending: !is_expired && now.until(token.expires_at) <= near,
        is_new: false,
    }
}

/// A scope as the page says it.
fn words(lang: Lang, scope: Scope) -> String {
    let key = match scope {
        Scope::All => "all".to_owned(),
        scope => scope.name().replace(':', "_"),
    };
    lang.text(&format!("tokens.scope.{key}")).into_owned()
}

fn lives(lang: Lang, longest: Duration, chosen: Option<u64>) -> Vec<Life> {
    let most = most_days(longest);
    let mut lives: Vec<u64> = LIVES.into_iter().filter(|days| *days < most).collect();
    lives.push(most);
    let chosen = chosen.unwrap_or(SUGGESTED.min(most));
    let life = |days: u64| Life {
        days,
        words: lang.duration(Duration::from_secs(days.saturating_mul(86_400))),
        is_chosen: days == chosen,
    };
    lives.into_iter().map(life).collect()
}
