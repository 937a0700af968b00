//! `GET /metrics`, on a listener of its own: nothing of it can be reached by the public one.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::web::{self, Data};
use actix_web::{App as Http, HttpResponse, HttpServer};

use super::Seen;
use crate::app::App;
use crate::config::Config;
use crate::db::DbError;
use crate::login::{self, Cause, Kind};

/// How long one count of the live logins is good for at least.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// How often ends are counted, and how many at once at most.
const COUNT_ENDS_EVERY: Duration = Duration::from_secs(2);
const ENDS_AT_ONCE: usize = 200;
/// Counting takes at most one part in so many of the time, however many there are.
const REST: u32 = 200;

/// Binds `address` and serves the metrics there, once awaited.
///
/// # Errors
/// When the port cannot be had.
pub fn bind(app: Data<App>, address: SocketAddr) -> Result<(SocketAddr, Server), String> {
    let told = |error: std::io::Error| {
        format!("cannot listen on {address} for metrics: {error} (GAPURA_METRICS_BIND)")
    };
    let listener = TcpListener::bind(address).map_err(told)?;
    let address = listener.local_addr().map_err(told)?;
    let server = HttpServer::new(move || {
        Http::new()
            .app_data(app.clone())
            .route("/metrics", web::get().to(metrics))
    })
    .workers(1)
    .client_request_timeout(Duration::from_secs(5))
    .shutdown_timeout(1)
    .disable_signals();
    Ok((address, server.listen(listener).map_err(told)?.run()))
}

async fn metrics(app: Data<App>) -> HttpResponse {
    let seen = Seen {
        hashes_waiting: app.hasher.waiting(),
        revocation_lag: app.ended.lag(),
        ended_logins: app.ended.len(),
        sockets: app.hub.len(),
        disk_free: disk_free(&app.config),
    };
    match app.metrics.text(&seen) {
        Ok(text) => HttpResponse::Ok()
            .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
            .body(text),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// Space left for what grows on this node.
pub fn disk_free(config: &Config) -> Option<u64> {
    let disk = rustix::fs::statvfs(config.grows_in()?).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Counts the logins that have ended, whoever ended them, for as long as the process lives.
pub async fn count_ends(app: Data<App>) {
    loop {
        match take_ends(&app).await {
            Ok(ENDS_AT_ONCE..) => {}
            Ok(_) => tokio::time::sleep(COUNT_ENDS_EVERY).await,
            Err(error) => {
                tracing::debug!(%error, "the ends of logins were not counted");
                tokio::time::sleep(COUNT_ENDS_EVERY).await;
            }
        }
    }
}

/// Counts some, and tells how many there were.
async fn take_ends(app: &App) -> Result<usize, DbError> {
    let most = ENDS_AT_ONCE as i64;
    let ends = app
        .db
        .read(move |conn| login::uncounted(conn, most))
        .await?;
    let found = ends.len();
    if found > 0 {
        for end in app.db.write(|conn| login::take(conn, ends)).await? {
            // A later program may know more causes.
            let cause = end.cause().map_or("other", Cause::name);
            let kind = end.kind().name();
            app.metrics.login_ended(kind, cause, end.lasted());
        }
    }
    Ok(found)
}

/// Counts the live logins for as long as the process lives; the more there are, the more rarely.
pub async fn count_logins(app: Data<App>) {
    loop {
        let began = tokio::time::Instant::now();
        let now = app.clock.now();
        match app
            .db
            .read(move |conn| login::count_living(conn, now))
            .await
        {
            Ok(numbers) => {
                for kind in [Kind::Browser, Kind::Api].map(Kind::name) {
                    let of_kind = numbers.iter().find(|(counted, _)| counted == kind);
                    let number = of_kind.map_or(0, |(_, number)| *number);
                    app.metrics.set_live_logins(kind, number);
                }
            }
            Err(error) => tracing::debug!(%error, "the live logins were not counted"),
        }
        tokio::time::sleep(COUNT_EVERY.max(began.elapsed() * REST)).await;
    }
}
