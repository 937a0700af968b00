//! Faults: what goes on, what says 503 and how soon, and that everything comes back by itself. Real
//! processes, stopped, hung, killed, filled up and cut off; `tests/run` runs them apart from the other
//! tests, since what they measure is seconds.

mod database;
mod full_disk;
pub mod killed;
pub mod postgres;
pub mod proxy;
pub mod redis;
mod rolling;
mod rotations_together;
mod sigterm;
mod slow_clients;
mod wall_clock;

use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{PASSWORD, Place, Server};

/// Asks nobody: a JWT is all it needs.
pub const TOKEN_STATUS: &str = "/api/v1/auth/token-status";

pub async fn timed(work: impl Future<Output = Response>) -> (Response, Duration) {
    let began = Instant::now();
    let answer = work.await;
    (answer, began.elapsed())
}

/// 503 with `Retry-After`, within the limit.
async fn unavailable(what: &str, limit: Duration, work: impl Future<Output = Response>) {
    let (answer, took) = timed(work).await;
    assert_eq!(answer.status(), 503, "{what}");
    assert!(answer.headers().contains_key("retry-after"), "{what}");
    // A slow machine is given a little more.
    assert!(
        took < limit + Duration::from_millis(400),
        "{what}: {took:?}"
    );
}

/// A port below those that the kernel hands out by itself: still free once who had it has gone.
fn lasting_port() -> u16 {
    loop {
        let port = 10_000 + u16::from_be_bytes(gapura::vault::random()) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn shared() -> Place {
    place_on(Backend::Shared).with("GAPURA_ADMIN_PASSWORD", PASSWORD)
}

/// Starts a server while this thread carries what its database or its Redis says.
async fn serve_beside(place: &Arc<Place>) -> Server {
    let place = Arc::clone(place);
    let served = actix_web::web::block(move || place.serve()).await;
    served.expect("a thread")
}

async fn parts(server: &Server) -> Value {
    server.get("/readyz").await.json().await.expect("JSON")
}
