//! What an operator does beside servers that run: look at logins and end them, ask what is wrong, copy
//! the database.

use std::time::Duration;

use serde_json::Value;

use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{PASSWORD, Server, add_user, until};

/// Within which a running server knows of what a command did.
const SOON: Duration = Duration::from_millis(1500);

async fn refuses(server: &Server, access: &str) {
    until(SOON, || async {
        server.get_as("/api/v1/me", access).await.status() == 401
    })
    .await;
}

#[actix_web::test]
async fn logins_are_listed_and_ended_from_the_command_line_while_the_server_runs() {
    for backend in Backend::ALL {
        let place = place_on(backend).with("GAPURA_ADMIN_PASSWORD", PASSWORD);
        let server = place.serve();
        add_user(&place, "ada");
        let listed = |of: &str| place.run(&["session", "list", of]).done();
        let revoked = |of: &str| place.run(&["session", "revoke", of]).done();
        assert_eq!(listed("ada"), "ada is signed in nowhere.\n");

        let (first, first_refresh) = server.pair("ada", PASSWORD).await;
        let (second, _) = server.pair("ada", PASSWORD).await;
        let (admins, _) = server.pair("admin", PASSWORD).await;
        assert_eq!(server.sign_in("ada", PASSWORD).await.status(), 303);
        assert_eq!(server.get("/dashboard").await.status(), 200);
        let list = listed("ada@example.org");
        let kinds: Vec<_> = list
            .lines()
            .map(|line| line.split_whitespace().nth(1).expect("a kind"))
            .collect();
        assert_eq!(kinds, ["browser", "api", "api"], "{backend:?}: {list}");

        // One, by its id; the others go on.
        let id = list.lines().nth(2).expect("a third").split(' ').next();
        let id = id.expect("an id");
        assert_eq!(revoked(id), format!("Ended {id}.\n"));
        refuses(&server, &first).await;
        assert_eq!(server.refresh(&first_refresh).await.status(), 401);
        assert_eq!(server.get_as("/api/v1/me", &second).await.status(), 200);
        assert_eq!(revoked(id), format!("{id} was over already.\n"));
        assert!(listed(id).contains("over: revoked"), "{}", listed(id));
        assert_eq!(listed("ada").lines().count(), 2);

        // All of a person, and nobody else's.
        assert_eq!(revoked("ada"), "Ended 2 logins of ada.\n");
        refuses(&server, &second).await;
        assert_eq!(server.get("/dashboard").await.status(), 303);
        assert_eq!(listed("ada"), "ada is signed in nowhere.\n");
        let answer = server.get_as("/api/v1/audit", &admins).await;
        let log: Value = answer.json().await.expect("JSON");
        let events = log["data"].as_array().expect("a list");
        let by_command =
            |event: &&Value| event["kind"] == "login_ended" && event["device"] == "gapura command";
        assert_eq!(events.iter().filter(by_command).count(), 3, "{log}");

        // Everybody's.
        let (third, _) = server.pair("ada", PASSWORD).await;
        let told = place.run(&["session", "revoke", "--all"]).done();
        assert_eq!(told, "Ended 2 logins.\n");
        refuses(&server, &admins).await;
        refuses(&server, &third).await;

        for words in [
            &["session", "list", "nobody"][..],
            &["session", "revoke", "nobody"],
        ] {
            let sentence = place.run(words).refused();
            assert!(sentence.contains("nobody"), "{sentence}");
        }
        for words in [
            &["session", "revoke"][..],
            &["session", "revoke", "ada", "--all"],
        ] {
            assert!(!place.run(words).good);
        }
    }
}
