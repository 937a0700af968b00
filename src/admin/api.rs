//! `/api/v1/users`.

use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Changes, Doer, Outcome, Refusal, Taken, announce, change, create, end_logins, or_taken,
};
use crate::account::password::{self, normalise};
use crate::account::{self, Role, User};
use crate::app::App;
use crate::caller::admin::AdminCaller;
use crate::caller::scope::{NoToken, UsersRead, UsersWrite};
use crate::caller::{Caller, step_up};
use crate::clock::Timestamp;
use crate::devices::{self, http::SessionOut};
use crate::error::{AppError, Code, FieldErrors};
use crate::i18n::Lang;
use crate::openapi::schema;
use crate::web::input::{self, Check, Json, OptionalJson, Query};
use crate::web::paging::{List, Paging, success_list};
use crate::web::{Created, Success, created, origin, success};

/// A person as administrators see them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "User")]
pub struct UserOut {
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
    disabled: bool,
    must_change_password: bool,
    created_at: Timestamp,
    last_login_at: Option<Timestamp>,
}

impl UserOut {
    fn new(user: &User, last_login_at: Option<Timestamp>) -> Self {
        Self {
            id: user.id.clone(),
            username: user.username.clone(),
            email: user.email.clone(),
            email_verified: user.email_verified,
            name: user.name.clone(),
            role: user.role.clone(),
            disabled: user.disabled_at.is_some(),
            must_change_password: user.must_change_password,
            created_at: user.created_at,
            last_login_at,
        }
    }
}

/// What people are searched for.
#[derive(Deserialize, JsonSchema)]
pub struct Search {
    /// Part of a username, a name or an address.
    #[serde(default)]
    #[schemars(schema_with = "schema::text::<100>", example = &"ada")]
    pub q: String,
}

impl Check for Search {
    fn check(&self, errors: &mut FieldErrors) {
        input::check_text(errors, "q", &self.q, 100);
    }
}

/// What a person is to be. What is left out stays; `null` is no value.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "UserChanges")]
pub struct UserBody {
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::username")]
    username: Option<String>,
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::email")]
    email: Option<String>,
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::required::<100>", example = &"Grace Hopper")]
    name: Option<String>,
    /// One to begin with: the person has to choose another.
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::new_password")]
    password: Option<String>,
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(with = "Role")]
    role: Option<Role>,
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(with = "bool", example = false)]
    disabled: Option<bool>,
    /// Your own, where the last one was given longer than ten minutes ago.
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::password")]
    current_password: Option<String>,
}

/// A person to be added.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("required" = ["username", "email", "password"]))]
pub struct NewUser(UserBody);

impl Check for NewUser {
    fn check(&self, errors: &mut FieldErrors) {
        self.0.check(errors);
        for (field, value) in [
            ("username", &self.0.username),
            ("email", &self.0.email),
            ("password", &self.0.password),
        ] {
            if value.is_none() {
                errors.add(field, "This field is required.");
            }
        }
    }
}

impl Check for UserBody {
    fn check(&self, errors: &mut FieldErrors) {
        let mut hold = |field: &str, text: &Option<String>, rule: Rule| {
            if let Some(Err(sentence)) = text.as_deref().map(rule) {
                errors.add(field, sentence);
            }
        };
        hold("username", &self.username, account::username);
        hold("email", &self.email, account::email);
        hold("name", &self.name, account::display_name);
        for (field, password) in [
            ("password", &self.password),
            ("current_password", &self.current_password),
        ] {
            if let Some(password) = password {
                input::check_password(errors, field, password);
            }
        }
    }
}

type Rule = fn(&str) -> Result<String, &'static str>;

impl UserBody {
    /// As the account knows them; that they are right has been checked.
    fn normalised(&self) -> [Option<String>; 3] {
        let rule = |text: &Option<String>, rule: Rule| rule(text.as_deref()?).ok();
        [
            rule(&self.username, account::username),
            rule(&self.email, account::email),
            rule(&self.name, account::display_name),
        ]
    }

    /// Needs a password given lately: what would last if a credential were stolen.
    const fn needs_step_up(&self) -> bool {
        self.role.is_some()
            || self.password.is_some()
            || self.email.is_some()
            || self.disabled.is_some()
    }

    /// The field that a refusal is about.
    const fn refused_field(&self) -> &'static str {
        match (self.role, self.disabled) {
            (Some(Role::User), _) => "role",
            (_, Some(true)) => "disabled",
            _ => "password",
        }
    }
}

/// What a personal token with `users:write` may do: add ordinary people and rename them. Nothing that
/// a signed-in administrator needs step-up for, and nothing about administrators.
pub fn may_touch(is_personal_token: bool, person: Option<&User>, asked: &UserBody) -> bool {
    if !is_personal_token {
        return true;
    }
    match person {
        None => asked.role != Some(Role::Admin),
        Some(person) => person.role == Role::User.name() && !asked.needs_step_up(),
    }
}

/// `GET /api/v1/users`.
pub async fn list(
    app: web::Data<App>,
    _: AdminCaller<UsersRead>,
    search: Query<Search>,
    paging: Paging,
) -> Result<List<UserOut>, AppError> {
    let wanted = search.0.q.trim().to_owned();
    let (rows, after) = (paging.rows(), paging.after.clone());
    let found = app.db.read(move |conn| {
        let people = super::search(conn, &wanted, after.as_deref(), rows)?;
        let ids: Vec<&str> = people.iter().map(|user| user.id.as_str()).collect();
        let last = super::last_logins(conn, &ids)?;
        Ok((people, last))
    });
    let (people, last) = found.await?;
    let (people, next) = paging.cut(people, |user| &user.username);
    let out: Vec<UserOut> = people
        .iter()
        .map(|user| UserOut::new(user, last.get(&user.id).copied()))
        .collect();
    Ok(success_list("People.", out, next.as_deref()))
}

/// `GET /api/v1/users/{id}`.
pub async fn get(
    app: web::Data<App>,
    _: AdminCaller<UsersRead>,
    id: web::Path<Uuid>,
) -> Result<Success<UserOut>, AppError> {
    let user = person(&app, *id).await?;
    Ok(success("A person.", told(&app, &user).await?))
}

/// `GET /api/v1/users/{id}/sessions`.
pub async fn list_sessions(
    app: web::Data<App>,
    asking: AdminCaller<UsersRead>,
    id: web::Path<Uuid>,
    paging: Paging,
) -> Result<List<SessionOut>, AppError> {
    let user = person(&app, *id).await?;
    devices::http::list_of(&app, &user.id, asking.caller.login_id(), &paging).await
}

/// A body that may carry the password that step-up asks for.
#[derive(Default, Deserialize, JsonSchema)]
pub struct Confirmed {
    #[serde(default, deserialize_with = "input::given")]
    #[schemars(schema_with = "schema::password")]
    current_password: Option<String>,
}

impl Check for Confirmed {
    fn check(&self, errors: &mut FieldErrors) {
        if let Some(password) = &self.current_password {
            input::check_password(errors, "current_password", password);
        }
    }
}

/// `DELETE /api/v1/users/{id}/sessions`: ends every login of a person, but the one that asks.
pub async fn delete_sessions(
    req: HttpRequest,
    app: web::Data<App>,
    asking: AdminCaller<NoToken>,
    id: web::Path<Uuid>,
    confirmed: OptionalJson<Confirmed>,
) -> Result<Success<()>, AppError> {
    end_sessions(&req, &app, &asking.caller, *id, None, confirmed.0).await
}

/// `DELETE /api/v1/users/{id}/sessions/{login}`.
pub async fn delete_session(
    req: HttpRequest,
    app: web::Data<App>,
    asking: AdminCaller<NoToken>,
    path: web::Path<(Uuid, Uuid)>,
    confirmed: OptionalJson<Confirmed>,
) -> Result<Success<()>, AppError> {
    let (id, login) = path.into_inner();
    end_sessions(&req, &app, &asking.caller, id, Some(login), confirmed.0).await
}

async fn end_sessions(
    req: &HttpRequest,
    app: &App,
    asking: &Caller<NoToken>,
    id: Uuid,
    only: Option<Uuid>,
    confirmed: Confirmed,
) -> Result<Success<()>, AppError> {
    let user = person(app, id).await?;
    step_up::require(req, app, asking, confirmed.current_password.as_deref()).await?;
    let doer = doer(req, app, asking.user_id());
    let own = asking.login_id().unwrap_or_default().to_owned();
    let (now, only) = (app.clock.now(), only.map(|id| id.to_string()));
    let outcome = app
        .db
        .write(move |conn| end_logins(conn, &user.id, only.as_deref(), &doer, &own, now));
    match outcome.await? {
        Outcome::Done(done) => {
            announce(app, &done).await;
            Ok(success("Ended.", ()))
        }
        Outcome::Unknown | Outcome::Refused(_) => Err(Code::NotFound.into()),
    }
}

/// `POST /api/v1/users`.
pub async fn post(
    req: HttpRequest,
    app: web::Data<App>,
    asking: AdminCaller<UsersWrite>,
    body: Json<NewUser>,
) -> Result<Created<UserOut>, AppError> {
    let (asking, NewUser(asked)) = (asking.caller, body.0);
    let is_personal_token = asking.is_personal_token();
    if !may_touch(is_personal_token, None, &asked) {
        return Err(Code::Forbidden.into());
    }
    let [username, email, name] = asked.normalised();
    let (Some(username), Some(email), Some(password)) = (username, email, &asked.password) else {
        return Err(Code::ValidationFailed.into());
    };
    let role = asked.role.unwrap_or(Role::User);
    if role == Role::Admin {
        let password = asked.current_password.as_deref();
        step_up::require(&req, &app, &asking, password).await?;
    }
    let name = name.unwrap_or_else(|| username.clone());
    let hash = hash(&app, password, [&username, &email, &name]).await?;
    let now = app.clock.now();
    let user = User {
        disabled_at: asked.disabled.filter(|disabled| *disabled).map(|_| now),
        ..User::new(username, email, name, role, hash, now)
    };
    let doer = doer(&req, &app, asking.user_id());
    let added = user.clone();
    let outcome = app.db.write(move |conn| create(conn, &added, &doer)).await;
    let (username, email) = (Some(user.username.as_str()), Some(user.email.as_str()));
    or_taken(outcome, &app.db, username, email, None)
        .await?
        .map_err(taken)?;
    Ok(created("Added.", told(&app, &user).await?))
}

/// `PATCH /api/v1/users/{id}`.
pub async fn patch(
    req: HttpRequest,
    app: web::Data<App>,
    asking: AdminCaller<UsersWrite>,
    id: web::Path<Uuid>,
    body: Json<UserBody>,
) -> Result<Success<UserOut>, AppError> {
    let (asking, asked) = (asking.caller, body.0);
    let user = person(&app, *id).await?;
    let is_personal_token = asking.is_personal_token();
    if !may_touch(is_personal_token, Some(&user), &asked) {
        return Err(Code::Forbidden.into());
    }
    if asked.needs_step_up() {
        let password = asked.current_password.as_deref();
        step_up::require(&req, &app, &asking, password).await?;
    }
    let [username, email, name] = asked.normalised();
    let password_hash = match &asked.password {
        None => None,
        Some(password) => {
            let names = [
                username.as_deref().unwrap_or(&user.username),
                email.as_deref().unwrap_or(&user.email),
                name.as_deref().unwrap_or(&user.name),
            ];
            Some(hash(&app, password, names).await?)
        }
    };
    let changes = Changes {
        username: username.clone(),
        email: email.clone(),
        name,
        role: asked.role,
        password_hash,
        disabled: asked.disabled,
    };
    let doer = doer(&req, &app, asking.user_id());
    let (now, subject) = (app.clock.now(), user.id.clone());
    let outcome = app
        .db
        .write(move |conn| change(conn, &subject, &changes, &doer, now))
        .await;
    let (username, email) = (username.as_deref(), email.as_deref());
    let outcome = or_taken(outcome, &app.db, username, email, Some(&user.id)).await?;
    match outcome.map_err(taken)? {
        Outcome::Unknown => Err(Code::NotFound.into()),
        Outcome::Refused(refusal) => {
            let sentence = sentence(refusal);
            let errors = FieldErrors::one(asked.refused_field(), sentence);
            Err(AppError::Conflict(errors))
        }
        Outcome::Done(done) => {
            announce(&app, &done).await;
            Ok(success("Changed.", told(&app, &done.user).await?))
        }
    }
}

async fn told(app: &App, user: &User) -> Result<UserOut, AppError> {
    let id = user.id.clone();
    let last = app
        .db
        .read(move |conn| super::last_logins(conn, &[&id]))
        .await?;
    Ok(UserOut::new(user, last.get(&user.id).copied()))
}

/// The person with that id.
///
/// # Errors
/// 404 where there is none.
pub async fn person(app: &App, id: Uuid) -> Result<User, AppError> {
    let id = id.to_string();
    let user = app.db.read(move |conn| account::by_id(conn, &id)).await?;
    user.ok_or_else(|| Code::NotFound.into())
}

/// Whoever sends this request, as the audit log names them.
pub fn doer(req: &HttpRequest, app: &App, id: &str) -> Doer {
    Doer {
        id: Some(id.to_owned()),
        client: origin::client(req, &app.config, None),
    }
}

async fn hash(app: &App, password: &str, names: [&str; 3]) -> Result<String, AppError> {
    let password = normalise(password);
    password::check(&password, &names, app.config.password_min_length).map_err(|weakness| {
        let sentence = weakness.sentence(Lang::English);
        AppError::Invalid(FieldErrors::one("password", sentence))
    })?;
    app.hasher.hash(password).await
}

fn taken(taken: Taken) -> AppError {
    let mut errors = FieldErrors::default();
    if taken.username {
        errors.add("username", "Somebody has this username already.");
    }
    if taken.email {
        errors.add("email", "Somebody has this address already.");
    }
    AppError::Conflict(errors)
}

fn sentence(refusal: Refusal) -> String {
    let key = format!("admin.refused.{}", refusal.name());
    Lang::English.text(&key).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: serde_json::Value) -> UserBody {
        serde_json::from_value(body).expect("a body")
    }

    fn somebody(role: Role) -> User {
        let text = str::to_owned;
        let now = Timestamp::from_seconds(0);
        User::new(text("ada"), text("a@b"), text("Ada"), role, text(""), now)
    }

    #[test]
    fn a_personal_token_does_nothing_that_needs_step_up_and_touches_no_administrator() {
        use serde_json::json;
        let (user, admin) = (somebody(Role::User), somebody(Role::Admin));
        for (person, body, may) in [
            (None, json!({"username": "eve"}), true),
            (None, json!({"role": "user", "password": "x"}), true),
            (None, json!({"role": "admin"}), false),
            (Some(&user), json!({"name": "Eve"}), true),
            (Some(&user), json!({"username": "eve"}), true),
            (Some(&user), json!({"disabled": true}), false),
            (Some(&user), json!({"disabled": false}), false),
            (Some(&user), json!({"role": "user"}), false),
            (Some(&user), json!({"role": "admin"}), false),
            (Some(&user), json!({"email": "e@example.org"}), false),
            (Some(&user), json!({"password": "x"}), false),
            (Some(&admin), json!({"name": "Eve"}), false),
            (Some(&admin), json!({"disabled": true}), false),
        ] {
            let asked = asked(body.clone());
            assert_eq!(may_touch(true, person, &asked), may, "{body}");
            assert!(may_touch(false, person, &asked), "{body}");
        }
    }
}
