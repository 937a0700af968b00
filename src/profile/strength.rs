//! `POST /api/password-strength`: what the server will say of a password, while it is typed.
//!
//! The page asks the server instead of judging by itself. Only zxcvbn with its dictionaries and the
//! person's own names knows what will be refused, a page that guesses would praise what the server
//! then turns away, and WebAssembly would need a weaker Content-Security-Policy. What is sent goes to
//! the server that is to get the password anyway, over the same connection, is neither stored nor
//! logged, and only once it is long enough to be taken; without JavaScript nothing is sent before the
//! form is.

use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::account::password::{self, normalise};
use crate::app::App;
use crate::error::{AppError, Code, FieldErrors};
use crate::i18n::Lang;
use crate::login::sign_in;
use crate::openapi::{Input, Operation, schema};
use crate::session::extract::{app_of, look};
use crate::session::{Record, csrf};
use crate::web::input::{self, Check, Json};
use crate::web::page::language;
use crate::web::{Success, origin, success};

/// Asked more often than this within [`WINDOW`], it is no person who types.
const MOST: u64 = 120;
const WINDOW: Duration = Duration::from_secs(60);

/// A password to be judged.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PasswordToJudge")]
pub struct StrengthRequest {
    #[schemars(schema_with = "schema::password")]
    password: String,
    /// What somebody who has no account yet has typed beside it.
    #[serde(default)]
    #[schemars(length(max = 3), inner(length(max = 256)))]
    names: Vec<String>,
}

impl Check for StrengthRequest {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_password(errors, "password", &self.password);
        if self.names.len() > 3 || self.names.iter().any(|name| name.chars().count() > 256) {
            errors.add("names", "These are at most three names.");
        }
    }
}

/// Somebody at a page of ours: signed in, or, where that is open, about to sign up.
pub struct Typist(Option<Record>);

impl FromRequest for Typist {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let (req, app) = (req.clone(), app_of(req));
        Box::pin(async move {
            origin::refuse_foreign(&req, &app)?;
            match look(&req, &app, app.clock.now()).await {
                Ok(session) => {
                    csrf::check_session(&req, &app, &session.record, None)?;
                    Ok(Self(Some(session.record)))
                }
                Err(AppError::Problem(Code::SessionMissing)) if app.config.registration_open => {
                    csrf::check_visitor(&req, &app, csrf::sent(&req))?;
                    Ok(Self(None))
                }
                Err(error) => Err(error),
            }
        })
    }
}

impl Input for Typist {
    fn describe(operation: &mut Operation) {
        operation.security = vec![json!({"session": [], "formToken": []})];
        operation.fails(&[Code::SessionMissing, Code::CsrfFailed, Code::SessionExpired]);
    }
}

/// What is to be said of a password.
#[derive(Serialize, JsonSchema)]
pub struct Strength {
    /// From 0, guessed at once, to 4.
    #[schemars(range(min = 0, max = 4), example = 4)]
    score: u8,
    /// Whether it would be taken.
    accepted: bool,
    #[schemars(example = &"A strong password.")]
    sentence: String,
}

/// Tells how strong a password is.
pub async fn strength(
    req: HttpRequest,
    app: web::Data<App>,
    typist: Typist,
    body: Json<StrengthRequest>,
) -> Result<Success<Strength>, AppError> {
    let asked = body.0;
    let (names, lang) = match typist.0 {
        Some(record) => {
            let lang = language(&req, record.locale.as_deref());
            (vec![record.username, record.email, record.name], lang)
        }
        None => (asked.names, language(&req, None)),
    };
    limit(&req, &app).await?;
    let password = normalise(&asked.password);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let judged = password::judge(&password, &names, app.config.password_min_length);
    let sentence = match judged.weakness {
        Some(weakness) => weakness.sentence(lang),
        None => praise(lang, judged.score),
    };
    let data = Strength {
        score: judged.score,
        accepted: judged.weakness.is_none(),
        sentence,
    };
    Ok(success("The password was judged.", data))
}

fn praise(lang: Lang, score: u8) -> String {
    let key = match score {
        4.. => "password.strong",
        _ => "password.good",
    };
    lang.text(key).into_owned()
}

async fn limit(req: &HttpRequest, app: &App) -> Result<(), AppError> {
    let client = origin::client(req, &app.config, None);
    let key = format!("gapura:strength:{}", sign_in::network(&client.ip));
    let count = app.keystore.count_whatever_happens(&key, WINDOW).await;
    match count.number > MOST && app.config.rate_limits {
        true => Err(AppError::RateLimited {
            retry_after: count.resets_in,
        }),
        false => Ok(()),
    }
}
