//! A thousand clients that send a byte now and then: nobody else may notice them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::program::{PASSWORD, Place, Server, until};

const SLOW: usize = 1000;
const ASKED: usize = 2000;
/// A machine that others use, too, is asked again.
const ATTEMPTS: usize = 4;

/// Sends a head or a body byte by byte, and begins anew whenever it is cut off.
async fn dribble(address: String, number: usize, open: Arc<AtomicUsize>) {
    let begun = match number % 2 {
        0 => "GET /login HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        _ => {
            "POST /api/v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: 1000\r\n\r\n"
        }
    };
    loop {
        let Ok(mut stream) = TcpStream::connect(&address).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        open.fetch_add(1, Ordering::SeqCst);
        let mut sent = stream.write_all(begun.as_bytes()).await;
        while sent.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            sent = stream.write_all(b" ").await;
        }
        open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How long the slowest hundredth of requests waited.
async fn p99(server: &Server, access: &str) -> Duration {
    let clients = (0..4).map(|_| async {
        let mut took = Vec::new();
        for number in 0..ASKED / 4 {
            let began = Instant::now();
            let answer = match number % 2 {
                0 => server.get_as("/api/v1/auth/token-status", access).await,
                _ => server.get("/login").await,
            };
            assert_eq!(answer.status(), 200);
            answer.bytes().await.expect("the whole answer");
            took.push(began.elapsed());
        }
        took
    });
    let mut took = futures_util::future::join_all(clients).await.concat();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

#[actix_web::test]
async fn a_thousand_slow_clients_leave_the_others_as_fast() {
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let server = place.serve();
    let (access, _) = server.pair("admin", PASSWORD).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    p99(&server, &access).await;
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let alone = p99(&server, &access).await;
        let open = Arc::new(AtomicUsize::new(0));
        let slow: Vec<_> = (0..SLOW)
            .map(|number| {
                let slow = dribble(address.clone(), number, Arc::clone(&open));
                actix_web::rt::spawn(slow)
            })
            .collect();
        let all = || async { open.load(Ordering::SeqCst) == SLOW };
        until(Duration::from_secs(10), all).await;
        let beside = p99(&server, &access).await;
        // None had been given up so far that another could not come at once.
        assert!(open.load(Ordering::SeqCst) > SLOW * 9 / 10);
        for client in slow {
            client.abort();
        }
        seen.push((alone, beside));
        if beside <= 2 * alone {
            println!("p99 alone and beside them: {seen:?}");
            return;
        }
    }
    panic!("p99 alone and beside them: {seen:?}");
}
