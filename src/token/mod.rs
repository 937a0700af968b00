//! Tokens for programs: a short-lived access token ([`jwt`]) and the refresh token that carries its
//! login on. Handlers in `http.rs`; the rules of rotation are in [`crate::login::rotation`]. Tokens
//! that a person makes for a program and that last are in [`personal`].

pub mod http;
pub mod introspection;
pub mod jwt;
pub mod personal;
pub mod refresh;

use diesel::QueryResult;
use schemars::JsonSchema;
use serde::Serialize;

use crate::account::{Role, User};
use crate::app::App;
use crate::clock::Timestamp;
use crate::config::Clocks;
use crate::db::AnyConnection;
use crate::error::{AppError, Code};
use crate::figures::Figure;
use crate::login::rotation::{self, Next, PlainToken, Purpose, Rotation, TokenId};
use crate::login::{self, Client, Kind, Login, sign_in};

/// A person as the API shows them beside their tokens.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Owner")]
pub struct OwnerOut {
    #[schemars(example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    id: String,
    #[schemars(example = &"ada")]
    username: String,
    #[schemars(example = &"ada@example.org")]
    email: String,
    #[schemars(example = &"Ada Lovelace")]
    name: String,
    #[schemars(with = "Role")]
    role: String,
}

impl From<&User> for OwnerOut {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.clone(),
            username: user.username.clone(),
            email: user.email.clone(),
            name: user.name.clone(),
            role: user.role.clone(),
        }
    }
}

/// An access token and a refresh token.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TokenPair")]
pub struct PairOut {
    /// A JWT.
    #[schemars(example = &"eyJ0eXAiOiJKV1Qi…")]
    pub access_token: String,
    /// Not there when a cookie carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", example = &"q3oJ0d7VZbUu…")]
    pub refresh_token: Option<String>,
    #[schemars(extend("const" = "bearer"))]
    pub token_type: &'static str,
    /// For how many seconds the access token is good.
    #[schemars(example = 1800)]
    pub expires_in: i64,
    /// For how many seconds the refresh token is good, unless it is used before.
    #[schemars(example = 604_800)]
    pub refresh_expires_in: i64,
    pub user: OwnerOut,
}

/// A login by API that has just begun.
pub struct Begun {
    login: Login,
    refresh: TokenId,
    refresh_expires_at: Timestamp,
}

/// Begins a login by API, with its first refresh token; `None` as [`login::begin`].
///
/// # Errors
/// When the database refuses.
pub fn begin(
    conn: &mut AnyConnection,
    user: &User,
    client: &Client,
    clocks: &Clocks,
    now: Timestamp,
) -> QueryResult<Option<Begun>> {
    let begun = login::begin(conn, user, Kind::Api, client, clocks.login_lifetime, now)?;
    let Some(login) = begun else {
        return Ok(None);
    };
    let (refresh, refresh_expires_at) =
        rotation::begin(conn, &login, Purpose::Refresh, clocks.refresh_token, now)?;
    Ok(Some(Begun {
        login,
        refresh,
        refresh_expires_at,
    }))
}

/// Lets whoever has this name and password in by API, as [`open`] does; and when that was.
///
/// # Errors
/// As [`sign_in::let_in`]; 401 also when the person has changed since they were read.
pub async fn log_in<T: Send + 'static>(
    app: &App,
    name: &str,
    password: &str,
    client: Client,
    beside: impl FnOnce(&mut AnyConnection, &Login, &Client) -> QueryResult<T> + Send + 'static,
) -> Result<(Pair, T, Timestamp), AppError> {
    let open = async move |user, client| {
        let now = app.clock.now();
        let (pair, more) = open(app, user, client, now, beside).await?;
        Ok((pair, more, now))
    };
    sign_in::let_in(app, Kind::Api, name, password, client, open).await
}

/// Begins a login by API for somebody whose password is right, and gives its first pair; `beside` is
/// done in the same transaction.
///
/// # Errors
/// 401 when the person has changed since they were read; 503 when it cannot be done now.
pub async fn open<T: Send + 'static>(
    app: &App,
    user: User,
    client: Client,
    now: Timestamp,
    beside: impl FnOnce(&mut AnyConnection, &Login, &Client) -> QueryResult<T> + Send + 'static,
) -> Result<(Pair, T), AppError> {
    let (person, clocks) = (user.clone(), app.config.clocks.clone());
    let begun = app.db.write(move |conn| {
        let Some(begun) = begin(conn, &person, &client, &clocks, now)? else {
            return Ok(None);
        };
        let more = beside(conn, &begun.login, &client)?;
        Ok(Some((begun, more)))
    });
    let (begun, more) = begun.await?.ok_or(Code::InvalidCredentials)?;
    app.announce_change(&user.id);
    Ok((Pair::first(app, user, begun, now)?, more))
}

/// An access token and the refresh token beside it.
pub struct Pair {
    login_id: String,
    access_token: String,
    access_expires_at: Timestamp,
    refresh_token: PlainToken,
    refresh_expires_at: Timestamp,
    user: User,
}

impl Pair {
    /// The first pair of a login.
    ///
    /// # Errors
    /// When signing fails.
    pub fn first(app: &App, user: User, begun: Begun, now: Timestamp) -> Result<Self, AppError> {
        let Begun {
            login,
            refresh,
            refresh_expires_at,
        } = begun;
        Self::issue(app, user, &login, refresh, refresh_expires_at, now)
    }

    /// Signs an access token to go with a refresh token.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue(
        app: &App,
        user: User,
        login: &Login,
        refresh: TokenId,
        refresh_expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<Self, AppError> {
        let signed = app.jwt.sign(&user, login, now);
        let (access_token, access_expires_at) =
            signed.map_err(|error| AppError::Internal(error.to_string()))?;
        let refresh_token = refresh.to_token(&app.secrets);
        Ok(Self {
            login_id: login.id.clone(),
            access_token,
            access_expires_at,
            refresh_token,
            refresh_expires_at,
            user,
        })
    }

    /// The pair that a rotation leads to.
    ///
    /// # Errors
    /// When signing fails.
    pub fn after(app: &App, next: Next, now: Timestamp) -> Result<Self, AppError> {
        Self::issue(
            app,
            next.user,
            &next.login,
            next.token,
            next.expires_at,
            now,
        )
    }

    /// The access token, to be sent to its holder.
    pub fn access_token(&self) -> &str {
        &self.access_token
    }

    /// The `data` of an answer; without the refresh token when a cookie carries it.
    pub fn out(&self, with_refresh_token: bool, now: Timestamp) -> PairOut {
        let refresh_token = || self.refresh_token.expose().to_owned();
        PairOut {
            access_token: self.access_token.clone(),
            refresh_token: with_refresh_token.then(refresh_token),
            token_type: "bearer",
            expires_in: self.access_expires_at.seconds() - now.seconds(),
            refresh_expires_in: self.refresh_expires_at.seconds() - now.seconds(),
            user: OwnerOut::from(&self.user),
        }
    }
}

/// Counts what came of presenting a refresh token, for the administrator's figures and the metrics.
pub fn count(app: &App, rotation: &Rotation, now: Timestamp) {
    let figures = &app.figures;
    let outcome = rotation.outcome(now);
    app.metrics.rotation(Purpose::Refresh.name(), outcome);
    match rotation {
        Rotation::Fresh(next) => {
            app.metrics.refreshed_after(next.presented_age);
            figures.count(Figure::Refreshed);
            let age = i64::try_from(next.presented_age.as_millis()).unwrap_or(0);
            figures.add(Figure::RefreshAge, age);
        }
        Rotation::Newest(_) | Rotation::Sibling(_) => figures.count(Figure::RefreshRepeated),
        Rotation::Reused { .. } => figures.count(Figure::RefreshReused),
        Rotation::Expired => figures.count(Figure::RefreshExpired),
        Rotation::Unknown => figures.count(Figure::RefreshInvalid),
        // Told to come back, not refused.
        Rotation::TooMany(_) => {}
    }
}
