//! The HTTP server around an [`App`]: also what the tests start.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_http::{HttpService, KeepAlive};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::{AppConfig, Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App as Http, rt};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::cleanup;
use super::connection::spoken_to;
use crate::app::{App, routes};
use crate::outage::in_one_line;
use crate::realtime;
use crate::web::answer::dress;
use crate::web::https::insist;

/// How long requests in flight may take to finish after SIGTERM, in seconds.
const DRAIN_SECONDS: u64 = 25;
/// How long after SIGTERM new connections are still served: by then whoever hands out the work has
/// seen `/readyz` say no, and nobody knocks at a closed door.
const LINGER: Duration = Duration::from_secs(2);
/// How long the door stays open for those who are in it already, when nobody else is let in.
const LAST_IN: Duration = Duration::from_millis(500);
/// For how long a client may take nothing of what it is sent before its connection is dropped. Without
/// it one that has gone, or that never reads, would be kept for as long as it likes.
#[cfg(target_os = "linux")]
const STALLED: Duration = Duration::from_secs(60);
/// How long the head of a first request may take, from its first byte; then it is answered 408.
const SLOWEST_HEAD: Duration = Duration::from_secs(5);
/// How long a client may take to hang up after it was told that the connection ends.
const SLOWEST_GOODBYE: Duration = Duration::from_secs(1);
/// How often what has expired is deleted.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// How often the day's figures are written down.
const WRITE_FIGURES_EVERY: Duration = Duration::from_secs(10);

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
    // Each connection has it from here.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&listener)
        .set_tcp_user_timeout(Some(STALLED))
        .map_err(told)?;
    let door = listener.try_clone().map_err(told)?;
    let workers = app.config.workers;
    let app = Data::new(app);
    let shared = app.clone();
    let server = Server::build()
        .workers(workers)
        .shutdown_timeout(DRAIN_SECONDS)
        .disable_signals();
    let ending = server.graceful_shutdown_signal();
    let server = server.listen("gapura", listener, move || {
        let http = Http::new()
            .app_data(Data::new(App::clone(&shared)))
            .wrap(from_fn(insist))
            .wrap(from_fn(dress))
            .configure(routes(shared.clone()))
            .into_factory()
            .map_err(|error| error.error_response());
        let (ending, ended) = (ending.clone(), ending.clone());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let ended = ended.clone();
                async move { ended.notified().await }
            })
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(SLOWEST_HEAD)
            .client_disconnect_timeout(SLOWEST_GOODBYE)
            .local_addr(address)
            .finish(map_config(http, |()| AppConfig::default()));
        fn_service(move |connection| {
            let ending = ending.clone();
            spoken_to(connection, async move { ending.notified().await })
        })
        .and_then(http)
    });
    let server = server.map_err(told)?.run();
    if signals == Signals::Heed {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot await signals: {error}"));
        let signals = (
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
        );
        rt::spawn(heed(signals, door, server.handle(), app.clone()));
    }
    rt::spawn(sweep(app.clone()));
    rt::spawn(write_figures(app.clone()));
    rt::spawn(realtime::watch(app.clone()));
    Ok(Running {
        address,
        server,
        app,
    })
}

/// SIGTERM: says so, lets others notice, then finishes what is in flight. SIGINT, as from a
/// terminal: ends at once.
async fn heed(
    (mut terminate, mut interrupt): (Signal, Signal),
    door: TcpListener,
    server: ServerHandle,
    app: Data<App>,
) {
    let drained = async {
        terminate.recv().await;
        tracing::info!("told to stop: finishing what is in flight");
        app.begin_draining();
        tokio::time::sleep(LINGER).await;
        let_nobody_in(&door);
        tokio::time::sleep(LAST_IN).await;
        drop(door);
        server.stop(true).await;
    };
    tokio::select! {
        () = drained => {}
        _ = interrupt.recv() => server.stop(false).await,
    }
}

/// Has the system ignore who knocks from now on. A connection that it accepts in the moment in which the
/// listener is closed would be reset, perhaps with a request already on its way; whoever is ignored
/// knocks again a second later, finds the door closed, and has lost nothing by going elsewhere.
#[cfg(target_os = "linux")]
fn let_nobody_in(door: &TcpListener) {
    use socket2::SockFilter;
    // Classic BPF over the TCP header: of its flags (byte 13) SYN without ACK is refused.
    let refuse_syn = [
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x54, 0, 0, 0x12),
        SockFilter::new(0x15, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    if let Err(error) = socket2::SockRef::from(door).attach_filter(&refuse_syn) {
        tracing::debug!(%error, "those who come at the last moment may be turned away rudely");
    }
}

#[cfg(not(target_os = "linux"))]
fn let_nobody_in(_: &TcpListener) {}

async fn write_figures(app: Data<App>) {
    loop {
        tokio::time::sleep(WRITE_FIGURES_EVERY).await;
        if let Err(error) = app.figures.flush(&app.db.patient(), app.clock.now()).await {
            tracing::debug!(%error, "the day's figures could not be written down");
        }
    }
}

async fn sweep(app: Data<App>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let now = app.clock.now();
        if let Err(error) = cleanup::end_overdue(&app, now).await {
            tracing::warn!(
                cause = error.cause().map(in_one_line),
                "logins that are over could not be ended"
            );
        }
        if let Err(error) = cleanup::sweep(&app.db.patient(), &app.config, now).await {
            tracing::warn!(
                cause = in_one_line(error),
                "what has expired could not be deleted"
            );
        }
    }
}
