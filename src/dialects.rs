//! Two older dialects of the token API, for clients that cannot be changed: other paths and other
//! names for the same rules. `/login` and `/refresh` here take and give JSON, know no cookie and no
//! session, and tell errors as problems. `/api/auth/…` and `/api/users` ([`api`]) put everything into
//! an envelope; how that tells errors is settled in [`crate::web::answer`], as for every route.

use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::openapi::schema;
use crate::token::refresh::exchange;
use crate::token::{self, Pair};
use crate::web::input::{self, Check, Json};
use crate::web::{Plain, origin};

/// What a login and a refresh give.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OlderTokens")]
pub struct TokensOut {
    token: String,
    #[serde(rename = "refreshToken")]
    refresh_token: Option<String>,
    #[serde(rename = "expiresIn")]
    expires_in: i64,
}

/// Body of `POST /login` by a program.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ProgramLogin")]
pub struct Login {
    #[schemars(schema_with = "schema::required::<254>", example = &"ada")]
    username: String,
    #[schemars(schema_with = "schema::password")]
    password: String,
}

impl Check for Login {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_required(errors, "username", &self.username, 254);
        input::check_password(errors, "password", &self.password);
    }
}

/// `POST /login` with a JSON body. It gives tokens to whoever asked and signs no browser in, so that
/// it needs no form token.
pub async fn log_in(
    req: HttpRequest,
    app: web::Data<App>,
    body: Json<Login>,
) -> Result<Plain<TokensOut>, AppError> {
    let asked = body.0;
    let client = origin::client(&req, &app.config, None);
    let (name, password) = (&asked.username, &asked.password);
    let logged_in = token::log_in(&app, name, password, client, |_, _, _| Ok(()));
    let (pair, (), now) = logged_in.await?;
    Ok(tokens(&pair, now))
}

/// Body of `POST /refresh`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ProgramRefresh")]
pub struct Refresh {
    #[serde(rename = "refreshToken", default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::required::<4096>", example = &"q3oJ0d7VZbUu…")]
    refresh_token: Option<String>,
}

impl Check for Refresh {
    fn check(&self, errors: &mut FieldErrors) {
        check_token(errors, "refreshToken", self.refresh_token.as_deref());
    }
}

/// `POST /refresh`.
pub async fn refresh(
    req: HttpRequest,
    app: web::Data<App>,
    body: Json<Refresh>,
) -> Result<Plain<TokensOut>, AppError> {
    let now = app.clock.now();
    let pair = exchanged(&req, &app, body.0.refresh_token, now).await?;
    Ok(tokens(&pair, now))
}

fn tokens(pair: &Pair, now: Timestamp) -> Plain<TokensOut> {
    let given = pair.out(true, now);
    Plain(TokensOut {
        token: given.access_token,
        refresh_token: given.refresh_token,
        expires_in: given.expires_in,
    })
}

fn check_token(errors: &mut FieldErrors, field: &str, token: Option<&str>) {
    if let Some(token) = token {
        input::check_required(errors, field, token, 4096);
    }
}

async fn exchanged(
    req: &HttpRequest,
    app: &App,
    refresh_token: Option<String>,
    now: Timestamp,
) -> Result<Pair, AppError> {
    let text = refresh_token.ok_or(Code::RefreshMissing)?;
    exchange(req, app, &text, None, now).await
}

/// `/api/auth/…` and `/api/users`.
pub mod api {
    use std::sync::Arc;

    use super::*;
    use crate::admin;
    use crate::caller::admin::AdminCaller;
    use crate::caller::scope::UsersRead;
    use crate::token::OwnerOut;
    use crate::token::http::{Leaving, Shown};
    use crate::token::personal::{self, Token};
    use crate::web::answer::Outgoing;
    use crate::web::paging::{self, Paging};

    /// What every answer is put into.
    #[derive(Serialize, JsonSchema)]
    #[schemars(rename = "Older{T}")]
    pub struct Envelope<T> {
        success: bool,
        data: T,
    }

    /// The answer to a logout.
    #[derive(Serialize, JsonSchema)]
    #[schemars(rename = "OlderDone")]
    pub struct Done {
        success: bool,
    }

    /// What a login gives.
    #[derive(Serialize, JsonSchema)]
    #[schemars(rename = "Opened")]
    pub struct OpenedOut {
        user: OwnerOut,
        jwt_token: String,
        sanctum_token: String,
        refresh_token: Option<String>,
        expires_in: i64,
    }

    /// What a refresh gives.
    #[derive(Serialize, JsonSchema)]
    #[schemars(rename = "Exchanged")]
    pub struct ExchangedOut {
        jwt_token: String,
        refresh_token: Option<String>,
        expires_in: i64,
    }

    /// A person in the list.
    #[derive(Serialize, JsonSchema)]
    #[schemars(rename = "OlderPerson")]
    pub struct PersonOut {
        id: String,
        name: String,
        email: String,
    }

    /// Body of `POST /api/auth/login`.
    #[derive(Deserialize, JsonSchema)]
    #[schemars(rename = "OlderLogin")]
    pub struct Login {
        #[schemars(schema_with = "schema::required::<254>", example = &"ada@example.org")]
        email: String,
        #[schemars(schema_with = "schema::password")]
        password: String,
        #[serde(default, deserialize_with = "input::given")]
        #[schemars(schema_with = "schema::text::<100>", example = &"my laptop")]
        device_name: Option<String>,
    }

    impl Check for Login {
        fn check(&self, errors: &mut FieldErrors) {
            input::check_required(errors, "email", &self.email, 254);
            input::check_password(errors, "password", &self.password);
            if let Some(name) = &self.device_name {
                input::check_text(errors, "device_name", name, 100);
            }
        }
    }

    /// `POST /api/auth/login`: a pair, and a personal token that ends with the login. The password
    /// has just been given, so that no other step-up is needed. A device that says its name has one
    /// such token at a time; of two that do not say it nobody knows whether they are the same.
    pub async fn log_in(
        req: HttpRequest,
        app: web::Data<App>,
        body: Json<Login>,
    ) -> Result<Plain<Envelope<OpenedOut>>, AppError> {
        let asked = body.0;
        let client = origin::client(&req, &app.config, asked.device_name.as_deref());
        let (name, password) = (&asked.email, &asked.password);
        let is_named = asked.device_name.is_some() && !client.device.is_empty();
        let (secrets, longest) = (Arc::clone(&app.secrets), app.config.clocks.personal_token);
        let logged_in = token::log_in(&app, name, password, client, move |conn, login, client| {
            let (token, text) = Token::of_login(&secrets, login, longest);
            match is_named {
                true => personal::replace(conn, &token, login, client)?,
                false => drop(personal::create(conn, &token, &login.id, client)?),
            }
            Ok(text)
        });
        let (pair, personal, now) = logged_in.await?;
        if is_named {
            app.personal_tokens.forget();
        }
        let given = pair.out(true, now);
        Ok(success(OpenedOut {
            user: given.user,
            jwt_token: given.access_token,
            sanctum_token: personal.expose().clone(),
            refresh_token: given.refresh_token,
            expires_in: given.expires_in,
        }))
    }

    /// Body of `POST /api/auth/refresh`.
    #[derive(Deserialize, JsonSchema)]
    #[schemars(rename = "OlderRefresh")]
    pub struct Refresh {
        #[serde(default, deserialize_with = "input::given")]
        #[schemars(schema_with = "schema::required::<4096>", example = &"q3oJ0d7VZbUu…")]
        refresh_token: Option<String>,
    }

    impl Check for Refresh {
        fn check(&self, errors: &mut FieldErrors) {
            check_token(errors, "refresh_token", self.refresh_token.as_deref());
        }
    }

    /// `POST /api/auth/refresh`.
    pub async fn refresh(
        req: HttpRequest,
        app: web::Data<App>,
        body: Json<Refresh>,
    ) -> Result<Plain<Envelope<ExchangedOut>>, AppError> {
        let now = app.clock.now();
        let pair = exchanged(&req, &app, body.0.refresh_token, now).await?;
        let given = pair.out(true, now);
        Ok(success(ExchangedOut {
            jwt_token: given.access_token,
            refresh_token: given.refresh_token,
            expires_in: given.expires_in,
        }))
    }

    /// `POST /api/auth/logout`.
    pub async fn log_out(
        req: HttpRequest,
        app: web::Data<App>,
        Leaving(bearer): Leaving,
        shown: Shown,
    ) -> Result<Plain<Done>, AppError> {
        token::http::end(&req, &app, bearer, shown).await?;
        Ok(Plain(Done { success: true }))
    }

    /// `GET /api/users`. Its shape has no place for a cursor, so that the address of the next piece
    /// stands in a header (RFC 8288).
    pub async fn users(
        req: HttpRequest,
        app: web::Data<App>,
        _: AdminCaller<UsersRead>,
        paging: Paging,
    ) -> Result<Plain<Envelope<Vec<PersonOut>>>, AppError> {
        let limit = paging::MOST;
        let paging = Paging { limit, ..paging };
        let (rows, after) = (paging.rows(), paging.after.clone());
        let found = app
            .db
            .read(move |conn| admin::search(conn, "", after.as_deref(), rows));
        let (people, next) = paging.cut(found.await?, |user| &user.username);
        let people = people.into_iter().map(|user| PersonOut {
            id: user.id,
            name: user.name,
            email: user.email,
        });
        if let Some(cursor) = next {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("cursor", &cursor)
                .finish();
            let link = format!("</api/users?{query}>; rel=\"next\"");
            let link = link.parse().map_err(|_| Code::Internal)?;
            Outgoing::set_header(&req, "link", link);
        }
        Ok(success(people.collect()))
    }

    const fn success<T>(data: T) -> Plain<Envelope<T>> {
        let success = true;
        Plain(Envelope { success, data })
    }
}
