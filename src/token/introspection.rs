//! What a token is worth (RFC 7662), and giving it up (RFC 7009), for every kind there is.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::jwt::Reading;
use super::personal::{self, Candidate, memory};
use crate::app::App;
use crate::audit::{self, Actor, Event, Kind};
use crate::caller::admin::administrator;
use crate::caller::scope::Introspect;
use crate::caller::{Caller, Credential};
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::login::rotation::{self, Purpose, TokenId};
use crate::login::{self, Cause, Client};
use crate::web::input::{self, Check, JsonOrForm};
use crate::web::{origin, success};

/// A token that somebody asks about. `token_type_hint` is not needed: no two kinds look alike.
#[derive(Deserialize)]
pub struct Question {
    token: String,
}

impl Check for Question {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_required(errors, "token", &self.token, 4096);
    }
}

/// `POST /api/v1/auth/introspect`: for administrators and for tokens of that scope.
pub async fn introspect(
    app: web::Data<App>,
    caller: Caller<Introspect>,
    question: JsonOrForm<Question>,
) -> Result<HttpResponse, AppError> {
    let by_scope = matches!(caller.credential, Credential::Personal(_));
    if !by_scope && administrator(&app, caller.user_id()).await?.is_none() {
        return Err(Code::Forbidden.into());
    }
    let now = app.clock.now();
    let told = describe(&app, &question.0.token, now).await?;
    // What is not active is told nothing about (RFC 7662, 2.2).
    Ok(HttpResponse::Ok().json(told.unwrap_or_else(|| json!({"active": false}))))
}

async fn describe(app: &App, token: &str, now: Timestamp) -> Result<Option<Value>, AppError> {
    if let Reading::Good(claims) = app.jwt.read(token, now) {
        let ended = app.ended.cause_of_any([&claims.sid, &claims.jti])?;
        return Ok(ended.is_none().then(|| {
            json!({
                "active": true,
                "token_type": "Bearer",
                "sub": claims.sub,
                "username": claims.name,
                "role": claims.role,
                "iss": claims.iss,
                "aud": claims.aud,
                "iat": claims.iat,
                "nbf": claims.nbf,
                "exp": claims.exp,
                "jti": claims.jti,
                "sid": claims.sid,
            })
        }));
    }
    if let Some(refresh) = TokenId::read(&app.secrets, Purpose::Refresh, token) {
        let live = app.db.read(move |conn| rotation::live(conn, &refresh, now));
        return Ok(live.await?.map(|(login, user, expires_at)| {
            json!({
                "active": true,
                "token_type": "refresh_token",
                "sub": user.id,
                "username": user.username,
                "role": user.role,
                "exp": expires_at.seconds(),
                "sid": login.id,
            })
        }));
    }
    let Some(candidate) = Candidate::read(&app.secrets, token) else {
        return Ok(None);
    };
    let known = memory::read(app, &candidate, now).await?.good().ok();
    Ok(known.map(|known| {
        json!({
            "active": true,
            "token_type": "Bearer",
            "scope": known.scopes.names().join(" "),
            "sub": known.user.id,
            "username": known.user.username,
            "role": known.user.role,
            "iat": known.token.created_at.seconds(),
            "exp": known.token.expires_at.seconds(),
            "jti": known.token.id,
        })
    }))
}

/// `POST /api/v1/auth/revoke`: whoever holds a token may give it up. The answer is the same whether
/// or not there was such a token (RFC 7009, 2.2).
pub async fn revoke(
    req: HttpRequest,
    app: web::Data<App>,
    question: JsonOrForm<Question>,
) -> Result<HttpResponse, AppError> {
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
    Ok(success("The token is not good any more.", json!(null)))
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
