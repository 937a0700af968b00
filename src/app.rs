//! What every handler may reach, and every route, with the order of the layers around it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_cors::Cors;
use actix_identity::IdentityMiddleware;
use actix_session::SessionMiddleware;
use actix_session::config::CookieContentSecurity;
use actix_web::cookie::SameSite;
use actix_web::guard::{self, GuardContext};
use actix_web::http::Method;
use actix_web::http::header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, AUTHORIZATION};
use actix_web::web::{self, Data, ServiceConfig, resource, to};
use actix_web::{HttpResponse, Resource, Route};

use crate::account::password::Hasher;
use crate::audit::days::Days;
use crate::caller::PERSONAL_TOKEN_HEADERS;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, DatabaseUrl};
use crate::db::Db;
use crate::error::Code;
use crate::figures::Figures;
use crate::keys;
use crate::keystore::Keystore;
use crate::login::ended::{self, Ended};
use crate::login::sign_in::Limits;
use crate::login::{self, Cause, Login, rotation};
use crate::metrics::Metrics;
use crate::openapi::{Endpoint, delete, get, patch, post, put};
use crate::realtime::hub::Hub;
use crate::session::cookies::session_name;
use crate::session::keeper::Keeper;
use crate::token::introspection;
use crate::token::jwt::{self, Jwt};
use crate::token::personal::{self, memory::Memory};
use crate::vault::{AppKeys, Secrets};
use crate::web::answer::is_login_by_program;
use crate::web::assets;
use crate::web::misleading::Misleading;
use crate::{
    activity, admin, dashboard, devices, dialects, forward_auth, health, openapi, profile,
    realtime, registration, session, token,
};

/// What every handler may reach. A handle: each worker has one, so that its requests count references
/// to what no other core counts on.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// What a node is made of.
pub struct Parts {
    pub config: Config,
    pub clock: Arc<dyn Clock>,
    pub db: Db,
    pub keystore: Keystore,
    pub secrets: Arc<Secrets>,
    pub jwt: Arc<Jwt>,
    pub hasher: Hasher,
    pub login_limits: Limits,
    /// On PostgreSQL.
    pub rotations: Option<rotation::together::Queue>,
    pub ended: Arc<Ended>,
    pub personal_tokens: Memory,
    pub figures: Figures,
    /// How many logins everybody's days had.
    pub days: Arc<Days>,
    /// The figures, where counting them takes long.
    pub overview: admin::overview::Kept,
    pub metrics: Metrics,
    pub hub: Arc<Hub>,
    pub misleading: Misleading,
    draining: AtomicBool,
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Opens everything that a server needs, and begins to follow the feed of ended logins and the keys.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let db = Db::open(&config.database, 16).map_err(|error| error.to_string())?;
        let patient = db.patient();
        // A new key would open nothing of what is there, and hide that the right one is gone.
        let app_keys = Arc::new(match keys::exist(&patient).await? {
            true => AppKeys::load(&config)?,
            false => AppKeys::load_or_make(&config)?,
        });
        let keystore = Keystore::open(&config, &db, Arc::clone(&clock)).await;
        let keystore = keystore.map_err(|error| error.to_string())?;
        let (algorithm, lifetime) = (config.jwt_algorithm, config.clocks.login_lifetime);
        let now = clock.now();
        let keys = keys::load(&patient, &app_keys, algorithm, lifetime, now).await?;
        let jwt = Arc::new(Jwt::new(&config, keys.signing, now)?);
        let ended = Arc::new(Ended::new(config.revocation_max_lag));
        let mut reader = ended::Reader::default();
        let read = reader.read(&patient, &ended, clock.now()).await;
        read.map_err(|error| error.to_string())?;
        actix_web::rt::spawn(ended::feed(
            reader,
            db.clone(),
            Arc::clone(&ended),
            Arc::clone(&clock),
        ));
        actix_web::rt::spawn(jwt::follow(
            Arc::clone(&jwt),
            db.clone(),
            app_keys,
            lifetime,
            Arc::clone(&clock),
        ));
        let hub = Arc::new(Hub::default());
        if let Keystore::Redis(redis) = &keystore {
            let (redis, ended, hub) = (redis.clone(), Arc::clone(&ended), Arc::clone(&hub));
            actix_web::rt::spawn(async move {
                let hear = |channel: &str, payload: &str| match channel {
                    ended::CHANNEL => ended.hear(payload),
                    _ => hub.note_change(payload),
                };
                let channels = [ended::CHANNEL, realtime::CHANNEL];
                redis.listen(&channels, hear).await;
            });
        }
        let hasher = Hasher::new(&config)?;
        let redis = match &keystore {
            Keystore::Redis(redis) => Some(redis.timing()),
            Keystore::Embedded(_) => None,
        };
        let metrics = Metrics::new(db.timing(), redis, hasher.queue(), now);
        let rotations = matches!(config.database, DatabaseUrl::Postgres(_)).then(|| {
            let rules = token::refresh::rules(&config);
            rotation::together::Queue::open(db.clone(), rules)
        });
        Ok(Self(Arc::new(Parts {
            jwt,
            hasher,
            metrics,
            login_limits: Limits::default(),
            rotations,
            secrets: Arc::new(keys.secrets),
            config,
            clock,
            db,
            keystore,
            ended,
            personal_tokens: Memory::default(),
            figures: Figures::default(),
            days: Arc::default(),
            overview: admin::overview::Kept::default(),
            hub,
            misleading: Misleading::default(),
            draining: AtomicBool::new(false),
        })))
    }

    /// Takes on no new work from now on: not ready, connections are closed after their answer, and
    /// sockets at once.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.hub.drain();
    }

    /// Whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Makes an end known that the database already knows: here at once, to other nodes by Redis.
    /// Those that miss it read it from the database.
    pub fn announce(&self, login: &Login, cause: Cause) {
        self.announce_id(&login.id, cause, login.expires_at);
        self.announce_change(&login.user_id);
    }

    /// Tells the sockets of a user, on every node, that their list of logins is another now: once
    /// that is so in the database.
    pub fn announce_change(&self, user_id: &str) {
        self.hub.note_change(user_id);
        self.publish(realtime::CHANNEL, user_id.to_owned());
    }

    /// As [`App::announce`], for a login or a single access token.
    pub fn announce_id(&self, id: &str, cause: Cause, expires_at: Timestamp) {
        self.ended.insert(id, cause, expires_at);
        self.publish(ended::CHANNEL, ended::announcement(id, cause, expires_at));
    }

    fn publish(&self, channel: &'static str, payload: String) {
        if let Keystore::Redis(redis) = &self.keystore {
            let redis = redis.clone();
            actix_web::rt::spawn(async move {
                if let Err(error) = redis.publish(channel, &payload).await {
                    tracing::debug!(%error, channel, "an announcement was not made");
                }
            });
        }
    }

    /// Copies the last activity to the database, where it outlives the activity key; behind the
    /// answer, since nothing depends on it.
    pub fn persist_activity(&self, login_id: &str, at: Timestamp) {
        let (db, login_id) = (self.db.clone(), login_id.to_owned());
        actix_web::rt::spawn(async move {
            let noted = db.note(move |conn| login::mark_activity(conn, &login_id, at));
            if let Err(error) = noted.await {
                tracing::debug!(%error, "a last activity was not noted");
            }
        });
    }
}

/// Every route. Layers apply from the last `wrap` to the first; the outermost, which dresses every
/// answer, is `web::answer::dress` around the whole.
pub fn routes(app: Data<App>) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        bare().serve(config);
        config
            .service(at("/static/{path:.*}", [(Method::GET, to(assets::serve))]))
            // Bearers never pass through the session layer: a JWT costs no I/O.
            .service(
                web::scope("/api")
                    .guard(carries_credentials)
                    .wrap(cors(&app.config))
                    .configure(serve_api),
            )
            .service(
                web::scope("/api")
                    .wrap(IdentityMiddleware::default())
                    .wrap(sessions(&app))
                    .wrap(cors(&app.config))
                    .configure(serve_api),
            )
            // No session and no cookie; and a page has one of the paths, too.
            .service(
                web::scope("")
                    .guard(guard::fn_guard(is_for_programs))
                    .wrap(cors(&app.config))
                    .configure(|config| for_programs().serve(config)),
            )
            .service(
                web::scope("")
                    .wrap(IdentityMiddleware::default())
                    .wrap(sessions(&app))
                    .configure(pages),
            );
    }
}

/// Every route that answers with JSON, in the order in which the document tells of them; those of
/// the API without their `/api`.
#[rustfmt::skip]
pub fn api() -> Vec<Group> {
    use Code::{AccountDisabled, Conflict, Forbidden, InvalidCredentials, RateLimited, RefreshExpired, RefreshInvalid, RefreshMissing, MalformedRequest, RefreshReused, ReauthenticationRequired, TokenMismatch, UpgradeRequired};
    vec![
        group("Logging in", "A login is one sign-in on one device. It begins with a password and gives two tokens: an access token, which goes with every request, and a refresh token, which is exchanged for the next pair.", vec![
            ("/v1/auth/token", vec![post(token::http::token, "Log in")
                .says("Begins a login. After too many wrong passwords the answer is 429, and says when to come back.")
                .fails(&[InvalidCredentials, AccountDisabled, RateLimited])]),
            ("/v1/auth/refresh", vec![post(token::http::refresh, "Exchange a refresh token")
                .says("Gives the next pair. Presented again within ten seconds the same token leads to the same successor; presented later, when that is in use, it is taken for stolen, and the login ends.")
                .fails(&[RefreshExpired, RefreshReused, RateLimited])]),
            ("/v1/auth/auto-refresh", vec![post(token::http::auto_refresh, "Exchange a refresh token if it is time")
                .says("As refreshing, but if the access token beside it is good for long enough, the pair comes back as it is.")
                .fails(&[RefreshExpired, RefreshReused, RateLimited, TokenMismatch])
                .or_without()]),
            ("/v1/auth/token-status", vec![get(token::http::token_status, "What a token is worth")
                .says("Of the token that is presented. A genuine one that has expired or was revoked is told so by 200 and `valid: false`.")]),
            ("/v1/auth/logout", vec![post(token::http::logout, "Log out")
                .says("Ends the login. Once the access token has expired, the refresh token will do.")
                .fails(&[RefreshExpired, TokenMismatch])
                .or_without()]),
            ("/v1/auth/logout-all", vec![post(token::http::logout_all, "Log out everywhere")
                .says("Ends every login of the caller, this one too.")]),
            ("/v1/auth/register", vec![post(registration::http::register, "Sign up")
                .says("Where registration is open; else the answer is 404.")
                .fails(&[InvalidCredentials, Conflict, RateLimited])]),
        ]),
        group("Your account", "What a caller sees and does of their own.", vec![
            ("/v1/me", vec![
                get(profile::http::me, "Your account"),
                patch(profile::http::patch_me, "Change your name, language or theme"),
            ]),
            ("/v1/me/password", vec![put(profile::http::put_password, "Change your password")
                .says("Ends every other login. This one goes on, with a new pair in the headers.")
                .fails(&[Conflict])]),
            ("/v1/sessions", vec![
                get(devices::http::list, "Your logins"),
                delete(devices::http::delete_others, "End every other login"),
            ]),
            ("/v1/sessions/{id}", vec![delete(devices::http::delete, "End a login")]),
            ("/v1/audit", vec![get(activity::http::list, "What has happened")
                .says("Your own events; everybody's for an administrator.")
                .fails(&[Forbidden])]),
            ("/v1/ws", vec![get(realtime::http::connect, "Listen, over a WebSocket")
                .says("A page of ours is let in by its session. Others say who they are within ten seconds: `{\"type\": \"authenticate\", \"token\": \"…\"}`, with an access token or a personal token with the scope `sessions:read`. The README has the messages.")
                .fails(&[MalformedRequest, UpgradeRequired, RateLimited])]),
            ("/update-activity", vec![post(session::http::update_activity, "Say that somebody is there")
                .says("What a page sends while its person moves, types or clicks. It revives nothing that is over.")]),
            ("/password-strength", vec![post(profile::strength::strength, "Judge a password while it is typed")
                .says("For our own pages. Nothing is stored.")
                .fails(&[RateLimited])]),
        ]),
        group("Personal tokens", "For programs: they last, and may do just what their scopes say.", vec![
            ("/v1/tokens", vec![
                get(personal::http::list, "Your personal tokens"),
                post(personal::http::create, "Make a personal token")
                    .says("Needs a password given within ten minutes, or `current_password`.")
                    .fails(&[ReauthenticationRequired, Conflict]),
            ]),
            ("/v1/tokens/{id}", vec![delete(personal::http::delete, "Revoke a personal token")]),
        ]),
        group("People", "For administrators.", vec![
            ("/v1/users", vec![
                get(admin::api::list, "People"),
                post(admin::api::post, "Add a person")
                    .says("To add an administrator needs a password given within ten minutes.")
                    .fails(&[ReauthenticationRequired, Conflict]),
            ]),
            ("/v1/users/{id}", vec![
                get(admin::api::get, "A person"),
                patch(admin::api::patch, "Change a person")
                    .says("Role, password, address and whether they are disabled need a password given within ten minutes, and no personal token may change them, nor anything of an administrator.")
                    .fails(&[ReauthenticationRequired, Conflict]),
            ]),
        ]),
        group("Logins of others", "For administrators.", vec![
            ("/v1/users/{id}/sessions", vec![
                get(admin::api::list_sessions, "A person's logins"),
                delete(admin::api::delete_sessions, "End a person's logins")
                    .says("All but the one that asks. Needs a password given within ten minutes, or `current_password`.")
                    .fails(&[ReauthenticationRequired]),
            ]),
            ("/v1/users/{id}/sessions/{login}", vec![delete(admin::api::delete_session, "End a login of a person")
                .says("Needs a password given within ten minutes, or `current_password`.")
                .fails(&[ReauthenticationRequired])]),
        ]),
        group("For other servers", "Who stands behind a request that came to somebody else.", vec![
            ("/v1/verify", vec![get(forward_auth::verify, "Whether a request may pass")
                .says("For nginx `auth_request`, Caddy and Traefik: who it is stands in the headers.")
                .gives(&["X-Auth-User-Id", "X-Auth-Username", "X-Auth-Email", "X-Auth-Role"])]),
            ("/v1/auth/introspect", vec![post(introspection::introspect, "What a token is worth to somebody else")
                .says("RFC 7662. For administrators, and for personal tokens that name the scope `introspect`: `*` is no more than what its person may.")]),
            ("/v1/auth/revoke", vec![post(introspection::revoke, "Give up a token")
                .says("RFC 7009. The answer is the same whether or not there was such a token.")]),
            ("/v1/openapi.json", vec![get(openapi::http::json, "This document")]),
        ]),
        group("An older dialect", "The same rules under other names, for clients that cannot be changed.", vec![
            ("/auth/login", vec![post(dialects::api::log_in, "Log in, as it was")
                .says("A pair, and a personal token that ends with the login.")
                .fails(&[InvalidCredentials, AccountDisabled, RateLimited])]),
            ("/auth/refresh", vec![post(dialects::api::refresh, "Exchange a refresh token, as it was")
                .fails(&[RefreshMissing, RefreshInvalid, RefreshExpired, RefreshReused, RateLimited])]),
            ("/auth/logout", vec![post(dialects::api::log_out, "Log out, as it was")
                .fails(&[RefreshExpired, TokenMismatch])
                .or_without()]),
            ("/users", vec![get(dialects::api::users, "People, as it was")]),
        ]),
    ]
}

/// What programs of the second dialect call, outside of `/api`.
#[rustfmt::skip]
pub fn for_programs() -> Group {
    use Code::{AccountDisabled, InvalidCredentials, RateLimited, RefreshExpired, RefreshInvalid, RefreshMissing, RefreshReused};
    group("Another older dialect", "The same rules again, for programs that send JSON to paths of pages.", vec![
        ("/login", vec![post(dialects::log_in, "Log in, as it was without `/api`")
            .says("With `Content-Type: application/json`; a form goes to the login page.")
            .fails(&[InvalidCredentials, AccountDisabled, RateLimited])]),
        ("/refresh", vec![post(dialects::refresh, "Exchange a refresh token, as it was without `/api`")
            .fails(&[RefreshMissing, RefreshInvalid, RefreshExpired, RefreshReused, RateLimited])]),
    ])
}

/// Those outside of `/api`.
pub fn bare() -> Group {
    group(
        "The server",
        "Whether it is well, and what its tokens are signed with.",
        vec![
            (
                "/.well-known/jwks.json",
                vec![get(token::http::jwks, "Public keys of the access tokens")],
            ),
            ("/healthz", vec![get(health::healthz, "Alive")]),
            ("/readyz", vec![get(health::readyz, "Able to serve")]),
        ],
    )
}

/// Routes that have to do with each other.
pub struct Group {
    /// Its title in the document.
    pub name: &'static str,
    /// What they have to do with each other.
    pub about: &'static str,
    /// Each path, and what may be done with it.
    pub paths: Vec<(&'static str, Vec<Endpoint>)>,
}

const fn group(
    name: &'static str,
    about: &'static str,
    paths: Vec<(&'static str, Vec<Endpoint>)>,
) -> Group {
    Group { name, about, paths }
}

impl Group {
    fn serve(self, config: &mut ServiceConfig) {
        for (path, endpoints) in self.paths {
            let methods = endpoints.into_iter();
            config.service(at(
                path,
                methods.map(|endpoint| (endpoint.method, endpoint.route)),
            ));
        }
    }
}

fn serve_api(config: &mut ServiceConfig) {
    for group in api() {
        group.serve(config);
    }
}

#[rustfmt::skip]
fn pages(config: &mut ServiceConfig) {
    config
        .service(at("/", [(Method::GET, to(session::http::home))]))
        .service(at("/docs", [(Method::GET, to(openapi::http::docs))]))
        .service(at("/login", [
            (Method::GET, to(session::http::login_page)),
            (Method::POST, to(session::http::log_in)),
        ]))
        .service(at("/register", [
            (Method::GET, to(registration::http::page)),
            (Method::POST, to(registration::http::sign_up)),
        ]))
        .service(at("/logout", [(Method::POST, to(session::http::log_out))]))
        .service(at("/dashboard/profile", [
            (Method::GET, to(profile::http::profile_page)),
            (Method::POST, to(profile::http::save_profile)),
        ]))
        .service(at("/dashboard/language", [(Method::POST, to(profile::http::choose_language))]))
        .service(at("/dashboard/password", [
            (Method::GET, to(profile::http::password_page)),
            (Method::POST, to(profile::http::set_password)),
        ]))
        .service(at("/dashboard/sessions", [(Method::GET, to(devices::http::page))]))
        .service(at("/dashboard/sessions/revoke-others", [(Method::POST, to(devices::http::revoke_others))]))
        .service(at("/dashboard/sessions/{id}/revoke", [(Method::POST, to(devices::http::revoke))]))
        .service(at("/dashboard/tokens", [
            (Method::GET, to(personal::http::page)),
            (Method::POST, to(personal::http::create_on_page)),
        ]))
        .service(at("/dashboard/tokens/{id}/revoke", [(Method::POST, to(personal::http::revoke_on_page))]))
        .service(at("/dashboard/activity", [(Method::GET, to(activity::http::page))]))
        .service(at("/dashboard/activity.{format:csv|json}", [(Method::GET, to(activity::http::file))]))
        .service(at("/dashboard", [(Method::GET, to(dashboard::http::overview))]))
        .service(at("/admin", [(Method::GET, to(admin::http::overview))]))
        .service(at("/admin/activity", [(Method::GET, to(activity::http::everybodys_page))]))
        .service(at("/admin/activity.{format:csv|json}", [(Method::GET, to(activity::http::everybodys_file))]))
        .service(at("/admin/users", [(Method::GET, to(admin::http::people))]))
        .service(at("/admin/users/new", [
            (Method::GET, to(admin::http::new_page)),
            (Method::POST, to(admin::http::add)),
        ]))
        .service(at("/admin/users/{id}", [
            (Method::GET, to(admin::http::one)),
            (Method::POST, to(admin::http::act)),
        ]));
}

/// The methods of one path; HEAD wherever there is GET. Another method is 405 and told which would
/// do (RFC 9110, 15.5.6).
fn at(path: &str, methods: impl IntoIterator<Item = (Method, Route)>) -> Resource {
    let mut allowed = Vec::new();
    let mut resource = resource(path);
    for (method, route) in methods {
        allowed.push(method.to_string());
        resource = resource.route(if method == Method::GET {
            allowed.push(Method::HEAD.to_string());
            route.guard(guard::Any(guard::Get()).or(guard::Head()))
        } else {
            route.method(method)
        });
    }
    let allowed = allowed.join(", ");
    resource.default_service(to(move || {
        let refused = HttpResponse::MethodNotAllowed()
            .insert_header((ALLOW, allowed.as_str()))
            .finish();
        std::future::ready(refused)
    }))
}

/// A request of the older dialect without `/api`, or a browser that asks whether a page of another
/// origin may send one.
fn is_for_programs(context: &GuardContext<'_>) -> bool {
    let head = context.head();
    let asks = head.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    match head.uri.path() {
        "/login" => is_login_by_program(head) || (head.method == Method::OPTIONS && asks),
        path => path == "/refresh",
    }
}

/// A request that brings a credential of its own is not a browser's session.
fn carries_credentials(context: &GuardContext<'_>) -> bool {
    let headers = context.head().headers();
    headers.contains_key(AUTHORIZATION)
        || PERSONAL_TOKEN_HEADERS
            .iter()
            .any(|name| headers.contains_key(*name))
}

/// Pages of the configured origins may call the API. Others are told nothing, which is how a browser
/// refuses them; the request itself is served, since not only browsers send `Origin`.
fn cors(config: &Config) -> Cors {
    let allowed = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    let known = [
        "authorization",
        "content-type",
        "x-csrf-token",
        "x-personal-token",
        "x-refresh-token",
        "x-sanctum-token",
    ];
    let shown = [
        "retry-after",
        "x-auth-method",
        "x-new-access-token",
        "x-new-refresh-token",
        "x-request-id",
        "x-token-refreshed",
    ];
    let cors = Cors::default()
        .allowed_methods(allowed)
        .allowed_headers(known)
        .expose_headers(shown)
        .supports_credentials()
        .block_on_origin_mismatch(false)
        .max_age(600);
    let origins = config.cors_origins.iter();
    origins.fold(cors, |cors, origin| cors.allowed_origin(origin))
}

/// The session layer: a browser-session cookie, encrypted, over our own keeper.
fn sessions(app: &App) -> SessionMiddleware<Keeper> {
    let config = &app.config;
    let keeper = Keeper {
        keystore: app.keystore.clone(),
        secrets: Arc::clone(&app.secrets),
        ended: Arc::clone(&app.ended),
        clock: Arc::clone(&app.clock),
        idle_timeout: config.clocks.session_idle_timeout,
    };
    SessionMiddleware::builder(keeper, app.secrets.cookie.clone())
        .cookie_name(session_name(config))
        .cookie_domain(config.cookie_domain.clone())
        .cookie_secure(config.is_https())
        .cookie_same_site(SameSite::Lax)
        .cookie_content_security(CookieContentSecurity::Private)
        .build()
}
