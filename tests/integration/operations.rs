//! What an operator does beside servers that run: look at logins and end them, ask what is wrong, copy
//! the database.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection, SqliteConnection};
use gapura::clock::{Clock, SystemClock};
use gapura::config::place_of;
use gapura::id;
use serde_json::Value;

use crate::faults::redis::Redis;
use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{
    APP_KEY, OTHER_APP_KEY, PASSWORD, Place, Server, Told, add_user, mode, pair, until,
};

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
        let me = server.get_as("/api/v1/me", &first).await;
        let me: Value = me.json().await.expect("JSON");
        assert_eq!(listed(me["data"]["id"].as_str().expect("an id")), list);

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

/// What the doctor said, and whether all was well.
pub fn doctor(place: &Place) -> (bool, String) {
    let told = place.run(&["doctor"]);
    if !told.good {
        assert!(told.err.contains("failed"), "{told:?}");
        assert_eq!(told.err.trim_end().lines().count(), 1, "{told:?}");
    }
    for line in told.out.lines() {
        let word = line.split_whitespace().next().expect("a word");
        assert!(["ok", "warn", "FAIL"].contains(&word), "{line}");
    }
    for secret in [APP_KEY, OTHER_APP_KEY, PASSWORD, "hushhush"] {
        assert!(
            !told.out.contains(secret) && !told.err.contains(secret),
            "{told:?}"
        );
    }
    (told.good, told.out)
}

/// Asserts that the doctor finds just one fault, and says `words` of it.
pub fn finds(place: &Place, words: &[&str]) {
    let (good, out) = doctor(place);
    let bad: Vec<_> = out
        .lines()
        .filter(|line| line.starts_with("FAIL"))
        .collect();
    assert!(!good && bad.len() == 1, "{words:?}: {out}");
    for word in words {
        assert!(bad[0].contains(word), "{word}: {out}");
    }
}

/// Asserts that the doctor finds no fault, but warns with `words`.
pub fn warns(place: &Place, words: &str) {
    let (good, out) = doctor(place);
    let warned = out
        .lines()
        .any(|line| line.starts_with("warn") && line.contains(words));
    assert!(good && warned, "{words}: {out}");
}

pub fn executed(place: &Place, statement: &str) {
    let known = place
        .settings
        .iter()
        .find(|(name, _)| name == "DATABASE_URL");
    match known.map(|(_, url)| url.as_str()) {
        Some(url) if url.starts_with("postgres") => {
            let mut conn = PgConnection::establish(url).expect("PostgreSQL answers");
            conn.batch_execute(statement).expect("it is done");
        }
        _ => {
            let file = place.path("data/gapura.db").display().to_string();
            let mut conn = SqliteConnection::establish(&file).expect("the file opens");
            conn.batch_execute(statement).expect("it is done");
        }
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// A place where a server has been, with nothing to find fault with.
pub fn settled(backend: Backend) -> Place {
    let place = place_on(backend)
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_APP_KEY", APP_KEY)
        .with("GAPURA_PUBLIC_URL", "http://localhost");
    drop(place.serve());
    place
}

#[actix_web::test]
async fn the_doctor_finds_nothing_where_all_is_well_and_changes_nothing() {
    let fresh = Place::new();
    let (good, out) = doctor(&fresh);
    assert!(good && out.contains("the first start makes it"), "{out}");
    assert!(!fresh.path("data").exists());

    for backend in Backend::ALL {
        let place = settled(backend);
        let server = place.serve();
        let (good, out) = doctor(&place);
        assert!(good, "{backend:?}: {out}");
        let doubts: Vec<_> = out.lines().filter(|line| !line.starts_with("ok")).collect();
        match backend {
            Backend::Embedded => assert_eq!(doubts, [] as [&str; 0]),
            // The tests' own keeps nothing.
            Backend::Shared => assert!(doubts.len() == 1 && doubts[0].contains("append-only")),
        }
        for what in [
            "settings",
            "public URL",
            "files",
            "database",
            "keys",
            "clock",
            "Redis",
        ] {
            assert!(out.contains(&format!("ok    {what}: ")), "{what}: {out}");
        }
        assert_eq!(server.token("admin", PASSWORD).await.status(), 200);
    }
}

#[test]
fn the_doctor_finds_each_fault_of_files_and_says_what_to_do() {
    let place = settled(Backend::Embedded);
    let data = place.path("data");
    chmod(&data, 0o755);
    finds(&place, &["data", "chmod 700"]);
    chmod(&data, 0o700);
    let file = data.join("gapura.db");
    chmod(&file, 0o640);
    finds(&place, &["gapura.db", "chmod 600"]);
    // Files beside it are made after it.
    let names = ["gapura.db", "gapura.db-wal", "gapura.db-shm"];
    for file in names.map(|name| data.join(name)) {
        if file.exists() {
            chmod(&file, 0o600);
        }
    }
    let (good, out) = doctor(&place);
    assert!(good, "{out}");

    // In the middle of the file, beyond its head.
    let whole = fs::read(&file).expect("a file");
    let page = fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .expect("a file");
    page.write_all_at(&[0xA5; 4096], 8 * 4096).expect("written");
    finds(&place, &["damaged", "restore a copy"]);
    fs::write(&file, b"this is no database, and never was one").expect("written");
    finds(&place, &["not a database", "restore a copy"]);
    for gone in ["gapura.db", "gapura.db-wal", "gapura.db-shm"] {
        let _ = fs::remove_file(data.join(gone));
    }
    let key = data.join("app.key");
    fs::write(&key, format!("{APP_KEY}\n")).expect("written");
    chmod(&key, 0o600);
    finds(&place, &["is gone", "restore a copy"]);
    fs::write(&file, whole).expect("written");
    chmod(&file, 0o600);
    let (good, out) = doctor(&place);
    assert!(good, "{out}");
}

#[test]
fn the_doctor_finds_each_fault_of_keys_clocks_and_migrations() {
    for backend in Backend::ALL {
        let mut place = settled(backend);
        place = place.with("GAPURA_APP_KEY", OTHER_APP_KEY);
        finds(&place, &["GAPURA_APP_KEY does not open the keys"]);
        place = place.with("GAPURA_APP_KEY", APP_KEY);

        let now = SystemClock.now().millis();
        let (day, hour) = (86_400_000, 3_600_000);
        let signs_from = |at: i64| {
            executed(
                &place,
                &format!("UPDATE keys SET signs_from = {at} WHERE purpose = 'jwt'"),
            );
        };
        signs_from(now - 400 * day);
        warns(&place, "has signed for 400 days: run `gapura keys rotate`");
        signs_from(now + day);
        finds(&place, &["no signing key has begun", "clock"]);
        signs_from(now - day);
        place = place.with("GAPURA_JWT_ALGORITHM", "ES256");
        warns(&place, "GAPURA_JWT_ALGORITHM is ES256");
        place = place.with("GAPURA_JWT_ALGORITHM", "HS256");
        place.run(&["keys", "rotate"]).done();
        executed(
            &place,
            &format!(
                "UPDATE keys SET signs_from = {} WHERE signs_from > {now}",
                now - hour
            ),
        );
        let (good, out) = doctor(&place);
        assert!(
            good && out.contains("one that is retired still recognises"),
            "{out}"
        );

        executed(
            &place,
            &format!(
                "INSERT INTO audit_events (id, at, kind) VALUES ('ffffffff-0000-7000-8000-000000000000', {}, 'login')",
                now + hour
            ),
        );
        let words = [
            "59 min ahead of this clock",
            "this clock has gone back, or another node's is ahead",
            "wait",
        ];
        match backend {
            Backend::Embedded => finds(&place, &words),
            // Here another clock says that this one is right.
            Backend::Shared => words.into_iter().for_each(|word| warns(&place, word)),
        }
        executed(
            &place,
            &format!(
                "UPDATE audit_events SET at = {} WHERE id LIKE 'ffffffff%'",
                now + 120_000
            ),
        );
        warns(&place, "ahead of this clock");
        executed(&place, "DELETE FROM audit_events WHERE id LIKE 'ffffffff%'");

        executed(
            &place,
            "INSERT INTO __diesel_schema_migrations (version) VALUES ('20990101000000')",
        );
        warns(&place, "newer than this program, by 20990101000000");
        executed(
            &place,
            "DELETE FROM __diesel_schema_migrations WHERE version = \
            (SELECT max(version) FROM __diesel_schema_migrations WHERE version < '2099')",
        );
        finds(&place, &["migrations are pending", "gapura migrate"]);
    }
    // A key of its own that has gone.
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    drop(place.serve());
    let key = place.path("data/app.key");
    chmod(&key, 0o604);
    let (good, out) = doctor(&place);
    assert!(
        !good && out.contains("app.key") && out.contains("chmod 600"),
        "{out}"
    );
    fs::remove_file(&key).expect("removed");
    finds(&place, &["the app key is gone"]);
}

#[test]
fn the_doctor_finds_a_disk_that_is_nearly_full() {
    let place = settled(Backend::Embedded);
    // A small one of its own, which nobody else sees, in the place of the data directory.
    let mut command = place.command_by("unshare", &["--mount", "sh", "-c"]);
    let doctor = "mount -t tmpfs -o size=50m,mode=0700 tmpfs data && exec \"$0\" doctor";
    command.args([doctor, env!("CARGO_BIN_EXE_gapura")]);
    let told = Told::of(command.output().expect("it ends"));
    let mounted = !told.err.contains("unshare") && !told.err.contains("mount");
    assert!(
        mounted,
        "a small disk can be mounted only by root: run tests/run as root ({})",
        told.err
    );
    assert!(!told.good, "{told:?}");
    let full = told.out.lines().find(|line| line.starts_with("FAIL  disk"));
    let full = full.unwrap_or_else(|| panic!("{told:?}"));
    assert!(
        full.contains("only 52 MB are left") && full.contains("make room"),
        "{full}"
    );
}

#[actix_web::test]
async fn the_doctor_finds_what_is_wrong_with_servers_and_settings() {
    let mut redis = Redis::start().await;
    let place = settled(Backend::Shared).with("REDIS_URL", &redis.url());
    let (good, out) = doctor(&place);
    assert!(good && !out.contains("warn"), "{out}");
    let told = |name: &str, value: &str| {
        let mut conn = redis::Client::open(redis.url())
            .unwrap()
            .get_connection()
            .unwrap();
        redis::cmd("CONFIG")
            .arg("SET")
            .arg(name)
            .arg(value)
            .exec(&mut conn)
            .unwrap();
    };
    told("maxmemory-policy", "allkeys-lru");
    warns(&place, "maxmemory-policy is allkeys-lru");
    told("maxmemory", "100mb");
    finds(&place, &["maxmemory-policy is allkeys-lru", "noeviction"]);
    told("maxmemory-policy", "noeviction");
    told("appendonly", "no");
    warns(&place, "append-only file");
    redis.stop();
    finds(&place, &["Redis", "look whether it runs, and at REDIS_URL"]);

    let place = settled(Backend::Shared);
    executed(
        &place,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$",
    );
    warns(&place, "synchronous_commit is off");
    executed(
        &place,
        "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
         $$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$; \
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$",
    );
    finds(
        &place,
        &["3600.0 s behind that of the database", "let NTP set both"],
    );
    let away = place.with(
        "DATABASE_URL",
        "postgres://gapura:hushhush@127.0.0.1:1/gapura",
    );
    finds(
        &away,
        &[
            "database: 127.0.0.1:1/gapura cannot be reached",
            "look whether it runs, and at DATABASE_URL",
        ],
    );
    let wrong = away.with(
        "DATABASE_URL",
        "postgres://gapura:hushhush@127.0.0.1:1/gapura?what=1",
    );
    finds(&wrong, &["database"]);

    let place = settled(Backend::Embedded);
    let place = place.with("GAPURA_PUBLIC_URL", "http://login.example.org");
    warns(&place, "is not https");
    let place = place.with("GAPURA_PUBLIC_URL", "https://login.example.org");
    warns(&place, "GAPURA_TRUSTED_PROXIES");
    let place = place.with("GAPURA_TRUSTED_PROXIES", "10.0.0.0/8");
    let (good, out) = doctor(&place);
    assert!(
        good && !out.contains("warn") && out.contains("__Host-"),
        "{out}"
    );
    warns(
        &place.with("GAPURA_PUBLIC_URL", ""),
        "GAPURA_PUBLIC_URL is unset",
    );
    let place = settled(Backend::Embedded).with("GAPURA_RATE_LIMITS", "off");
    warns(&place, "GAPURA_RATE_LIMITS is off");
    warns(
        &place.with("GAPURA_METRICS_BIND", "0.0.0.0:9464"),
        "metrics are served at 0.0.0.0:9464",
    );
}

#[actix_web::test]
async fn a_copy_made_while_the_server_writes_is_whole_and_takes_over() {
    let place = Place::new()
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_RATE_LIMITS", "off")
        .with("GAPURA_PUBLIC_URL", "http://localhost");
    let server = Arc::new(place.serve());
    let (_, kept) = server.pair("admin", PASSWORD).await;
    let (_, leaving) = server.pair("admin", PASSWORD).await;
    let leaving_id = place.run(&["session", "list", "admin"]).done();
    let leaving_id = leaving_id.split(' ').next().expect("an id").to_owned();
    let enough = Arc::new(AtomicBool::new(false));
    let refreshed = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (server, enough) = (Arc::clone(&server), Arc::clone(&enough));
            let refreshed = Arc::clone(&refreshed);
            actix_web::rt::spawn(async move {
                let (_, mut refresh) = server.pair("admin", PASSWORD).await;
                while !enough.load(Ordering::SeqCst) {
                    let answer = server.refresh(&refresh).await;
                    assert_eq!(answer.status(), 200);
                    (_, refresh) = pair(answer).await;
                    refreshed.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    until(Duration::from_secs(10), || async {
        refreshed.load(Ordering::SeqCst) > 0
    })
    .await;
    let before = refreshed.load(Ordering::SeqCst);
    // A command blocks; the load goes on meanwhile only on another thread.
    let place = Arc::new(place);
    let copying = Arc::clone(&place);
    let copied = actix_web::web::block(move || {
        (0..5)
            .map(|number| {
                copying
                    .run(&["backup", &format!("copy-{number}.db")])
                    .done()
            })
            .collect::<Vec<_>>()
    });
    let copied = copied.await.expect("no panic");
    assert!(
        copied[0].starts_with("Copied the database to copy-0.db"),
        "{copied:?}"
    );
    assert!(copied[0].contains("app.key"), "{copied:?}");
    assert_eq!(mode(&place.path("copy-4.db")), 0o600);
    enough.store(true, Ordering::SeqCst);
    for client in load {
        client.await.expect("no failed request");
    }
    assert!(refreshed.load(Ordering::SeqCst) > before);
    // What comes after the copy is not in it.
    place.run(&["session", "revoke", &leaving_id]).done();
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    drop(server);
    assert!(doctor(&place).0);

    for number in 0..5 {
        let other = Place::new().with("GAPURA_PUBLIC_URL", "http://localhost");
        fs::create_dir(other.path("data")).expect("made");
        chmod(&other.path("data"), 0o700);
        for (from, to) in [
            (format!("copy-{number}.db"), "gapura.db"),
            ("data/app.key".to_owned(), "app.key"),
        ] {
            fs::copy(place.path(&from), other.path("data").join(to)).expect("copied");
        }
        let (good, out) = doctor(&other);
        assert!(good, "{out}");
        let restored = other.serve();
        assert_eq!(restored.refresh(&kept).await.status(), 200);
        // The copy does not know better: hence `session revoke --all` in the runbook.
        assert_eq!(restored.refresh(&leaving).await.status(), 200);
        other.run(&["session", "revoke", "--all"]).done();
        assert_eq!(restored.refresh(&leaving).await.status(), 401);
        assert_eq!(restored.token("admin", PASSWORD).await.status(), 200);
    }
}

#[test]
fn a_copy_that_cannot_be_made_leaves_nothing_behind() {
    let place = settled(Backend::Embedded);
    fs::write(place.path("taken.db"), b"mine").expect("written");
    assert!(
        place
            .run(&["backup", "taken.db"])
            .refused()
            .contains("taken.db")
    );
    assert_eq!(fs::read(place.path("taken.db")).expect("a file"), b"mine");
    place.run(&["backup", "nowhere/copy.db"]).refused();
    // Found only once it has begun.
    executed(&place, "PRAGMA wal_checkpoint(TRUNCATE)");
    let page = fs::OpenOptions::new()
        .write(true)
        .open(place.path("data/gapura.db"));
    page.expect("a file")
        .write_all_at(&[0xA5; 20 * 4096], 4096)
        .expect("written");
    place.run(&["backup", "copy.db"]).refused();
    assert!(!place.path("copy.db").exists());
    let none = Place::new();
    assert!(
        none.run(&["backup", "copy.db"])
            .refused()
            .contains("there is no database")
    );
    assert!(!none.path("data").exists() && !none.path("copy.db").exists());
    let shared = place_on(Backend::Shared).with("GAPURA_APP_KEY", APP_KEY);
    assert!(
        shared
            .run(&["backup", "copy.db"])
            .refused()
            .contains("pg_dump")
    );
}

#[test]
fn the_doctor_says_how_long_a_clock_that_was_set_back_is_felt() {
    let place = settled(Backend::Embedded);
    let (hour, now) = (3_600_000, SystemClock.now().millis());
    let ahead = now + 2 * hour;
    fs::write(place.path("data/clock"), format!("{ahead}\n")).expect("written");
    chmod(&place.path("data/clock"), 0o600);
    warns(&place, "this machine's clock was set back by 119 min");
    warns(&place, "remove data/clock");
    // What servers here have written meanwhile is explained by that.
    let event = |at: i64| {
        let id = "ffffffff-0000-7000-8000-000000000000";
        executed(
            &place,
            &format!(
                "DELETE FROM audit_events WHERE id = '{id}'; INSERT INTO audit_events (id, at, kind) VALUES ('{id}', {at}, 'login')"
            ),
        );
    };
    event(ahead);
    warns(&place, "servers here are as far ahead");
    event(ahead + hour);
    finds(&place, &["clock", "another node's is ahead"]);
    event(now);
    fs::write(place.path("data/clock"), format!("{now}\n")).expect("written");
    let (good, out) = doctor(&place);
    assert!(good && !out.contains("set back"), "{out}");
}

#[test]
fn a_list_that_nobody_reads_to_its_end_ends_quietly() {
    let place = settled(Backend::Embedded);
    add_user(&place, "ada");
    for words in [
        "config",
        "config --reference",
        "user list",
        "session list",
        "session list ada",
        "keys list",
        "doctor",
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = place.command(&words);
        let told = Told::of(command.stdout(writer).output().expect("it ends"));
        assert!(told.good && told.err.is_empty(), "{words:?}: {told:?}");
    }
}

#[actix_web::test]
async fn everybodys_logins_are_listed_by_when_they_began_and_when_they_were_in_use() {
    for backend in Backend::ALL {
        let place = place_on(backend).with("GAPURA_ADMIN_PASSWORD", PASSWORD);
        let server = place.serve();
        let list = |more: &[&str]| place.run(&[&["session", "list"], more].concat()).done();
        assert_eq!(list(&[]), "Nobody is signed in.\n");
        add_user(&place, "ada");
        server.pair("ada", PASSWORD).await;
        server.pair("admin", PASSWORD).await;
        server.pair("ada", PASSWORD).await;
        let names = |list: &str| -> Vec<String> {
            let lines = list.lines().filter(|line| line.contains("  since "));
            lines
                .map(|line| line.split_whitespace().nth(1).expect("a name").to_owned())
                .collect()
        };
        assert_eq!(names(&list(&[])), ["ada", "admin", "ada"], "{backend:?}");
        let ended = list(&[]).split(' ').next().expect("an id").to_owned();
        place.run(&["session", "revoke", &ended]).done();
        assert_eq!(names(&list(&[])), ["admin", "ada"], "{backend:?}");

        // One that began two hours ago and was in use half an hour ago, and many that are older.
        let now = SystemClock.now();
        let (began, active) = (
            now - Duration::from_secs(7200),
            now - Duration::from_secs(1800),
        );
        let columns = "INSERT INTO logins (id, user_id, kind, device, ip, started_at, auth_time, last_activity_at, expires_at)";
        let end = now.millis() + 86_400_000;
        executed(
            &place,
            &format!(
                "{columns} SELECT '{}', id, 'browser', 'Firefox on Linux', '203.0.113.7', {began}, {began}, {active}, {end} FROM users WHERE username = 'admin';
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
                 {columns} SELECT '01900000-0000-7000-8000-' || CAST(100000000000 + i AS TEXT), users.id, 'browser', '', '', \
                 {old}, {old}, {lately}, {end} FROM n, users WHERE username = 'ada';",
                id::first_of(began),
                began = began.millis(),
                active = active.millis(),
                lately = now.millis() - 7_200_000,
                old = now.millis() - 50_000_000,
            ),
        );
        let all = list(&[]);
        assert_eq!(names(&all).len(), 100);
        assert_eq!(names(&all)[..3], ["admin", "ada", "admin"]);
        assert!(all.contains("There are 2403 more: --limit"), "{all}");
        assert_eq!(names(&list(&["--since", "1h"])), ["admin", "ada"]);
        assert_eq!(names(&list(&["--since", "3h"])), ["admin", "ada", "admin"]);
        let active = |within| names(&list(&["--active-since", within]));
        assert_eq!(active("10m"), ["admin", "ada"]);
        assert_eq!(active("1h"), ["admin", "ada", "admin"]);
        let both = list(&["--active-since", "3h", "--limit", "2"]);
        assert_eq!(names(&both), ["admin", "ada"]);
        assert!(both.contains("There are 2501 more"), "{both}");
        assert!(list(&["--since", "0s"]).starts_with("Nobody is signed in by"));
        // Of a person, as before and by the same.
        assert_eq!(list(&["admin"]).lines().count(), 2);
        assert_eq!(list(&["admin", "--since", "1h"]).lines().count(), 1);
        let one = list(&["admin", "--limit", "1"]);
        assert!(one.ends_with("There is 1 more.\n"), "{one}");
        for wrong in ["1", "soon", "-1h"] {
            assert!(!place.run(&["session", "list", "--since", wrong]).good);
        }
    }
}

#[actix_web::test]
async fn an_account_that_wrong_passwords_have_closed_is_seen_and_opened() {
    for backend in Backend::ALL {
        let place = place_on(backend).with("GAPURA_ADMIN_PASSWORD", PASSWORD);
        let server = place.serve();
        add_user(&place, "ada");
        let list = || place.run(&["user", "list"]).done();
        assert!(!list().contains("closed"));
        executed(
            &place,
            "UPDATE users SET failures_in_a_row = 100 WHERE username = 'ada'",
        );
        let closed = list();
        assert!(
            closed.contains("closed by 100 failures in a row"),
            "{closed}"
        );
        assert_eq!(closed.matches("closed").count(), 1, "{closed}");
        assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
        let page = server.get("/admin/users").await.text().await.expect("text");
        let badges = page.matches("Closed after wrong passwords").count();
        assert_eq!(badges, 1, "{page}");
        assert_eq!(server.token("ada", PASSWORD).await.status(), 401);
        let new = "a quite different sentence";
        place.run_with(&["user", "set-password", "ada"], new).done();
        assert!(!list().contains("closed"), "{}", list());
        assert_eq!(server.token("ada", new).await.status(), 200);
    }
}

#[test]
fn a_server_is_named_where_it_cannot_be_reached_and_in_the_settings_and_no_password_is() {
    let place = Place::new()
        .with("GAPURA_APP_KEY", APP_KEY)
        .with("REDIS_URL", "redis://:hushhush@redis.internal")
        .with(
            "DATABASE_URL",
            "postgres://gapura:hushhush@127.0.0.1:1/gapura",
        );
    for words in [
        &["session", "list"][..],
        &["user", "list"],
        &["keys", "list"],
        &["migrate"],
        &["cleanup"],
        &["serve"],
    ] {
        let told = place.run(words).refused();
        assert!(
            told.contains("the database at 127.0.0.1:1/gapura cannot be reached: "),
            "{told}"
        );
        assert!(!told.contains("hushhush") && !told.contains("migrated"));
    }
    let shown = place.run(&["config"]).done();
    for address in [
        " postgres://[hidden]@127.0.0.1:1/gapura ",
        " redis://[hidden]@redis.internal:6379 ",
    ] {
        assert!(shown.contains(address), "{shown}");
    }
    assert!(!shown.contains("hushhush"));

    let nowhere = Place::new().with("DATABASE_URL", "sqlite:///nowhere/at/all.db");
    let told = nowhere.run(&["migrate"]).refused();
    assert!(
        told.contains("the database at /nowhere/at/all.db cannot be reached"),
        "{told}"
    );

    for (address, wanted) in [
        ("postgres://u:p@db/g", Some("db:5432/g")),
        ("postgres://u:p@[::1]/g", Some("[::1]:5432/g")),
        ("postgres://u:p@[::1]:7/g", Some("[::1]:7/g")),
        ("postgres://u:p@a:1,b:2/g?x=y", Some("a:1,b:2/g")),
        ("postgres://db/g?user=u&password=p", Some("db:5432/g")),
        (
            "postgres:///?host=/run/pg&dbname=g&password=p",
            Some("/run/pg/g"),
        ),
        ("postgres://u:p@db?port=7", Some("db:7")),
        // What is the password here is anybody's guess.
        ("postgres://u:p/q@db/g", None),
        ("postgres://u:p?q@db/g", None),
        ("postgres://u:p#q@db/g", None),
        ("postgres://u:p@q@db/g", None),
        ("postgres://db/g?password=p@q", None),
        ("postgres://u:p@db/g?password=p@q", None),
    ] {
        assert_eq!(place_of(address, 5432).as_deref(), wanted, "{address}");
    }
}

#[actix_web::test]
async fn a_command_waits_for_its_turn_beside_one_who_writes_where_a_request_is_told_to_come_back() {
    let place = Arc::new(place_on(Backend::Embedded).with("GAPURA_ADMIN_PASSWORD", PASSWORD));
    let server = place.serve();
    let (access, _) = server.pair("admin", PASSWORD).await;
    let file = place.path("data/gapura.db");
    let mut writer = SqliteConnection::establish(&file.to_string_lossy()).expect("a database");
    writer.batch_execute("BEGIN IMMEDIATE").expect("its turn");
    let command = Arc::clone(&place);
    let command = std::thread::spawn(move || command.run(&["session", "revoke", "admin"]).done());
    assert_eq!(server.token("admin", PASSWORD).await.status(), 503);
    // Longer than a request may wait, and the command has begun to wait long ago.
    assert_eq!(server.token("admin", PASSWORD).await.status(), 503);
    assert!(!command.is_finished());
    writer.batch_execute("COMMIT").expect("an end");
    let told = command.join().expect("no panic");
    assert_eq!(told, "Ended 1 logins of admin.\n");
    refuses(&server, &access).await;
}

#[actix_web::test]
async fn a_start_waits_for_another_program_that_writes() {
    let place = Place::new();
    place.run(&["migrate"]).done();
    let (good, out) = doctor(&place);
    assert!(good, "{out}");
    warns(&place, "there is no signing key yet");

    let file = place.path("data/gapura.db");
    let mut other = SqliteConnection::establish(&file.to_string_lossy()).expect("a database");
    other.batch_execute("BEGIN IMMEDIATE").expect("its turn");
    let place = Arc::new(place);
    let start = std::thread::spawn({
        let place = Arc::clone(&place);
        move || place.serve()
    });
    // As long as a backup or a heavy query of somebody's may take; twice as long as a request waits.
    std::thread::sleep(Duration::from_secs(3));
    assert!(!start.is_finished());
    other.batch_execute("COMMIT").expect("an end");
    let server = start.join().expect("it starts");
    assert_eq!(server.get("/readyz").await.status(), 200);
    drop(server);

    other
        .batch_execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE t (c)")
        .expect("its turn");
    finds(&place, &["is locked", "fuser"]);
}

#[test]
fn the_doctor_tells_a_data_directory_that_leads_nowhere() {
    for named in ["data", "data/"] {
        let place = Place::new().with("GAPURA_DATA_DIR", named);
        symlink("nowhere", place.path("data")).expect("a link");
        finds(&place, &["leads nowhere"]);
        let told = place.try_serve().err().expect("it does not start");
        assert!(told.err.contains("leads nowhere"), "{told:?}");
    }
}

#[test]
fn the_doctor_tells_of_a_database_that_a_start_cannot_make() {
    for named in ["gone/gapura.db", "link.db"] {
        let place = Place::new().with("DATABASE_URL", &format!("sqlite://{named}"));
        symlink("gone/gapura.db", place.path("link.db")).expect("a link");
        finds(&place, &[named, "gone this user may not", "DATABASE_URL"]);
        assert!(place.try_serve().is_err());
    }
    let place = Place::new().with("DATABASE_URL", "sqlite://second.db");
    symlink("first.db", place.path("second.db")).expect("a link");
    symlink("gapura.db", place.path("first.db")).expect("a link");
    warns(&place, "second.db is not there; the first start makes it");
    drop(place.serve());
    assert!(place.path("gapura.db").exists());
}

#[test]
fn the_doctor_finds_no_fault_where_the_start_makes_the_directory() {
    for (data, file) in [
        ("./data", "data/gapura.db"),
        ("data", "data/../data/gapura.db"),
        ("above/data", "above/gapura.db"),
        ("data", "link.db"),
    ] {
        for is_whole in [false, true] {
            let mut place = Place::new();
            symlink("data/gapura.db", place.path("link.db")).expect("a link");
            let file = match is_whole {
                true => place.path(file).display().to_string(),
                false => file.to_owned(),
            };
            place = place.with("GAPURA_DATA_DIR", data);
            place = place.with("DATABASE_URL", &format!("sqlite://{file}"));
            warns(&place, &format!("{file} is not there; the first start"));
            drop(place.serve());
        }
    }
}

#[test]
fn a_command_makes_no_database_where_there_is_none() {
    let place = Place::new();
    for command in [
        &["session", "revoke", "--all"][..],
        &["keys", "list"],
        &["user", "list"],
    ] {
        let told = place.run(command).refused();
        assert!(told.contains("there is no database at"), "{told}");
    }
    assert!(!place.path("data/gapura.db").exists());
    place.run(&["migrate"]).done();
    place.run(&["user", "list"]).done();
}
