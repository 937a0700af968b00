//! A node that is set up otherwise than the rest, and servers that answer but are of no use: whoever runs
//! them is told, before people are.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::faults::redis::Redis;
use crate::harness::Backend;
use crate::operations::{doctor, executed, finds, settled, warns};
use crate::program::{PASSWORD, Server, until};

/// Waits until the server says that it can serve, or that this part of it cannot.
async fn is_ready(server: &Server, part: Option<&str>) {
    until(Duration::from_secs(10), || async {
        let answer = server.get("/readyz").await;
        let status = answer.status();
        let told: Value = answer.json().await.expect("JSON");
        match part {
            None => status == 200,
            Some(part) => status == 503 && told[part] == "unavailable",
        }
    })
    .await;
}

fn read_only(state: &str) -> String {
    format!(
        "BEGIN READ WRITE; \
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {state}', current_database()); END $$; \
         COMMIT; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
}

#[actix_web::test]
async fn a_database_that_takes_no_changes_is_as_good_as_away() {
    let place = settled(Backend::Shared);
    let server = place.serve();
    is_ready(&server, None).await;
    executed(&place, &read_only("on"));
    is_ready(&server, Some("database")).await;
    server.logs("it takes no changes").await;
    finds(&place, &["database: it takes no changes"]);
    executed(&place, &read_only("off"));
    is_ready(&server, None).await;
    for (from, to) in [("personal_tokens", "away"), ("away", "personal_tokens")] {
        executed(&place, &format!("ALTER TABLE {from} RENAME TO {to}"));
        match to {
            "away" => finds(&place, &["personal_tokens", "does not exist", "restore"]),
            _ => assert!(doctor(&place).0),
        }
    }
}

#[actix_web::test]
async fn a_redis_that_takes_no_changes_is_as_good_as_away() {
    let redis = Redis::start().await;
    let place = settled(Backend::Shared).with("REDIS_URL", &redis.url());
    let server = place.serve();
    is_ready(&server, None).await;
    let set = |words: &[&str]| {
        let client = redis::Client::open(redis.url()).expect("an address");
        let mut conn = client.get_connection().expect("Redis answers");
        let mut command = redis::Cmd::new();
        command.arg(words).exec(&mut conn).expect("it is set");
    };
    set(&["CONFIG", "SET", "maxmemory", "1"]);
    is_ready(&server, Some("store")).await;
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 503);
    for told in ["\"route\":\"/login\"", "Redis does not answer"] {
        server.logs(told).await;
        let log = server.err.text();
        let line = log.lines().find(|line| line.contains(told));
        assert!(line.is_some_and(|line| line.contains("OOM")), "{log}");
    }
    finds(&place, &["Redis: it takes no changes", "OOM", "maxmemory"]);
    set(&["CONFIG", "SET", "maxmemory", "0"]);
    is_ready(&server, None).await;
    // What the login needs first may go well.
    set(&["ACL", "SETUSER", "default", "-append"]);
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 503);
    let told = "the session could not be kept";
    server.logs(told).await;
    let log = server.err.text();
    let line = log.lines().find(|line| line.contains(told));
    assert!(
        line.is_some_and(|line| line.contains("can't run this command")),
        "{log}"
    );
}

#[actix_web::test]
async fn a_node_with_another_redis_than_the_rest_says_so() {
    let redis = Redis::start().await;
    let place = settled(Backend::Shared).with("REDIS_URL", &redis.url());
    let server = place.serve();
    server.sign_in("admin", PASSWORD).await;
    assert_eq!(server.get("/dashboard").await.status(), 200);
    // Not just this moment.
    executed(&place, "UPDATE logins SET started_at = started_at - 60000");
    let (good, out) = doctor(&place);
    assert!(good && out.contains("it knows the sessions"), "{out}");
    let place = place.with("REDIS_URL", &format!("{}/5", redis.url()));
    let told = "knows none of the browser logins";
    finds(&place, &[told]);
    place.serve().logs(told).await;

    let place = place.with("REDIS_URL", "").with("REDIS_ULR", &redis.url());
    let told = "REDIS_ULR is not a setting; did you mean REDIS_URL?";
    warns(&place, told);
    let server = place.serve();
    server.logs(told).await;
    server.logs("REDIS_URL is not set").await;
}

#[actix_web::test]
async fn nodes_that_do_not_agree_on_who_they_are_say_so() {
    let place = settled(Backend::Shared);
    let (access, _) = place.serve().pair("admin", PASSWORD).await;
    let place = place.with("GAPURA_PUBLIC_URL", "http://login.example.org");
    let other = place.serve();
    for _ in 0..2 {
        assert_eq!(other.get_as("/api/v1/me", &access).await.status(), 401);
    }
    let told = "names another issuer or audience";
    other.logs(told).await;
    assert_eq!(other.err.text().matches(told).count(), 1);
}

/// Or else whoever likes could fill the log, and hide in it what matters.
#[actix_web::test]
async fn nonsense_that_anybody_may_send_is_not_in_the_log() {
    let place = settled(Backend::Embedded);
    let server = place.serve();
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(b"x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let request = server.http.get(format!("{}/dashboard", server.url));
    let answer = request.header("Cookie", "gapura_session=x").send().await;
    answer.expect("an answer");
    // What comes after is there.
    server.token("admin", "a wrong one").await;
    assert_eq!(server.token("admin", PASSWORD).await.status(), 200);
    server.signal("TERM");
    server.logs("told to stop").await;
    let log = server.err.text();
    for level in ["WARN", "ERROR"] {
        assert!(!log.contains(level), "{log}");
    }
}

#[test]
fn a_password_that_is_read_is_one_line() {
    let place = settled(Backend::Embedded);
    let set = ["user", "set-password", "admin"];
    for typed in [
        "a grey heron waits 51\na grey heron waits 51\n",
        "a grey\theron waits 51\n",
    ] {
        let told = place.run_with(&set, typed).refused();
        assert!(told.contains("the password must be one line"), "{told}");
    }
    place.run_with(&set, "a grey heron waits 51\r\n").done();
}
