//! `gapura serve`.

use std::fs::{File, TryLockError};
use std::io::IsTerminal;
use std::sync::Arc;

use actix_web::web::Data;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tracing_subscriber::EnvFilter;

use super::mark::Mark;
use super::{migrate, say, server, user};
use crate::account::password::{self, normalise};
use crate::account::{self, Role, User};
use crate::app::App;
use crate::audit::days;
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl};
use crate::health;
use crate::i18n::Lang;
use crate::keystore::Keystore;
use crate::metrics;
use crate::session::{self, STRANGERS};
use crate::vault::{create_data_dir, random};

/// Migrates if needed and serves until told to stop.
pub async fn run(config: Config) -> Result<(), String> {
    start_log(&config)?;
    let migrated = migrate::apply(&config)?;
    if !migrated.unknown.is_empty() {
        let newer = migrate::newer(&migrated.unknown);
        tracing::info!("{newer}, and it serves all the same");
    }
    if !config.rate_limits {
        tracing::warn!(
            "GAPURA_RATE_LIMITS is off: passwords can be guessed as fast as the machine allows"
        );
    }
    for doubt in &config.doubts {
        tracing::warn!("{doubt}");
    }
    if config.redis_url.is_none() && matches!(config.database, DatabaseUrl::Postgres(_)) {
        tracing::warn!(
            "REDIS_URL is not set, so sessions are kept on this node alone: where there is another, each ends what the \
             other has begun"
        );
    }
    let mark = Mark::of(&config.data_dir);
    let clock = Arc::new(mark.clock());
    // With PostgreSQL and Redis nothing else is kept there.
    let kept = create_data_dir(&config.data_dir).and_then(|()| {
        let written = mark.write(clock.now());
        written.map_err(|error| format!("{}: {error}", mark.file().display()))
    });
    if let Err(problem) = kept {
        tracing::warn!(
            "{problem}; what time it is cannot be kept there: should the clock be set back and this server be started anew, \
             what had expired may live again"
        );
    }
    let app = App::start(config, clock.clone()).await?;
    actix_web::rt::spawn(mark.clone().keep(clock));
    // The port before the administrator: a password made by a start that fails would be lost.
    let running = server::bind(app, server::Signals::Heed)?;
    let _held = hold_directory(&running.app.config);
    let metrics = running.app.config.metrics_bind;
    let metrics = metrics.map(|address| metrics::http::bind(running.app.clone(), address));
    let metrics = metrics.transpose()?;
    let first = first_admin(&running.app).await?;
    // Nobody has to be reading the address.
    let _ = say(format_args!("Gapura is at http://{}", running.address));
    if let Some((address, server)) = metrics {
        let _ = say(format_args!("Metrics are at http://{address}/metrics"));
        actix_web::rt::spawn(server);
        actix_web::rt::spawn(metrics::http::count_logins(running.app.clone()));
        actix_web::rt::spawn(metrics::http::count_ends(running.app.clone()));
    }
    if let Some((username, Some(password))) = first {
        let shown = say(format_args!(
            "Sign in as {username} with the password {password}\nIt is shown only this once."
        ));
        shown.map_err(|problem| {
            format!("{problem}; set a password for {username} with `gapura user set-password {username}`")
        })?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %running.address,
        "serving"
    );
    actix_web::rt::spawn(health::watch(running.app.clone()));
    actix_web::rt::spawn(look_for_sessions(running.app.clone()));
    actix_web::rt::spawn(days::keep_counting(running.app.clone()));
    let served = running.server.await;
    if let Err(error) = running.app.keystore.flush().await {
        tracing::warn!(%error, "the last activities could not be written down");
    }
    let figures = running
        .app
        .figures
        .flush(&running.app.db, running.app.clock.now());
    if let Err(error) = figures.await {
        tracing::warn!(%error, "the day's last figures could not be written down");
    }
    // It has been told at the start where it cannot.
    let _ = mark.write(running.app.clock.now());
    tracing::info!("stopped");
    served.map_err(|error| error.to_string())
}

/// Holds the directory of what is kept on this node for as long as the server lives, and tells where
/// another does so already: they hear of each other's sessions only after half a second.
fn hold_directory(config: &Config) -> Option<File> {
    let path = config.grows_in()?;
    let directory = File::open(path).ok()?;
    if let Err(TryLockError::WouldBlock) = directory.try_lock() {
        tracing::warn!(
            directory = %path.display(),
            "another server keeps its data here, too: what one has just done the other may not know yet. Stop one of \
             them, or give both PostgreSQL and Redis"
        );
    }
    Some(directory)
}

/// Tells where this node would take everybody for logged out.
async fn look_for_sessions(app: Data<App>) {
    if let Keystore::Embedded(_) = app.keystore {
        return;
    }
    let idle_timeout = app.config.clocks.session_idle_timeout;
    let now = app.clock.now();
    match session::strangers(&app.db, &app.keystore, idle_timeout, now).await {
        Ok(0) => {}
        Ok(unknown) => tracing::error!(unknown, "{STRANGERS}"),
        Err(error) => tracing::debug!(cause = error.cause(), "sessions could not be looked for"),
    }
}

/// Makes the first administrator if there is nobody yet, and returns their name, and their password
/// if it was generated.
async fn first_admin(app: &App) -> Result<Option<(String, Option<String>)>, String> {
    let db = app.db.patient();
    let anybody = db.read(account::is_anybody).await;
    if anybody.map_err(|error| error.to_string())? {
        return Ok(None);
    }
    let wanted = &app.config.first_admin;
    let generated = wanted
        .password
        .is_none()
        .then(|| BASE64_URL_SAFE_NO_PAD.encode(random::<15>()));
    let password = wanted
        .password
        .as_ref()
        .map(|password| password.expose().clone());
    let password = normalise(&password.or_else(|| generated.clone()).unwrap_or_default());
    let username = account::username(&wanted.username)
        .map_err(|problem| format!("GAPURA_ADMIN_USERNAME: {problem}"))?;
    let email = account::email(&wanted.email)
        .map_err(|problem| format!("GAPURA_ADMIN_EMAIL: {problem}"))?;
    password::check(
        &password,
        &[&username, &email],
        app.config.password_min_length,
    )
    .map_err(|weakness| {
        format!(
            "GAPURA_ADMIN_PASSWORD: {}",
            weakness.sentence(Lang::English)
        )
    })?;
    let hash = app.hasher.hash(password).await.map_err(|error| {
        let cause = error.cause().unwrap_or("too busy");
        format!("the administrator's password cannot be hashed: {cause}")
    })?;
    let mut admin = User::new(
        username.clone(),
        email,
        username.clone(),
        Role::Admin,
        hash,
        app.clock.now(),
    );
    admin.must_change_password = generated.is_some();
    match user::add(&db, admin).await {
        Ok(()) => Ok(Some((username, generated))),
        // Another node was a moment ahead: its administrator stands.
        Err(_) if db.read(account::is_anybody).await.unwrap_or(false) => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// What libraries are heard of: not what they say of nonsense that anybody may send.
const LIBRARIES: &str = "actix_server=warn,actix_http=off,actix_session=off";

fn start_log(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{}", config.log))
        .map_err(|error| format!("GAPURA_LOG: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Who reads the log may go away, and its disk may be full: that would be said to standard error,
        // too, and end in a panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init()
    } else {
        log.json().init()
    }
    Ok(())
}
