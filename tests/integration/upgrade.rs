//! Two releases beside each other: an older program on a database that a newer one has migrated.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::rt::task::JoinHandle;
use actix_web::web::block;
use diesel::connection::SimpleConnection;
use diesel::sql_types::Bool;
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl, sql_query};
use diesel_migrations::FileBasedMigrations;
use gapura::config::{Config, DatabaseUrl};
use gapura::db::{Migrated, migrate_by};

use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{PASSWORD, Place, Server, pair, until};

/// Until when what is under load must have happened, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a later program would bring: a column in each table that is in use, a table, and an index.
fn future(backend: Backend, dir: &Path) -> FileBasedMigrations {
    let mut tables = vec![
        "users",
        "logins",
        "rotating_tokens",
        "revocations",
        "keys",
        "audit_events",
        "personal_tokens",
        "daily_figures",
        "uncounted_ends",
    ];
    let concurrently = match backend {
        Backend::Embedded => {
            tables.push("keystore");
            ""
        }
        Backend::Shared => "CONCURRENTLY",
    };
    let columns = tables.iter().map(|table| {
        format!(
            "ALTER TABLE {table} ADD COLUMN future TEXT;\n\
             ALTER TABLE {table} ADD COLUMN certain TEXT NOT NULL DEFAULT 'x';\n"
        )
    });
    let columns: String = columns.collect();
    let index = format!("CREATE INDEX {concurrently} future_index ON logins (ip);");
    let table = "CREATE TABLE future (id TEXT NOT NULL PRIMARY KEY);".to_owned();
    for (name, up) in [
        ("000000_columns", columns),
        ("010000_table", table),
        ("020000_index", index),
    ] {
        let folder = dir.join(format!("2099-01-01-{name}"));
        std::fs::create_dir_all(&folder).expect("made");
        let write =
            |file: &str, text: &str| std::fs::write(folder.join(file), text).expect("written");
        write("up.sql", &up);
        write("down.sql", "SELECT 1;");
        if up.contains("CONCURRENTLY") {
            write("metadata.toml", "run_in_transaction = false");
        }
    }
    FileBasedMigrations::from_path(dir).expect("migrations")
}

const FUTURE: &str = "20990101000000, 20990101010000, 20990101020000";

fn database(place: &Place) -> DatabaseUrl {
    let settings = place.settings.iter().cloned();
    let config = Config::from_sources("", settings).expect("settings that can be right");
    match config.database {
        DatabaseUrl::Sqlite(_) => DatabaseUrl::Sqlite(place.path("data/gapura.db")),
        other => other,
    }
}

fn postgres(url: &DatabaseUrl) -> Option<PgConnection> {
    match url {
        DatabaseUrl::Sqlite(_) => None,
        DatabaseUrl::Postgres(url) => {
            Some(PgConnection::establish(url.expose()).expect("PostgreSQL answers"))
        }
    }
}

/// Clients that do all that clients do, until they are told that it is enough.
struct Load {
    enough: Arc<AtomicBool>,
    turns: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<String>>,
}

impl Load {
    fn start(server: &Arc<Server>, refresh_tokens: Vec<String>) -> Self {
        let (enough, turns) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |mut refresh: String| {
            let (server, enough, turns) = (server.clone(), enough.clone(), turns.clone());
            actix_web::rt::spawn(async move {
                while !enough.load(Ordering::SeqCst) {
                    let answer = server.refresh(&refresh).await;
                    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
                    let access;
                    (access, refresh) = pair(answer).await;
                    assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 200);
                    assert_eq!(server.get("/dashboard/sessions").await.status(), 200);
                    let (other, _) = server.pair("admin", PASSWORD).await;
                    let logout = server
                        .http
                        .post(format!("{}/api/v1/auth/logout", server.url));
                    let left = logout.bearer_auth(other).send().await.expect("an answer");
                    assert_eq!(left.status(), 200);
                    turns.fetch_add(1, Ordering::SeqCst);
                }
                refresh
            })
        };
        let clients = refresh_tokens.into_iter().map(client).collect();
        Self {
            enough,
            turns,
            clients,
        }
    }

    /// Waits until each client has done everything at least once more.
    async fn goes_on(&self) {
        let wanted = self.turns.load(Ordering::SeqCst) + 2 * self.clients.len();
        until(PATIENCE, || async {
            self.turns.load(Ordering::SeqCst) >= wanted
                || self.clients.iter().any(|it| it.is_finished())
        })
        .await;
    }

    /// Asserts that no request failed, and gives the tokens that the clients hold.
    async fn end(self) -> Vec<String> {
        self.enough.store(true, Ordering::SeqCst);
        let mut held = Vec::new();
        for client in self.clients {
            held.push(client.await.expect("no failed request"));
        }
        held
    }
}

/// Somebody waits for a table of their own.
fn is_waited_for(conn: &mut PgConnection) -> bool {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        waits: bool,
    }
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database \
                   WHERE NOT granted AND mode = 'AccessExclusiveLock' AND datname = current_database()) AS waits";
    sql_query(waiting)
        .get_result::<Row>(conn)
        .expect("it is told")
        .waits
}

#[actix_web::test]
async fn an_older_program_serves_and_starts_on_a_newer_database_and_no_request_fails() {
    for backend in Backend::ALL {
        let place = place_on(backend)
            .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
            .with("GAPURA_RATE_LIMITS", "off");
        let url = database(&place);
        let server = Arc::new(place.serve());
        assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(server.pair("admin", PASSWORD).await.1);
        }
        let load = Load::start(&server, held);
        load.goes_on().await;

        // Somebody reads for long, as `pg_dump` does; and an index was begun and never finished.
        let mut reader = postgres(&url);
        if let Some(conn) = &mut reader {
            let broken = "CREATE UNIQUE INDEX CONCURRENTLY future_index ON logins (kind)";
            assert!(conn.batch_execute(broken).is_err());
            conn.batch_execute("BEGIN; SELECT count(*) FROM logins;")
                .expect("read");
        }
        let source = future(backend, &place.path("future"));
        let (of, by) = (url.clone(), source.clone());
        let newer = actix_web::rt::spawn(block(move || {
            migrate_by(&of, &by).map_err(|error| error.to_string())
        }));
        if let (Some(reader), Some(mut conn)) = (&mut reader, postgres(&url)) {
            for _ in 0..2 {
                until(PATIENCE, || {
                    let waits = is_waited_for(&mut conn);
                    assert!(!newer.is_finished(), "it does not wait for the reader");
                    async move { waits }
                })
                .await;
                load.goes_on().await;
            }
            reader.batch_execute("COMMIT").expect("done");
        }
        let migrated = newer
            .await
            .expect("no panic")
            .expect("no panic")
            .expect("migrated");
        assert_eq!(migrated.applied.len(), 3, "{backend:?}: {migrated:?}");
        load.goes_on().await;
        let held = load.end().await;

        // It can be started again, and finds everything as it was.
        let told = format!("The database is newer than this program, by {FUTURE}");
        let mut older = Arc::into_inner(server).expect("nobody else has it");
        assert!(!older.err.text().contains("ERROR"), "{}", older.err.text());
        older.signal("TERM");
        assert!(older.ended().await.1, "{}", older.err.text());
        let mut again = place.serve();
        again.http = older.http.clone();
        until(PATIENCE, || async { again.err.text().contains(&told) }).await;
        let load = Load::start(&Arc::new(again), held);
        load.goes_on().await;
        load.end().await;

        assert_eq!(place.run(&["migrate"]).done(), format!("{told}.\n"));
        let out = place.run(&["doctor"]).done();
        let warned = format!("warn  database: it is newer than this program, by {FUTURE}");
        assert!(out.contains(&warned), "{out}");
        place.run(&["cleanup"]).done();
        assert!(place.run(&["user", "list"]).done().contains("admin"));

        // The newer one finds nothing left to do.
        let once_more = block(move || migrate_by(&url, &source).map_err(|error| error.to_string()));
        let once_more = once_more.await.expect("no panic").expect("nothing to do");
        // Its own are only those of the future here.
        assert_eq!(once_more.applied, Migrated::default().applied);
        assert!(!once_more.unknown.is_empty());
    }
}

/// Before there was a release, there were no requests to be kept waiting.
const FIRST_RELEASE: &str = "2026-11-22";

/// What in a migration an older program, or its requests, could not live with.
fn faults(up: &str, is_postgres: bool, in_transaction: bool) -> Vec<String> {
    let mut lines = up.lines();
    let opening = lines.by_ref().take_while(|line| line.starts_with("--"));
    let opening: Vec<_> = opening
        .map(|line| line.trim_start_matches(['-', ' ']))
        .collect();
    let mut found = Vec::new();
    if opening.is_empty() {
        found.push("does not say what it is for".to_owned());
    }
    let code = up
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"));
    let code = code.collect::<Vec<_>>().join("\n");
    let statements: Vec<String> = code
        .split(';')
        .map(|statement| {
            statement
                .to_uppercase()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|statement| !statement.is_empty())
        .collect();
    let new_tables: Vec<_> = statements
        .iter()
        .filter_map(|statement| {
            statement
                .strip_prefix("CREATE TABLE ")?
                .split([' ', '('])
                .next()
        })
        .collect();
    let is_contract = opening.iter().any(|line| line.starts_with("contract: "));
    for statement in &statements {
        let has = |words: &str| format!(" {statement} ").contains(&format!(" {words} "));
        let on = statement
            .split_once(" ON ")
            .and_then(|(_, rest)| rest.split([' ', '(']).next());
        let is_on_new = on.is_some_and(|table| new_tables.contains(&table));
        let altered = statement.starts_with("ALTER TABLE ");
        let takes_away = has("DROP")
            || has("RENAME")
            || has("TRUNCATE")
            || has("SET NOT NULL")
            || (altered && has("TYPE"))
            || (altered && has("NOT NULL") && !has("DEFAULT"))
            || (altered && (has("CONSTRAINT") || has("UNIQUE") || has("CHECK")))
            || (statement.starts_with("CREATE UNIQUE INDEX ") && !is_on_new);
        if takes_away && !is_contract {
            found.push(format!("does not only expand: {statement}"));
        }
        let is_index =
            statement.starts_with("CREATE INDEX ") || statement.starts_with("CREATE UNIQUE INDEX ");
        let is_alone = has("CONCURRENTLY") && !in_transaction && statements.len() == 1;
        if is_postgres && is_index && !is_on_new && !is_alone {
            found.push(format!("keeps writers waiting: {statement}"));
        }
    }
    found
}

#[test]
fn migrations_only_ever_expand_unless_they_say_who_has_stopped_using_what() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let names = |backend: &str| {
        let folders = std::fs::read_dir(root.join(backend)).expect("a folder");
        let names = folders.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names
            .map(|name| name.into_string().expect("text"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("sqlite"), names("postgres"));
    for backend in ["sqlite", "postgres"] {
        for name in names(backend) {
            let folder = root.join(backend).join(&name);
            let read = |file: &str| std::fs::read_to_string(folder.join(file));
            let up = read("up.sql").expect("what it does");
            read("down.sql").expect("what undoes it");
            // Diesel takes a file without a word for `run_in_transaction = false`.
            let in_transaction = read("metadata.toml").is_err();
            let is_served = backend == "postgres" && &*name > FIRST_RELEASE;
            let found = faults(&up, is_served, in_transaction);
            assert_eq!(found, [] as [&str; 0], "{backend}/{name}");
        }
    }
}

#[test]
fn a_migration_that_does_more_than_expand_is_found() {
    for statement in [
        "ALTER TABLE logins DROP COLUMN ip",
        "DROP TABLE logins",
        "drop index logins_by_user",
        "ALTER TABLE logins RENAME TO signins",
        "ALTER TABLE logins RENAME COLUMN ip TO address",
        "ALTER TABLE logins ALTER COLUMN ip TYPE INET",
        "ALTER TABLE logins ALTER COLUMN ip SET NOT NULL",
        "ALTER TABLE logins ADD COLUMN city TEXT NOT NULL",
        "ALTER TABLE logins ADD CONSTRAINT short CHECK (length(ip) < 40)",
        "CREATE UNIQUE INDEX one ON logins (ip)",
    ] {
        let found = faults(&format!("-- Why.\n\n{statement};\n"), false, true);
        assert_eq!(found.len(), 1, "{statement}: {found:?}");
        let said =
            format!("-- Why.\n-- contract: ip, which nothing has used since 0.3\n\n{statement};\n");
        assert_eq!(faults(&said, false, true), [] as [&str; 0], "{statement}");
    }
    for statement in [
        "ALTER TABLE logins ADD COLUMN city TEXT",
        "ALTER TABLE logins ADD COLUMN city TEXT NOT NULL DEFAULT ''",
        "CREATE TABLE cities (id TEXT NOT NULL UNIQUE); CREATE INDEX cities_by_id ON cities (id)",
    ] {
        assert_eq!(
            faults(&format!("-- Why.\n{statement};"), true, true),
            [] as [&str; 0],
            "{statement}"
        );
    }
    let index = "-- Why.\nCREATE INDEX logins_by_ip ON logins (ip);";
    assert_eq!(faults(index, true, true).len(), 1);
    let index = index.replace("INDEX", "INDEX CONCURRENTLY");
    assert_eq!(faults(&index, true, true).len(), 1);
    assert_eq!(faults(&index, true, false), [] as [&str; 0]);
    assert_eq!(
        faults("CREATE TABLE cities (id TEXT);", true, true).len(),
        1
    );
}
