//! SIGTERM under load.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::program::{PASSWORD, Place, until};
use crate::realtime::{Wire, closed};

#[actix_web::test]
async fn sigterm_under_load_fails_no_request_and_ends_in_time() {
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let mut server = place.serve();
    let (token, _) = server.pair("admin", PASSWORD).await;
    // Told by /readyz, whoever hands out the work stops sending new requests.
    let away = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|number| {
            let (url, token, away) = (server.url.clone(), token.clone(), Arc::clone(&away));
            actix_web::rt::spawn(async move {
                let http = reqwest::Client::new();
                let mut served = 0;
                while !away.load(Ordering::SeqCst) {
                    let request = match number % 2 {
                        0 => http.get(format!("{url}/api/v1/me")).bearer_auth(&token),
                        _ => http.get(format!("{url}/login")),
                    };
                    let answer = request.send().await.expect("an answer");
                    assert_eq!(answer.status(), 200);
                    answer.bytes().await.expect("the whole answer");
                    served += 1;
                }
                served
            })
        })
        .collect();
    let body = format!("{{\"username\":\"admin\",\"password\":\"{PASSWORD}\"}}");
    let head = format!(
        "POST /api/v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut slow = std::net::TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    slow.write_all(head.as_bytes()).unwrap();
    slow.write_all(&body.as_bytes()[..5]).unwrap();
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut wire = Wire::with_token(&server.url, &token).await;
    let mut silent = std::net::TcpStream::connect(&address).unwrap();
    until(Duration::from_secs(5), || async {
        server.get("/readyz").await.status() == 200
    })
    .await;
    server.signal("TERM");
    let told = until(Duration::from_secs(2), || async {
        server.get("/readyz").await.status() == 503
    })
    .await;
    assert!(told < Duration::from_millis(500), "{told:?}");
    away.store(true, Ordering::SeqCst);
    for client in load {
        assert!(client.await.expect("no failed request") > 0);
    }
    assert_eq!(wire.hear_of_itself().await, closed(1001, "going_away"));
    // Only once the door is closed does this one go on.
    until(Duration::from_secs(5), || async {
        std::net::TcpStream::connect(&address).is_err()
    })
    .await;
    slow.write_all(&body.as_bytes()[5..]).unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("access_token"),
        "{answer}"
    );
    // Nor is it waited for one over which nothing was ever asked.
    let (took, good) = server.ended().await;
    assert!(good && took < Duration::from_secs(10), "{took:?}");
    let mut nothing = String::new();
    silent.read_to_string(&mut nothing).unwrap();
    assert_eq!(nothing, "");
}
