//! What a token is worth (RFC 7662), and giving it up (RFC 7009), for every kind there is.

use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::jwt::Reading;
use super::personal::memory::{self, Known};
use super::personal::{self, Candidate};
use crate::app::App;
use crate::audit::{self, Actor, Event, Kind};
use crate::caller::admin::administrator;
use crate::caller::scope::{Introspect, Scope};
use crate::caller::{Caller, Credential};
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::login::rotation::{self, Purpose, TokenId};
use crate::login::{self, Cause, Client};
use crate::openapi::{Input, Operation, schema};
use crate::session::extract::app_of;
use crate::web::input::{self, Check, JsonOrForm};
use crate::web::{Plain, Success, origin, success};

/// A token that somebody asks about. `token_type_hint` is not needed: no two kinds look alike.
#[derive(Deserialize, JsonSchema)]
pub struct Question {
    #[schemars(schema_with = "schema::required::<4096>", example = &"q3oJ0d7VZbUu…")]
    token: String,
}

impl Check for Question {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_required(errors, "token", &self.token, 4096);
    }
}

/// Whoever may ask: an administrator, or a token that names that scope. `*` is all that its person
/// may do, and no more.
pub struct Asker;

impl FromRequest for Asker {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let caller = Caller::<Introspect>::from_request(req, payload);
        let app = app_of(req);
        Box::pin(async move {
            let caller = caller.await?;
            let names_it = |known: &Known| known.scopes.iter().any(|own| own == Scope::Introspect);
            let by_scope =
                matches!(&caller.credential, Credential::Personal(known) if names_it(known));
            match by_scope || administrator(&app, caller.user_id()).await?.is_some() {
                true => Ok(Self),
                false => Err(Code::Forbidden.into()),
            }
        })
    }
}

impl Input for Asker {
    fn describe(operation: &mut Operation) {
        Caller::<Introspect>::describe(operation);
        operation.fails(&[Code::Forbidden]);
    }
}

/// What a token is worth, in the words of RFC 7662. Of one that is not active nothing else is told.
#[derive(Default, Serialize, JsonSchema)]
pub struct Introspection {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"Bearer")]
    token_type: Option<&'static str>,
    /// Of a personal token: its scopes, with spaces in between.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"profile:read sessions:read")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"ada")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"user")]
    role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"https://gate.example.org")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"https://gate.example.org")]
    aud: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", example = 1_795_237_567)]
    iat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", example = 1_795_237_567)]
    nbf: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", example = 1_795_239_367)]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    jti: Option<String>,
    /// The login it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    sid: Option<String>,
}

/// `POST /api/v1/auth/introspect`: for administrators and for tokens of that scope.
pub async fn introspect(
    app: web::Data<App>,
    _: Asker,
    question: JsonOrForm<Question>,
) -> Result<Plain<Introspection>, AppError> {
    let now = app.clock.now();
    let told = describe(&app, &question.0.token, now).await?;
    Ok(Plain(told.unwrap_or_default()))
}

async fn describe(
    app: &App,
    token: &str,
    now: Timestamp,
) -> Result<Option<Introspection>, AppError> {
    if let Reading::Good(claims) = app.jwt.read(token, now) {
        let ended = app.ended.cause_of_any([&claims.sid, &claims.jti])?;
        let is_active = ended.is_none() && !claims.must_change_password;
        return Ok(is_active.then(|| Introspection {
            active: true,
            token_type: Some("Bearer"),
            scope: None,
            sub: Some(claims.sub.clone()),
            username: Some(claims.name.clone()),
            role: Some(claims.role.clone()),
            iss: Some(claims.iss.clone()),
            aud: Some(claims.aud.clone()),
            iat: Some(claims.iat),
            nbf: Some(claims.nbf),
            exp: Some(claims.exp),
            jti: Some(claims.jti.clone()),
            sid: Some(claims.sid.clone()),
        }));
    }
    if let Some(refresh) = TokenId::read(&app.secrets, Purpose::Refresh, token) {
        let live = app.db.read(move |conn| rotation::live(conn, &refresh, now));
        return Ok(live.await?.map(|(login, user, expires_at)| Introspection {
            active: true,
            token_type: Some("refresh_token"),
            sub: Some(user.id),
            username: Some(user.username),
            role: Some(user.role),
            exp: Some(expires_at.seconds()),
            sid: Some(login.id),
            ..Introspection::default()
        }));
    }
    let Some(candidate) = Candidate::read(&app.secrets, token) else {
        return Ok(None);
    };
    let known = memory::read(app, &candidate, now).await?.good().ok();
    Ok(known.map(|known| Introspection {
        active: true,
        token_type: Some("Bearer"),
        scope: Some(known.scopes.names().join(" ")),
        sub: Some(known.user.id.clone()),
        username: Some(known.user.username.clone()),
        role: Some(known.user.role.clone()),
        iat: Some(known.token.created_at.seconds()),
        exp: Some(known.token.expires_at.seconds()),
        jti: Some(known.token.id.clone()),
        ..Introspection::default()
    }))
}

/// `POST /api/v1/auth/revoke`: whoever holds a token may give it up. The answer is the same whether
/// or not there was such a token (RFC 7009, 2.2).
pub async fn revoke(
    req: HttpRequest,
    app: web::Data<App>,
    question: JsonOrForm<Question>,
) -> Result<Success<()>, AppError> {
    let now = app.clock.now();
    let client = origin::client(&req, &app.config, None);
    let token = &question.0.token;
    if let Reading::Good(claims) = app.jwt.read(token, now) {
        if app
            .ended
            .cause_of_any([&claims.sid, &claims.jti])?
            .is_none()
        {
            let (jti, until) = (claims.jti.clone(), claims.expires_at());
            let event = Event::new(Kind::AccessTokenRevoked, &claims.sub, now)
                .by(&claims.sub, &client)
                .of_login(&claims.sid);
            let revoked = app.db.write(move |conn| {
                login::announce(conn, &jti, Cause::Revoked, now, until)?;
                audit::record(conn, &event)
            });
            revoked.await?;
            app.announce_id(&claims.jti, Cause::Revoked, until);
        }
    } else if let Some(refresh) = TokenId::read(&app.secrets, Purpose::Refresh, token) {
        end_login_of(&app, refresh, client, now).await?;
    } else if let Some(candidate) = Candidate::read(&app.secrets, token)
        && let Ok(known) = memory::read(&app, &candidate, now).await?.good()
    {
        let (user_id, id) = (known.user.id.clone(), known.token.id.clone());
        let revoked = app
            .db
            .write(move |conn| personal::revoke(conn, &user_id, &id, &client, now));
        revoked.await?;
        app.personal_tokens.forget();
    }
    Ok(success("The token is not good any more.", ()))
}

async fn end_login_of(
    app: &App,
    refresh: TokenId,
    client: Client,
    now: Timestamp,
) -> Result<(), AppError> {
    let ended = app.db.write(move |conn| {
        let Some(login) = rotation::login_of(conn, &refresh)? else {
            return Ok(None);
        };
        let by = Actor::person(&login.user_id, &client);
        let ended = login::end(conn, &login, Cause::LoggedOut, Some(by), now)?;
        Ok(ended.then_some(login))
    });
    if let Some(login) = ended.await? {
        app.announce(&login, Cause::LoggedOut);
    }
    Ok(())
}
