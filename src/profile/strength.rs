//! `POST /api/password-strength`: what the server will say of a password, while it is typed.
//!
//! The page asks the server instead of judging by itself. Only zxcvbn with its dictionaries and the
//! person's own names knows what will be refused, a page that guesses would praise what the server
//! then turns away, and WebAssembly would need a weaker Content-Security-Policy. What is sent goes to
//! the server that is to get the password anyway, over the same connection, is neither stored nor
//! logged, and only once it is long enough to be taken; without JavaScript nothing is sent before the
//! form is.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

use crate::account::password::{self, normalise};
use crate::app::App;
use crate::error::{AppError, Code, FieldErrors};
use crate::i18n::Lang;
use crate::login::sign_in;
use crate::session::csrf;
use crate::session::extract::look;
use crate::web::input::{self, Check, Json};
use crate::web::page::language;
use crate::web::{origin, success};

/// Asked more often than this within [`WINDOW`], it is no person who types.
const MOST: u64 = 120;
const WINDOW: Duration = Duration::from_secs(60);

/// Body of `POST /api/password-strength`.
#[derive(Deserialize)]
pub struct StrengthRequest {
    password: String,
    /// What somebody who has no account yet has typed beside it.
    #[serde(default)]
    names: Vec<String>,
}

impl Check for StrengthRequest {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_password(errors, "password", &self.password);
        if self.names.len() > 3 || self.names.iter().any(|name| name.len() > 1024) {
            errors.add("names", "These are at most three names.");
        }
    }
}

/// Tells how strong a password is: `score` from 0 to 4, whether it would be `accepted`, and a
/// `sentence`. Needs a page of ours, of somebody signed in or about to sign up.
pub async fn strength(
    req: HttpRequest,
    app: web::Data<App>,
    body: Json<StrengthRequest>,
) -> Result<HttpResponse, AppError> {
    let asked = body.0;
    origin::refuse_foreign(&req, &app)?;
    let (names, lang) = match look(&req, &app, app.clock.now()).await {
        Ok(session) => {
            csrf::check_session(&req, &app, &session.record, None)?;
            let record = session.record;
            let lang = language(&req, record.locale.as_deref());
            (vec![record.username, record.email, record.name], lang)
        }
        Err(AppError::Problem(Code::SessionMissing)) if app.config.registration_open => {
            csrf::check_visitor(&req, &app, csrf::sent(&req))?;
            (asked.names, language(&req, None))
        }
        Err(error) => return Err(error),
    };
    limit(&req, &app).await?;
    let password = normalise(&asked.password);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let judged = password::judge(&password, &names, app.config.password_min_length);
    let sentence = match judged.weakness {
        Some(weakness) => weakness.sentence(lang),
        None => praise(lang, judged.score),
    };
    let data = json!({
        "score": judged.score,
        "accepted": judged.weakness.is_none(),
        "sentence": sentence,
    });
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
