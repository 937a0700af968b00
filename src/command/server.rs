//! The HTTP server around an [`App`]: also what the tests start.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App as Http, HttpServer, rt};

use super::cleanup;
use crate::app::{App, routes};
use crate::web::answer::dress;
use crate::web::https::insist;

/// How long requests in flight may take to finish after SIGTERM, in seconds.
const DRAIN_SECONDS: u64 = 25;
/// How often what has expired is deleted.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// A server that has bound its port.
pub struct Running {
    pub address: SocketAddr,
    pub server: Server,
    pub app: Data<App>,
}

/// Whether SIGTERM and SIGINT stop the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    Heed,
    /// Several servers in one process, as in tests: the process decides.
    Ignore,
}

/// Binds the port and makes the server; it serves once awaited.
///
/// # Errors
/// When the port cannot be had.
pub fn bind(app: App, signals: Signals) -> Result<Running, String> {
    let bind = app.config.bind;
    let told = |error: std::io::Error| format!("cannot listen on {bind}: {error}");
    let listener = TcpListener::bind(bind).map_err(told)?;
    let address = listener.local_addr().map_err(told)?;
    let workers = app.config.workers;
    let app = Data::new(app);
    let shared = app.clone();
    let mut server = HttpServer::new(move || {
        Http::new()
            .app_data(shared.clone())
            .wrap(from_fn(insist))
            .wrap(from_fn(dress))
            .configure(routes(shared.clone()))
    })
    .workers(workers)
    .client_request_timeout(Duration::from_secs(5))
    .shutdown_timeout(DRAIN_SECONDS);
    if signals == Signals::Ignore {
        server = server.disable_signals();
    }
    let server = server.listen(listener).map_err(told)?.run();
    rt::spawn(sweep(app.clone()));
    Ok(Running {
        address,
        server,
        app,
    })
}

async fn sweep(app: Data<App>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if let Err(error) = cleanup::sweep(&app.db, &app.config, app.clock.now()).await {
            tracing::warn!(%error, "what has expired could not be deleted");
        }
    }
}
