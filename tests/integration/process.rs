//! The program as an operator meets it: first start, settings, commands, the end.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use actix_web::cookie::Cookie;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::faults::killed::{browser, remembered};
use crate::harness::{Backend, Installation};
use crate::metrics::measured;
use crate::operations::{finds, warns};
use crate::program::{
    APP_KEY, OTHER_APP_KEY, PASSWORD, Place, Server, add_user, after, form_token, mode, pair, until,
};
use crate::realtime::{Wire, closed};

pub fn place_on(backend: Backend) -> Place {
    let mut place = Place::new();
    for (name, value) in Installation::new(backend).settings {
        if !["GAPURA_DATA_DIR", "GAPURA_BIND", "GAPURA_PUBLIC_URL"].contains(&name.as_str()) {
            place = place.with(&name, &value);
        }
    }
    place
}

async fn generated_password(server: &Server) -> String {
    until(Duration::from_secs(5), || async {
        server.out.text().contains("only this once")
    })
    .await;
    after(&server.out.text(), "Sign in as admin with the password ").expect("a password")
}

#[actix_web::test]
async fn what_a_start_makes_behind_a_link_is_its_owners_alone() {
    let place = Place::new();
    let (data, elsewhere) = (place.path("data"), place.path("elsewhere"));
    for (directory, mode) in [(&data, 0o700), (&elsewhere, 0o755)] {
        fs::create_dir(directory).expect("made");
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).expect("set");
    }
    symlink(elsewhere.join("g.db"), data.join("gapura.db")).expect("a link");
    let _server = place.serve();
    for file in ["g.db", "g.db-wal", "g.db-shm"] {
        assert_eq!(mode(&elsewhere.join(file)), 0o600, "{file}");
    }
    let side_file = elsewhere.join("g.db-wal");
    fs::set_permissions(&side_file, fs::Permissions::from_mode(0o644)).expect("set");
    finds(&place, &["g.db-wal can be reached by others"]);
}

#[actix_web::test]
async fn where_the_time_cannot_be_kept_the_start_says_so() {
    let place = place_on(Backend::Shared).with("GAPURA_APP_KEY", APP_KEY);
    fs::create_dir_all(place.path("data/clock/taken")).expect("made");
    let server = place.serve();
    server.logs("what time it is cannot be kept there").await;
    drop(server);
    fs::remove_dir_all(place.path("data")).expect("removed");
    fs::write(place.path("data"), "").expect("written");
    let server = place.serve();
    server.logs("what time it is cannot be kept there").await;
    warns(&place, "what time it is cannot be kept in");
}

#[actix_web::test]
async fn the_first_start_makes_everything_and_prints_the_password_once() {
    let place = Place::new();
    let began = Instant::now();
    let first = place.serve();
    assert_eq!(first.get("/healthz").await.status(), 200);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(mode(&place.path("data")), 0o700);
    for file in ["app.key", "gapura.db", "gapura.db-wal", "gapura.db-shm"] {
        assert_eq!(mode(&place.path("data").join(file)), 0o600, "{file}");
    }
    let password = generated_password(&first).await;
    let (token, _) = first.pair("admin", &password).await;
    drop(first);

    let began = Instant::now();
    let second = place.serve();
    assert_eq!(second.get_as("/api/v1/me", &token).await.status(), 200);
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(second.token("admin", &password).await.status(), 200);
    assert!(
        !second.out.text().contains("password"),
        "{}",
        second.out.text()
    );
}

#[actix_web::test]
async fn a_server_whose_log_nobody_can_write_goes_on_and_ends_when_it_is_told() {
    let place = Place::new()
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_LOG", "debug");
    let mut server = place.serve_unread();
    let (token, refresh) = server.pair("admin", PASSWORD).await;
    assert_eq!(server.get_as("/api/v1/me", &token).await.status(), 200);
    assert_eq!(server.refresh(&refresh).await.status(), 200);
    server.signal("TERM");
    assert!(server.ended().await.1);
}

#[actix_web::test]
async fn a_start_that_cannot_have_its_port_leaves_the_administrator_to_the_next() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let place = Place::new().with("GAPURA_BIND", &address);
    let sentence = place.run(&["serve"]).refused();
    assert!(sentence.contains("cannot listen on"), "{sentence}");
    let server = place.with("GAPURA_BIND", "127.0.0.1:0");
    let server = server.serve();
    let password = generated_password(&server).await;
    assert_eq!(server.token("admin", &password).await.status(), 200);
}

#[test]
fn settings_come_from_files_and_the_environment_and_all_problems_are_told_at_once() {
    let place = Place::new().with("GAPURA_REMEMBER_LIFETIME", "11h");
    std::fs::write(
        place.path("gapura.toml"),
        "session_lifetime = \"23h\"\nremember_lifetime = \"10h\"\n",
    )
    .unwrap();
    std::fs::write(place.path("other.toml"), "session_lifetime = \"22h\"\n").unwrap();
    let shown = place.run(&["config"]).done();
    let line = |shown: &str, name: &str| {
        let line = shown
            .lines()
            .find(|line| line.starts_with(name))
            .expect("a line");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        line(&shown, "GAPURA_SESSION_LIFETIME"),
        "GAPURA_SESSION_LIFETIME 23h (file)"
    );
    assert_eq!(
        line(&shown, "GAPURA_REMEMBER_LIFETIME"),
        "GAPURA_REMEMBER_LIFETIME 11h (environment)"
    );
    assert_eq!(
        line(&shown, "GAPURA_LOGIN_LIFETIME"),
        "GAPURA_LOGIN_LIFETIME 30d (default)"
    );
    let shown = place.run(&["config", "--config", "other.toml"]).done();
    assert_eq!(
        line(&shown, "GAPURA_SESSION_LIFETIME"),
        "GAPURA_SESSION_LIFETIME 22h (file)"
    );

    let told = place.run(&["--config", "missing.toml"]);
    assert!(!told.good && told.err.contains("missing.toml"), "{told:?}");

    let place = Place::new()
        .with("GAPURA_SESSION_LIFETIM", "24h")
        .with("GAPURA_REFRESH_GRACE", "10")
        .with("GAPURA_LOG", "info=b=c")
        .with("DATABASE_URL", "mysql://somewhere");
    let told = place.run(&[]);
    assert!(!told.good);
    for words in [
        "did you mean GAPURA_SESSION_LIFETIME?",
        "GAPURA_REFRESH_GRACE must be a whole number with a unit",
        "GAPURA_LOG is not a filter",
        "DATABASE_URL must be",
    ] {
        assert!(told.err.contains(words), "{words}: {told:?}");
    }
    for no_file in ["sqlite://:memory:", "sqlite://data/gapura.db/"] {
        let told = Place::new().with("DATABASE_URL", no_file).run(&[]);
        assert!(told.err.contains("DATABASE_URL must be"), "{told:?}");
    }
}

#[test]
fn no_command_prints_a_secret() {
    let place = Place::new()
        .with("GAPURA_APP_KEY", APP_KEY)
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with(
            "DATABASE_URL",
            "postgres://somewhere/gapura?user=u&password=hushhush",
        )
        .with("REDIS_URL", "redis://:hushhush@somewhere/");
    let shown = place.run(&["config"]).done();
    for secret in [APP_KEY, PASSWORD, "hushhush"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert_eq!(shown.matches("[hidden]").count(), 4, "{shown}");
    // An unquoted key in the file is a mistake, and no reason to print it.
    std::fs::write(
        place.path("gapura.toml"),
        format!("bind = \"127.0.0.1:0\"\napp_key = {APP_KEY}\n"),
    )
    .unwrap();
    let told = place.run(&["config"]);
    assert!(!told.good && told.err.contains("line 2"), "{told:?}");
    assert!(!told.err.contains(APP_KEY), "{told:?}");
}

#[test]
fn every_command_has_help_and_fails_with_one_sentence() {
    let place = Place::new();
    for command in [
        "serve",
        "migrate",
        "config",
        "cleanup",
        "user",
        "user add",
        "user list",
        "user set-password",
        "user disable",
        "user enable",
        "keys",
        "keys list",
        "keys rotate",
        "keys revoke",
        "session",
        "session list",
        "session revoke",
        "doctor",
        "backup",
    ] {
        let mut words: Vec<&str> = command.split(' ').collect();
        words.push("--help");
        assert!(place.run(&words).done().contains("Usage"), "{command}");
    }
    let broken = Place::new().with("DATABASE_URL", "sqlite:///nowhere/at/all.db");
    for command in [
        "serve",
        "migrate",
        "cleanup",
        "user list",
        "keys list",
        "session list ada",
        "backup copy.db",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        broken.run(&words).refused();
    }
    for (typed, named) in [
        ("doktor", "doktor"),
        ("user add", "--email"),
        ("--nothing", "--nothing"),
    ] {
        let words: Vec<&str> = typed.split(' ').collect();
        let said = Place::new().run(&words).refused();
        assert!(
            said.contains(named) && said.contains("gapura help"),
            "{said}"
        );
    }
    let broken = Place::new()
        .with("GAPURA_APP_KEY", APP_KEY)
        .with("DATABASE_URL", "postgres://u@127.0.0.1:1/none");
    for command in [
        "serve",
        "migrate",
        "cleanup",
        "user list",
        "keys list",
        "session list ada",
        "backup copy.db",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        broken.run(&words).refused();
    }
}

#[test]
fn nobody_reading_and_nothing_to_read_is_no_panic() {
    let place = Place::new();
    let mut child = place.command(&["config"]).spawn().expect("it starts");
    drop(child.stdout.take());
    let told = crate::program::Told::of(child.wait_with_output().expect("it ends"));
    assert!(!told.err.contains("panicked"), "{told:?}");
    let add = ["user", "add", "eve", "--email", "eve@example.org"];
    place.run(&add).refused();
    let invalid = place
        .command(&add)
        .stdin(Stdio::null())
        .output()
        .expect("it ends");
    crate::program::Told::of(invalid).refused();
    let closed = std::process::Command::new("sh")
        .args([
            "-c",
            "exec \"$0\" user add eve --email eve@example.org <&- >&-",
            env!("CARGO_BIN_EXE_gapura"),
        ])
        .env_clear()
        .current_dir(place.dir.path())
        .output();
    crate::program::Told::of(closed.expect("it ends")).refused();
}

#[test]
fn migrate_says_what_it_did() {
    for backend in Backend::ALL {
        let place = place_on(backend);
        let first = place.run(&["migrate"]).done();
        assert!(
            first.lines().all(|line| line.starts_with("Applied ")) && !first.is_empty(),
            "{first}"
        );
        assert_eq!(
            place.run(&["migrate"]).done(),
            "The database is up to date.\n"
        );
        assert_eq!(
            place.run(&["cleanup"]).done(),
            "Deleted 0 old logins, 0 old personal tokens and 0 old audit events.\n"
        );
    }
}

#[actix_web::test]
async fn people_are_managed_from_the_command_line_while_the_server_runs() {
    for backend in Backend::ALL {
        let place = place_on(backend).with("GAPURA_ADMIN_PASSWORD", PASSWORD);
        let server = place.serve();
        add_user(&place, "ada");
        let add = |name: &str, email: &str, password: &str| {
            place.run_with(&["user", "add", name, "--email", email], password)
        };
        assert!(
            add("ADA", "other@example.org", PASSWORD)
                .refused()
                .contains("somebody has this")
        );
        assert!(
            add("bob", "Ada@example.org", PASSWORD)
                .refused()
                .contains("somebody has this")
        );
        assert!(
            add("bob", "bob@example.org", "short")
                .refused()
                .contains("at least 12")
        );
        assert!(
            add("bob", "bob@example.org", "password1234")
                .refused()
                .contains("easy to guess")
        );
        assert!(
            add("b b", "bob@example.org", PASSWORD)
                .refused()
                .contains("username")
        );
        assert!(
            place
                .run(&["user", "disable", "nobody"])
                .refused()
                .contains("nobody")
        );
        let list = place.run(&["user", "list"]).done();
        assert_eq!(list.lines().count(), 2, "{list}");

        let (access, refresh) = server.pair("ada", PASSWORD).await;
        assert_eq!(server.sign_in("ada", PASSWORD).await.status(), 303);
        assert_eq!(server.get("/dashboard").await.status(), 200);
        place.run(&["user", "disable", "ada"]).done();
        let within = until(Duration::from_secs(5), || async {
            server.get_as("/api/v1/me", &access).await.status() == 401
        })
        .await;
        assert!(
            within < Duration::from_millis(1500),
            "{backend:?}: {within:?}"
        );
        assert_eq!(server.refresh(&refresh).await.status(), 401);
        assert_eq!(server.get("/dashboard").await.status(), 303);
        assert_eq!(server.token("ada", PASSWORD).await.status(), 403);
        assert!(place.run(&["user", "list"]).done().contains("disabled"));

        place.run(&["user", "enable", "ada"]).done();
        let (access, _) = server.pair("ada", PASSWORD).await;
        let new = "a quite different sentence";
        assert!(
            place
                .run_with(&["user", "set-password", "ada"], "ada@example.org")
                .refused()
                .contains("guess")
        );
        place
            .run_with(&["user", "set-password", "ada"], &format!("{new}\n"))
            .done();
        until(Duration::from_secs(5), || async {
            server.get_as("/api/v1/me", &access).await.status() == 401
        })
        .await;
        assert_eq!(server.token("ada", PASSWORD).await.status(), 401);
        assert_eq!(server.token("ada", new).await.status(), 200);
    }
}

#[actix_web::test]
async fn nodes_that_start_at_once_make_one_administrator_and_one_set_of_keys() {
    for backend in Backend::ALL {
        let place = Arc::new(place_on(backend));
        let starts = (0..3).map(|_| {
            let place = Arc::clone(&place);
            std::thread::spawn(move || place.serve())
        });
        let starts: Vec<_> = starts.collect();
        let nodes: Vec<Server> = starts
            .into_iter()
            .map(|start| start.join().expect("it serves"))
            .collect();
        until(Duration::from_secs(5), || async {
            nodes
                .iter()
                .any(|node| node.out.text().contains("only this once"))
        })
        .await;
        let passwords: Vec<_> = nodes
            .iter()
            .filter_map(|node| after(&node.out.text(), "Sign in as admin with the password "))
            .collect();
        assert_eq!(passwords.len(), 1, "{backend:?}");
        // Meant to be several only where nothing is kept on the node.
        for node in &nodes {
            node.logs("serving").await;
        }
        let is_told = |node: &&Server| node.err.text().contains("another server keeps its data");
        let told = match backend {
            Backend::Embedded => 2,
            Backend::Shared => 0,
        };
        assert_eq!(nodes.iter().filter(is_told).count(), told, "{backend:?}");
        assert_eq!(place.run(&["user", "list"]).done().lines().count(), 1);
        let (access, refresh) = nodes[0].pair("admin", &passwords[0]).await;
        // Each announces its own port as issuer unless told; here it is the same text for all.
        for node in &nodes {
            assert_eq!(
                node.get_as("/api/v1/me", &access).await.status(),
                200,
                "{backend:?}"
            );
        }
        assert_eq!(nodes[1].refresh(&refresh).await.status(), 200);
    }
}

#[actix_web::test]
async fn a_key_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    drop(place.serve());
    let key = place.path("data/app.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let sentence = place.run(&["serve"]).refused();
    assert!(sentence.contains("can be read by others"), "{sentence}");
}

#[actix_web::test]
async fn an_app_key_that_is_gone_is_not_replaced_by_another() {
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let (access, _) = place.serve().pair("admin", PASSWORD).await;
    let (file, kept) = (place.path("data/app.key"), place.path("kept"));
    std::fs::rename(&file, &kept).unwrap();
    for command in [&["serve"][..], &["keys", "rotate"]] {
        let sentence = place.run(command).refused();
        assert!(sentence.contains("the app key is gone"), "{sentence}");
        assert!(!file.exists());
    }
    std::fs::rename(&kept, &file).unwrap();
    let server = place.serve();
    assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 200);
}

#[actix_web::test]
async fn changing_the_app_key_keeps_everybody_signed_in() {
    let both = format!("{OTHER_APP_KEY},{APP_KEY}");
    let place = Place::new()
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_APP_KEY", APP_KEY)
        .with("GAPURA_PUBLIC_URL", "http://localhost");
    let server = place.serve();
    let (access, refresh) = server.pair("admin", PASSWORD).await;
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    let jar = server.http.clone();
    drop(server);

    let place = place.with("GAPURA_APP_KEY", OTHER_APP_KEY);
    let sentence = place.run(&["serve"]).refused();
    assert!(
        sentence.contains("GAPURA_APP_KEY does not open the keys"),
        "{sentence}"
    );

    let place = place.with("GAPURA_APP_KEY", &both);
    let server = place.serve();
    assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 200);
    assert_eq!(
        jar.get(format!("{}/dashboard", server.url))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    let answer = server.refresh(&refresh).await;
    assert_eq!(answer.status(), 200);
    let (access, _) = pair(answer).await;
    drop(server);

    // All has been sealed anew: the old key is no longer needed.
    let place = place.with("GAPURA_APP_KEY", OTHER_APP_KEY);
    let server = place.serve();
    assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 200);
}

#[test]
fn an_administrators_password_that_is_easily_guessed_is_refused() {
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", "password1234");
    let sentence = place.run(&["serve"]).refused();
    assert!(sentence.contains("GAPURA_ADMIN_PASSWORD"), "{sentence}");
}

#[actix_web::test]
async fn the_log_holds_no_secret_even_at_debug() {
    for backend in Backend::ALL {
        let place = place_on(backend)
            .with("GAPURA_LOG", "trace")
            .with("GAPURA_APP_KEY", APP_KEY);
        let place = place.with("GAPURA_ADMIN_PASSWORD", "canary horse battery staple");
        let server = place.serve();
        let password = "canary horse battery staple";
        let mut canaries = vec![password.to_owned(), APP_KEY.to_owned()];
        let (access, refresh) = server.pair("admin", password).await;
        assert_eq!(
            server
                .token("admin", "canary wrong password")
                .await
                .status(),
            401
        );
        canaries.push("canary wrong".to_owned());
        assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 200);
        let answer = server.refresh(&refresh).await;
        let next: Value = answer.json().await.expect("JSON");
        for token in [
            &next["data"]["access_token"],
            &next["data"]["refresh_token"],
        ] {
            canaries.push(token.as_str().expect("a token").to_owned());
        }
        let new = next["data"]["access_token"].as_str().expect("a token");
        let url = format!("{}/api/v1/tokens", server.url);
        let wanted = json!({"name": "canary"});
        let made = server.http.post(url).bearer_auth(new).json(&wanted).send();
        let made: Value = made.await.expect("an answer").json().await.expect("JSON");
        let personal = made["data"]["token"].as_str().expect("a token").to_owned();
        let status = server.get_as("/api/v1/me", &personal).await.status();
        assert_eq!(status, 200);
        let url = format!("{}/api/v1/me", server.url);
        let fallback = server.http.get(url).bearer_auth("canary-no-jwt");
        let fallback = fallback.header("x-sanctum-token", &personal).send().await;
        assert_eq!(fallback.expect("an answer").status(), 200);
        canaries.push(personal.split_once("gpr_").expect("a secret").1.to_owned());
        canaries.push("canary-no-jwt".to_owned());
        canaries.extend([access, refresh]);
        let signed_in = server.sign_in("admin", password).await;
        assert_eq!(signed_in.status(), 303);
        canaries.extend(
            signed_in
                .cookies()
                .map(|cookie| cookie.value().to_owned())
                .filter(|value| value.len() > 8),
        );
        assert_eq!(server.get("/dashboard?canary-query=1").await.status(), 200);
        canaries.push("canary-query".to_owned());
        assert_eq!(server.refresh("canary-not-a-token").await.status(), 401);
        canaries.push("canary-not-a-token".to_owned());
        // Where a token stands in a path by mistake, and where an id does by right.
        let path = "/api/v1/sessions/canary-in-a-path";
        assert_eq!(server.get_as(path, new).await.status(), 405);
        assert_eq!(server.get("/canary-nowhere").await.status(), 404);
        canaries.extend(["canary-in-a-path".to_owned(), "canary-nowhere".to_owned()]);
        let list = place.run(&["session", "list", "admin"]).done();
        let logins: Vec<_> = list
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(logins.len(), 2);
        canaries.extend(logins.iter().map(|id| (*id).to_owned()));
        let known: Vec<_> = logins
            .iter()
            .map(|id| gapura::login::log_name(id))
            .collect();
        let line_of = |log: &str, login: &str, route: &str| {
            let mut lines = log
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.any(|line| {
                let fields = &line["fields"];
                let is_that = fields["login"] == login && fields["route"] == route;
                is_that && fields["status"] == 200 && fields["request_id"].is_string()
            })
        };
        // By session and by JWT.
        until(Duration::from_secs(5), || async {
            let log = server.err.text();
            line_of(&log, &known[0], "/dashboard") && line_of(&log, &known[1], "/api/v1/me")
        })
        .await;
        let log = server.err.text();
        assert!(log.contains("served by the personal token instead"));
        Canaries(canaries).are_not_in(&log, backend);
    }
}

/// What must not be in a log.
#[derive(Default)]
struct Canaries(Vec<String>);

impl Canaries {
    /// One that is sent.
    fn sent<'a>(&mut self, secret: &'a str) -> &'a str {
        self.0.push(secret.to_owned());
        secret
    }

    /// Every cookie and every token of an answer; gives its text.
    async fn of(&mut self, status: u16, answer: reqwest::Response) -> String {
        for cookie in answer.cookies().filter(|cookie| cookie.value().len() > 8) {
            self.0.push(cookie.value().to_owned());
            let plain = Cookie::parse_encoded(format!("x={}", cookie.value()));
            self.0.push(plain.expect("a cookie").value().to_owned());
        }
        for name in ["x-new-access-token", "x-new-refresh-token"] {
            let token = answer.headers().get(name);
            self.0
                .extend(token.map(|token| token.to_str().unwrap().to_owned()));
        }
        let (url, got) = (answer.url().clone(), answer.status());
        let text = answer.text().await.expect("a text");
        assert_eq!(got, status, "{url}: {text}");
        if let Ok(body) = serde_json::from_str(&text) {
            self.of_json(&body);
        }
        if text.contains("csrf_token") {
            self.0.push(form_token(&text).to_owned());
        }
        text
    }

    fn are_not_in(&self, log: &str, backend: Backend) {
        for canary in &self.0 {
            assert!(!log.contains(canary), "{backend:?}: {canary} is in the log");
        }
    }

    fn of_json(&mut self, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
            match value {
                Value::String(text) if name.ends_with("token") => self.0.push(text.clone()),
                _ => self.of_json(value),
            }
        }
    }
}

#[actix_web::test]
async fn the_log_holds_no_secret_of_a_browser_a_socket_or_a_mistake() {
    const FIRST: &str = "canary first password of admin";
    const SECOND: &str = "canary second password of admin";
    for backend in Backend::ALL {
        let place = place_on(backend)
            .with("GAPURA_LOG", "trace")
            .with("GAPURA_ADMIN_PASSWORD", FIRST);
        let server = place.serve();
        let url = |path: &str| format!("{}{path}", server.url);
        let mut canaries = Canaries::default();
        let post = async |path: &str, fields: &[(&str, &str)]| {
            let request = server.http.post(url(path)).form(fields);
            let request = request.header("sec-fetch-site", "same-origin");
            request.send().await.expect("an answer")
        };

        // Remembered, asked for the password once more, and given a new one.
        let page = canaries.of(200, server.get("/login").await).await;
        let fields = [
            ("login", "admin"),
            ("password", canaries.sent(FIRST)),
            ("remember", "1"),
            ("csrf_token", form_token(&page)),
        ];
        let answer = post("/login?next=%2Fdashboard%3Fcanary-next", &fields).await;
        let remembered = answer
            .cookies()
            .any(|kept| kept.name() == "gapura_remember");
        assert!(remembered);
        canaries.of(303, answer).await;
        canaries.sent("canary-next");
        let page = server.get("/dashboard/password").await;
        let page = canaries.of(200, page).await;
        let fields = [
            ("current_password", FIRST),
            ("password", canaries.sent(SECOND)),
            ("password_confirmation", SECOND),
            ("csrf_token", form_token(&page)),
        ];
        let answer = post("/dashboard/password", &fields).await;
        canaries.of(303, answer).await;
        let page = canaries.of(200, server.get("/dashboard").await).await;
        canaries.of(200, server.get("/api/v1/verify").await).await;

        // A person made, and the older way in.
        let text = |answer: &str, name: &str| {
            let answer: Value = serde_json::from_str(answer).expect("JSON");
            answer["data"][name].as_str().expect("a text").to_owned()
        };
        let pair = server.token("admin", SECOND).await;
        let pair = canaries.of(200, pair).await;
        let request = server.http.post(url("/api/v1/auth/refresh"));
        let request = request.header("x-refresh-token", text(&pair, "refresh_token"));
        let answer = request.send().await.expect("an answer");
        let access = text(&canaries.of(200, answer).await, "access_token");
        let post_as = async |path: &str, body: Value| {
            let request = server.http.post(url(path)).bearer_auth(&access);
            request.json(&body).send().await.expect("an answer")
        };
        let eves = canaries.sent("canary password of eve");
        let eve = json!({"username": "eve", "email": "eve@example.org", "password": eves});
        canaries.of(201, post_as("/api/v1/users", eve).await).await;
        let body = json!({"email": "eve@example.org", "password": eves, "device_name": "a till"});
        let answer = server.post("/api/auth/login", &body).await;
        canaries.of(200, answer).await;
        let asked = json!({"token": canaries.sent("canary-introspected")});
        let answer = post_as("/api/v1/auth/introspect", asked).await;
        canaries.of(200, answer).await;

        // Sockets.
        let answer = post_as("/api/v1/tokens", json!({"name": "a key", "scopes": ["*"]})).await;
        let personal = text(&canaries.of(201, answer).await, "token");
        for token in [&access, &personal] {
            Wire::with_token(&server.url, token).await;
        }
        let mut stranger = Wire::open(&server.url, &[]).await;
        let token = canaries.sent("canary-at-a-socket");
        stranger.authenticate(token).await;
        assert_eq!(stranger.hear().await, closed(4401, "token_invalid"));

        // Secrets where they are not understood.
        for body in [
            r#"{"username": "admin", "password": canary-that-is-no-json}"#,
            r#"{"username": "admin", "password": {"canary-in-an-object": 1}}"#,
            r#"{"username": "admin", "password": "x", "device_name": ["canary-in-an-array"]}"#,
        ] {
            let request = server.http.post(url("/api/v1/auth/token")).body(body);
            let request = request.header("content-type", "application/json");
            let status = request.send().await.expect("an answer").status();
            assert!(status.is_client_error(), "{status}: {body}");
        }
        for secret in [
            "canary-that-is-no-json",
            "canary-in-an-object",
            "canary-in-an-array",
        ] {
            canaries.sent(secret);
        }
        let strange = [
            ("authorization", "Basic canary-basic"),
            ("cookie", "gapura_session=canary-session"),
            ("cookie", "gapura_remember=canary-remember"),
            ("x-csrf-token", "canary-form-token"),
        ];
        for (name, value) in strange {
            canaries.sent(value.split(['=', ' ']).next_back().unwrap_or(value));
            let http = reqwest::Client::new();
            let request = http.get(url("/api/v1/me")).header(name, value);
            let status = request.send().await.expect("an answer").status();
            assert!(status.is_client_error(), "{status}: {name}");
        }

        // The end.
        let answer = post("/logout", &[("csrf_token", form_token(&page))]).await;
        canaries.of(303, answer).await;
        assert_eq!(server.get("/canary-the-end").await.status(), 404);
        until(Duration::from_secs(5), || async {
            server.err.text().matches("\"status\":404").count() > 0
        })
        .await;
        let log = server.err.text();
        assert!(canaries.0.len() > 20, "{:?}", canaries.0);
        canaries.are_not_in(&log, backend);
    }
}

#[actix_web::test]
async fn the_log_tells_of_a_token_that_came_back_and_of_none_that_is_turned_away() {
    let place = Place::new()
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_RATE_LIMITS", "off")
        .with("GAPURA_REFRESH_GRACE", "0s");
    let server = place.serve();
    let stolen = server.pair("admin", PASSWORD).await.1;
    let late = server.pair("admin", PASSWORD).await.1;
    for token in [&stolen, &late] {
        assert_eq!(server.refresh(token).await.status(), 200);
    }
    let revoke_all = || place.run(&["session", "revoke", "admin"]).done();
    for _ in 0..20 {
        assert_eq!(server.refresh(&stolen).await.status(), 401);
    }
    revoke_all();
    for _ in 0..20 {
        assert_eq!(server.refresh(&late).await.status(), 401);
    }
    let stolen = remembered(&server, &browser()).await;
    let late = remembered(&server, &browser()).await;
    let visit = async |cookie: &str, status| {
        let request = browser().get(format!("{}/dashboard", server.url));
        let answer = request.header("cookie", cookie).send().await;
        assert_eq!(answer.expect("an answer").status(), status);
    };
    visit(&stolen, 200).await;
    visit(&late, 200).await;
    for _ in 0..20 {
        visit(&stolen, 303).await;
    }
    revoke_all();
    for _ in 0..20 {
        visit(&late, 303).await;
    }
    for token in ["refresh", "remember"] {
        // Once, however often it comes back.
        for (level, told) in [
            (
                "WARN",
                format!("a rotated {token} token came back; its login was ended"),
            ),
            (
                "INFO",
                format!("a {token} token came back whose login was over"),
            ),
        ] {
            server.logs(&told).await;
            let log = server.err.text();
            let lines: Vec<_> = log.lines().filter(|line| line.contains(&told)).collect();
            assert_eq!(lines.len(), 1, "{log}");
            for part in [level, "request_id", "\"login\"", "\"user\""] {
                assert!(lines[0].contains(part), "{part}: {}", lines[0]);
            }
        }
    }

    let flood = join_all((0..100).map(|_| server.token("admin", PASSWORD))).await;
    let turned_away = flood.iter().filter(|answer| answer.status() == 503).count();
    assert!(turned_away > 0);
    server.signal("TERM");
    server.logs("stopped").await;
    assert!(
        !server.err.text().contains("\"status\":503"),
        "{}",
        server.err.text()
    );
}

/// Presents a refresh token, and is gone `after` that without having waited for the answer.
async fn hang_up(server: &Server, token: &str, after: Duration) {
    use std::io::Write;
    let address = server.url.trim_start_matches("http://");
    let body = json!({ "refresh_token": token }).to_string();
    let mut client = std::net::TcpStream::connect(address).expect("a connection");
    let reset = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    reset.expect("set");
    let length = body.len();
    let request = format!(
        "POST /api/v1/auth/refresh HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    client.write_all(request.as_bytes()).expect("sent");
    tokio::time::sleep(after).await;
}

#[actix_web::test]
async fn what_is_exchanged_for_a_client_that_hangs_up_is_counted_once() {
    const EXCHANGES: u32 = 60;
    for backend in Backend::ALL {
        let server = measured(place_on(backend))
            .with("GAPURA_RATE_LIMITS", "off")
            .serve();
        let (_, mut token) = server.pair("admin", PASSWORD).await;
        for number in 0..EXCHANGES {
            hang_up(&server, &token, Duration::from_micros(200) * number).await;
            let answer = server.refresh(&token).await;
            assert_eq!(answer.status(), 200);
            (_, token) = pair(answer).await;
        }
        let outcomes = ["rotated", "grace", "sibling"].map(async |outcome| {
            let labels = format!("{{token=\"refresh\",outcome=\"{outcome}\"}}");
            let series = format!("gapura_token_rotations_total{labels}");
            server.metric(&series).await
        });
        // The first exchange of each token is one, whether it was waited for or not.
        let [rotated, grace, sibling] = join_all(outcomes).await[..] else {
            unreachable!()
        };
        assert_eq!(rotated, f64::from(EXCHANGES), "{backend:?}");
        assert!(grace + sibling > f64::from(EXCHANGES / 4), "{backend:?}");
    }
}

#[actix_web::test]
async fn a_thief_who_hangs_up_is_told_of_all_the_same() {
    use diesel::connection::Connection;
    use diesel::prelude::*;
    const THEFTS: u32 = 12;
    let place = Place::new()
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_RATE_LIMITS", "off")
        .with("GAPURA_REFRESH_GRACE", "0s");
    let server = place.serve();
    for number in 0..THEFTS {
        let (_, token) = server.pair("admin", PASSWORD).await;
        assert_eq!(server.refresh(&token).await.status(), 200);
        // Read, and not yet answered: sooner or later, since a busy machine reads late.
        let after = Duration::from_micros(500) * (number + 1);
        hang_up(&server, &token, after).await;
    }
    let file = place.path("data/gapura.db").display().to_string();
    let thefts = || {
        use gapura::db::schema::audit_events::dsl::{audit_events, kind};
        let mut conn = diesel::SqliteConnection::establish(&file).expect("a database");
        let found = audit_events.filter(kind.eq("refresh_reused")).count();
        found.get_result::<i64>(&mut conn).expect("a number")
    };
    until(Duration::from_secs(5), || async {
        let told = "a rotated refresh token came back";
        let told = server.err.text().matches(told).count() as i64;
        let known = thefts();
        known > i64::from(THEFTS / 3) && told == known
    })
    .await;
}

#[actix_web::test]
async fn what_other_processes_do_to_the_database_file_is_seen_by_a_running_server() {
    use diesel::connection::{Connection, SimpleConnection};
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let server = place.serve();
    assert_eq!(server.token("admin", PASSWORD).await.status(), 200);
    let by_somebody_else = |statement: &str| {
        let path = place.path("data/gapura.db").display().to_string();
        let mut conn = diesel::SqliteConnection::establish(&path).unwrap();
        conn.batch_execute(statement).unwrap();
    };
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON logins \
                  BEGIN SELECT RAISE(ABORT, 'refused'); END";
    by_somebody_else(refuse);
    assert_eq!(server.token("admin", PASSWORD).await.status(), 503);
    by_somebody_else("DROP TRIGGER refuse");
    assert_eq!(server.token("admin", PASSWORD).await.status(), 200);
}
