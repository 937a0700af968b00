//! What every handler may reach, and every route, with the order of the layers around it.

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
use crate::caller::PERSONAL_TOKEN_HEADERS;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::db::Db;
use crate::figures::Figures;
use crate::keys;
use crate::keystore::Keystore;
use crate::login::ended::{self, Ended};
use crate::login::sign_in::Turnstile;
use crate::login::{self, Cause, Login};
use crate::session::cookies::session_name;
use crate::session::keeper::Keeper;
use crate::token::introspection;
use crate::token::jwt::{self, Jwt};
use crate::token::personal::{self, memory::Memory};
use crate::vault::{AppKeys, Secrets};
use crate::web::answer::is_login_by_program;
use crate::web::assets;
use crate::{
    activity, admin, dashboard, devices, dialects, forward_auth, health, profile, registration,
    session, token,
};

/// What every handler may reach.
pub struct App {
    pub config: Config,
    pub clock: Arc<dyn Clock>,
    pub db: Db,
    pub keystore: Keystore,
    pub secrets: Arc<Secrets>,
    pub jwt: Arc<Jwt>,
    pub hasher: Hasher,
    pub turnstile: Turnstile,
    pub ended: Arc<Ended>,
    pub personal_tokens: Memory,
    pub figures: Figures,
    draining: AtomicBool,
}

impl App {
    /// Opens everything that a server needs, and begins to follow the feed of ended logins and the keys.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let app_keys = Arc::new(AppKeys::load(&config)?);
        let db = Db::open(&config.database, 16).map_err(|error| error.to_string())?;
        let keystore = Keystore::open(&config, &db, Arc::clone(&clock)).await;
        let keystore = keystore.map_err(|error| error.to_string())?;
        let (algorithm, lifetime) = (config.jwt_algorithm, config.clocks.login_lifetime);
        let now = clock.now();
        let keys = keys::load(&db, &app_keys, algorithm, lifetime, now).await?;
        let jwt = Arc::new(Jwt::new(&config, keys.signing, now)?);
        let ended = Arc::new(Ended::new(config.revocation_max_lag));
        let mut reader = ended::Reader::default();
        let read = reader.read(&db, &ended, clock.now()).await;
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
        if let Some(url) = &config.redis_url {
            actix_web::rt::spawn(ended::listen(url.clone(), Arc::clone(&ended)));
        }
        Ok(Self {
            jwt,
            hasher: Hasher::new(&config)?,
            turnstile: Turnstile::default(),
            secrets: Arc::new(keys.secrets),
            config,
            clock,
            db,
            keystore,
            ended,
            personal_tokens: Memory::default(),
            figures: Figures::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// Takes on no new work from now on: not ready, and connections are closed after their answer.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Makes an end known that the database already knows: here at once, to other nodes by Redis.
    /// Those that miss it read it from the database.
    pub fn announce(&self, login: &Login, cause: Cause) {
        self.announce_id(&login.id, cause, login.expires_at);
    }

    /// As [`App::announce`], for a login or a single access token.
    pub fn announce_id(&self, id: &str, cause: Cause, expires_at: Timestamp) {
        self.ended.insert(id, cause, expires_at);
        if let Keystore::Redis(redis) = &self.keystore {
            let redis = redis.clone();
            let payload = ended::announcement(id, cause, expires_at);
            actix_web::rt::spawn(async move {
                if let Err(error) = redis.publish(ended::CHANNEL, &payload).await {
                    tracing::debug!(%error, "an end was not announced");
                }
            });
        }
    }

    /// Copies the last activity to the database, where it outlives the activity key; behind the
    /// answer, since nothing depends on it.
    pub fn persist_activity(&self, login_id: &str, at: Timestamp) {
        let (db, login_id) = (self.db.clone(), login_id.to_owned());
        actix_web::rt::spawn(async move {
            let noted = db
                .write(move |conn| login::mark_activity(conn, &login_id, at))
                .await;
            if let Err(error) = noted {
                tracing::debug!(%error, "a last activity was not noted");
            }
        });
    }
}

/// Every route. Layers apply from the last `wrap` to the first; the outermost, which dresses every
/// answer, is `web::answer::dress` around the whole.
pub fn routes(app: Data<App>) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        config
            .service(at("/healthz", [(Method::GET, to(health::healthz))]))
            .service(at("/readyz", [(Method::GET, to(health::readyz))]))
            .service(at(
                "/.well-known/jwks.json",
                [(Method::GET, to(token::http::jwks))],
            ))
            .service(at("/static/{path:.*}", [(Method::GET, to(assets::serve))]))
            // Bearers never pass through the session layer: a JWT costs no I/O.
            .service(
                web::scope("/api")
                    .guard(carries_credentials)
                    .wrap(cors(&app.config))
                    .configure(api),
            )
            .service(
                web::scope("/api")
                    .wrap(IdentityMiddleware::default())
                    .wrap(sessions(&app))
                    .wrap(cors(&app.config))
                    .configure(api),
            )
            // Programs of an older dialect, where a page has the same path: no session, no cookie.
            .service(
                at("/login", [(Method::POST, to(dialects::log_in))])
                    .guard(guard::fn_guard(is_programs_login))
                    .wrap(cors(&app.config)),
            )
            .service(
                at("/refresh", [(Method::POST, to(dialects::refresh))]).wrap(cors(&app.config)),
            )
            .service(
                web::scope("")
                    .wrap(IdentityMiddleware::default())
                    .wrap(sessions(&app))
                    .configure(pages),
            );
    }
}

#[rustfmt::skip]
fn api(config: &mut ServiceConfig) {
    config
        .service(at("/update-activity", [(Method::POST, to(session::http::update_activity))]))
        .service(at("/v1/auth/token", [(Method::POST, to(token::http::token))]))
        .service(at("/v1/auth/refresh", [(Method::POST, to(token::http::refresh))]))
        .service(at("/v1/verify", [(Method::GET, to(forward_auth::verify))]))
        .service(at("/v1/auth/introspect", [(Method::POST, to(introspection::introspect))]))
        .service(at("/v1/auth/revoke", [(Method::POST, to(introspection::revoke))]))
        .service(at("/v1/auth/auto-refresh", [(Method::POST, to(token::http::auto_refresh))]))
        .service(at("/v1/auth/logout-all", [(Method::POST, to(token::http::logout_all))]))
        .service(at("/v1/auth/logout", [(Method::POST, to(token::http::logout))]))
        .service(at("/v1/auth/token-status", [(Method::GET, to(token::http::token_status))]))
        .service(at("/password-strength", [(Method::POST, to(profile::strength::strength))]))
        .service(at("/v1/auth/register", [(Method::POST, to(registration::http::register))]))
        .service(at("/v1/me", [
            (Method::GET, to(profile::http::me)),
            (Method::PATCH, to(profile::http::patch_me)),
        ]))
        .service(at("/v1/me/password", [(Method::PUT, to(profile::http::put_password))]))
        .service(at("/v1/users", [
            (Method::GET, to(admin::api::list)),
            (Method::POST, to(admin::api::post)),
        ]))
        .service(at("/v1/users/{id}", [
            (Method::GET, to(admin::api::get)),
            (Method::PATCH, to(admin::api::patch)),
        ]))
        .service(at("/v1/users/{id}/sessions", [
            (Method::GET, to(admin::api::list_sessions)),
            (Method::DELETE, to(admin::api::delete_sessions)),
        ]))
        .service(at("/v1/users/{id}/sessions/{login}", [(Method::DELETE, to(admin::api::delete_session))]))
        .service(at("/v1/sessions", [
            (Method::GET, to(devices::http::list)),
            (Method::DELETE, to(devices::http::delete_others)),
        ]))
        .service(at("/v1/sessions/{id}", [(Method::DELETE, to(devices::http::delete))]))
        .service(at("/v1/tokens", [
            (Method::GET, to(personal::http::list)),
            (Method::POST, to(personal::http::create)),
        ]))
        .service(at("/v1/tokens/{id}", [(Method::DELETE, to(personal::http::delete))]))
        .service(at("/v1/audit", [(Method::GET, to(activity::http::list))]))
        .service(at("/auth/login", [(Method::POST, to(dialects::api::log_in))]))
        .service(at("/auth/refresh", [(Method::POST, to(dialects::api::refresh))]))
        .service(at("/auth/logout", [(Method::POST, to(dialects::api::log_out))]))
        .service(at("/users", [(Method::GET, to(dialects::api::users))]));
}

#[rustfmt::skip]
fn pages(config: &mut ServiceConfig) {
    config
        .service(at("/", [(Method::GET, to(session::http::home))]))
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
fn at<const N: usize>(path: &str, methods: [(Method, Route); N]) -> Resource {
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

/// A program's login, or a browser that asks whether a page of another origin may send one.
fn is_programs_login(context: &GuardContext<'_>) -> bool {
    let head = context.head();
    let asks = head.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    is_login_by_program(head) || (head.method == Method::OPTIONS && asks)
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
