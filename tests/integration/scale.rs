//! However many logins there are: nothing that is asked reads a whole table, and cleaning up never
//! holds the others up for long.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use diesel::connection::{Instrumentation, InstrumentationEvent, SimpleConnection};
use diesel::sql_types::{Integer, Text};
use diesel::{QueryableByName, RunQueryDsl, sql_query};
use gapura::account::Role;
use gapura::command::cleanup;
use gapura::db::AnyConnection;
use gapura::login::{self, Cause};
use reqwest::Method;
use serde_json::json;

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};

const DAY: Duration = Duration::from_secs(86_400);

/// What the connections of one database were asked.
static ASKED: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

struct Listener(Option<String>);

impl Instrumentation for Listener {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartEstablishConnection { url, .. } => {
                let path = url.split('?').next().unwrap_or(url);
                self.0 = Some(path.to_owned());
            }
            InstrumentationEvent::StartQuery { query, .. } => {
                let text = query.to_string();
                let sql = text.split(" -- binds: ").next().unwrap_or(&text).to_owned();
                if let (Some(url), Ok(mut asked)) = (&self.0, ASKED.lock()) {
                    asked.insert((url.clone(), sql));
                }
            }
            _ => {}
        }
    }
}

/// The lines of the plan of each query that reads more than it gives.
async fn plan(app: &TestApp, sql: String) -> Vec<String> {
    let plan = app.app.db.read(move |conn| match conn {
        AnyConnection::Sqlite(conn) => {
            #[derive(QueryableByName)]
            struct Line {
                #[diesel(sql_type = Text)]
                detail: String,
            }
            let lines = sql_query(format!("EXPLAIN QUERY PLAN {sql}")).load::<Line>(conn)?;
            Ok(lines.into_iter().map(|line| line.detail).collect())
        }
        AnyConnection::Postgres(conn) => {
            #[derive(QueryableByName)]
            struct Line {
                #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
                line: String,
            }
            // As it is planned for any value.
            let most = (1..=300).rev().find(|n| sql.contains(&format!("${n}")));
            let nothing = vec!["NULL"; most.unwrap_or(0)].join(", ");
            let nothing = match most {
                Some(_) => format!("({nothing})"),
                None => String::new(),
            };
            conn.batch_execute(&format!(
                "SET plan_cache_mode = force_generic_plan; PREPARE asked AS {sql}"
            ))?;
            let lines = sql_query(format!("EXPLAIN EXECUTE asked{nothing}")).load::<Line>(conn);
            conn.batch_execute("DEALLOCATE asked; RESET plan_cache_mode")?;
            Ok(lines?.into_iter().map(|line| line.line).collect())
        }
    });
    plan.await.unwrap()
}

/// The tables that grow with the logins and with those who log in.
const LARGE: [&str; 7] = [
    "logins",
    "rotating_tokens",
    "revocations",
    "users",
    "audit_events",
    "personal_tokens",
    "keystore",
];

/// Whether a query may read a table from one end on.
fn may(sql: &str, plan: &[String]) -> bool {
    // For a figure or a metric, at most a hundredth of the time.
    let counts = sql.starts_with("SELECT COUNT(*) FROM ")
        || sql.contains("COUNT(*)") && sql.contains("GROUP BY");
    // The first of a list, in the order of an index.
    let sorted = plan
        .iter()
        .any(|line| line.contains("TEMP B-TREE") || line.contains("Sort"));
    let first = sql.contains(" LIMIT ") && !sql.contains(" WHERE ") && !sorted;
    // One of no values at all.
    counts || first || sql.contains("(1=0)")
}

/// Which of these lines read all of a large table.
fn scans(plan: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (place, line) in plan.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| {
            let place = words.iter().position(|found| *found == word)?;
            words.get(place + 1).copied()
        };
        let table = match (after("SCAN"), line.contains("Scan")) {
            (Some(table), _) => Some(table),
            // An index that is read without a condition is read from one end to the other.
            (None, true) if !line.contains("Bitmap Heap Scan") => {
                let searched = plan
                    .get(place + 1)
                    .is_some_and(|next| next.contains("Index Cond"));
                match searched {
                    true => None,
                    false => after("on"),
                }
            }
            // What is read here was found by an index, on the next lines.
            (None, _) => None,
        };
        let table = table.map(|table| table.trim_matches('"'));
        if table.is_some_and(|table| LARGE.contains(&table)) {
            found.push(line.clone());
        }
    }
    found
}

#[actix_web::test]
async fn nothing_that_is_asked_reads_a_whole_table() {
    let listening =
        diesel::connection::set_default_instrumentation(|| Some(Box::new(Listener(None))));
    listening.unwrap();
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        use_everything(&app).await;
        let url = match &app.app.config.database {
            gapura::config::DatabaseUrl::Sqlite(path) => path.display().to_string(),
            gapura::config::DatabaseUrl::Postgres(url) => url.expose().clone(),
        };
        let asked: Vec<String> = {
            let asked = ASKED.lock().unwrap();
            let ours = asked.iter().filter(|(of, _)| *of == url);
            ours.map(|(_, sql)| sql.clone()).collect()
        };
        assert!(asked.len() > 60, "{} queries were heard", asked.len());
        let mut wrong = Vec::new();
        for sql in asked {
            let first = sql.split_whitespace().next().unwrap_or_default();
            let planned = ["SELECT", "UPDATE", "DELETE", "INSERT"].contains(&first);
            if !planned || sql.contains("advance_tokens") || sql.contains("__diesel") {
                continue;
            }
            let lines = plan(&app, sql.clone()).await;
            let found = scans(&lines);
            if !found.is_empty() && !may(&sql, &lines) {
                wrong.push(format!("{sql}\n    {}", lines.join("\n    ")));
            }
        }
        assert!(wrong.is_empty(), "{backend:?}:\n{}", wrong.join("\n\n"));
    }
}

/// What people, programs, administrators and the server itself do all day.
async fn use_everything(app: &TestApp) {
    let root = Browser::new(app, "root").log_in().await;
    let ada = Browser::new(app, "ada").log_in_remembered().await;
    let body = json!({"username": "ada", "password": TestApp::PASSWORD});
    let pair = app.post_json("/api/v1/auth/token", &body).await;
    let pair: serde_json::Value = pair.json().await.unwrap();
    let token = pair["data"]["access_token"].as_str().unwrap().to_owned();
    let by = |method: Method, path: &str| {
        let request = app.http.request(method, format!("{}{path}", app.url));
        request.bearer_auth(&token)
    };
    let made = by(Method::POST, "/api/v1/tokens").json(&json!({"name": "backup"}));
    let made = Answer::of(made).await.expect(201).json();
    let personal = made["data"]["token"].as_str().unwrap().to_owned();
    let with_it = app.http.get(format!("{}/api/v1/verify", app.url));
    Answer::of(with_it.bearer_auth(personal)).await.expect(200);
    let body = json!({"refresh_token": pair["data"]["refresh_token"]});
    for again in [0, 0, 120] {
        app.advance(Duration::from_secs(again));
        app.post_json("/api/v1/auth/refresh", &body).await;
    }
    let after = "0199f0c1-2345-7abc-8def-0123456789ab";
    for path in [
        "/api/v1/sessions".to_owned(),
        format!("/api/v1/sessions?cursor={after}"),
        "/api/v1/tokens".to_owned(),
        "/api/v1/audit".to_owned(),
        "/api/v1/me".to_owned(),
    ] {
        ada.send(ada.script(Method::GET, &path)).await.expect(200);
    }
    for path in [
        "",
        "/sessions",
        "/tokens",
        "/activity",
        "/activity?show=logins",
        "/profile",
    ] {
        ada.open(&format!("/dashboard{path}")).await.expect(200);
    }
    for path in [
        "/admin".to_owned(),
        "/admin/users".to_owned(),
        "/admin/users?cursor=bob".to_owned(),
        "/admin/activity".to_owned(),
        "/admin/activity?show=logins&period=week".to_owned(),
        format!("/admin/activity?after={after}"),
        format!("/admin/activity?before={after}"),
        format!("/admin/activity?show=failures&before={after}"),
        "/admin/activity?person=ada".to_owned(),
    ] {
        root.open(&path).await.expect(200);
    }
    let (now, ada_id) = (app.now(), ada_id(app).await);
    root.open(&format!("/admin/users/{ada_id}"))
        .await
        .expect(200);
    let (write, read) = (&app.app.db, &app.app.db);
    let id = ada_id.clone();
    write
        .write(move |conn| {
            gapura::account::has_other_admin(conn, &id)?;
            login::end_all_of(conn, &id, Cause::Revoked, None, None, now)
        })
        .await
        .unwrap();
    read.read(move |conn| {
        login::count_living(conn, now)?;
        gapura::account::is_anybody(conn)?;
        login::usable_before(conn, "g", "", 10, now - DAY, now)?;
        login::living_after(conn, "", 10, now)
    })
    .await
    .unwrap();
    ada.ping(0).await;
    app.add_user("eve", Role::User).await;
    app.advance(40 * DAY);
    cleanup::end_overdue(&app.app, app.now()).await.unwrap();
    cleanup::sweep(&app.app.db, &app.app.config, app.now())
        .await
        .unwrap();
    app.app.keystore.flush().await.unwrap();
}

async fn ada_id(app: &TestApp) -> String {
    let ada = app
        .app
        .db
        .read(|conn| gapura::account::by_login_name(conn, "ada"));
    ada.await.unwrap().unwrap().id
}

/// Rows of every kind that is cleaned up, far more of each than one step takes.
const DUE: i64 = 1000;

async fn fill(app: &TestApp) {
    let ada = ada_id(app).await;
    let filled = app.app.db.write(move |conn| {
        let numbers = match conn {
            AnyConnection::Sqlite(_) => {
                format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {DUE})")
            }
            AnyConnection::Postgres(_) => {
                format!("WITH n (i) AS (SELECT generate_series(1, {DUE}))")
            }
        };
        let blob = match conn {
            AnyConnection::Sqlite(_) => "CAST(i AS BLOB)",
            AnyConnection::Postgres(_) => "CAST(CAST(i AS TEXT) AS BYTEA)",
        };
        conn.batch_execute(&format!(
            "{numbers} INSERT INTO logins (id, user_id, kind, device, ip, started_at, auth_time, last_activity_at, expires_at) \
             SELECT 'old' || i, '{ada}', 'api', '', '', 0, 0, 0, 1 FROM n;
             {numbers} INSERT INTO rotating_tokens (id, login_id, purpose, counter, issued_at, expires_at) \
             SELECT {blob}, 'old' || (1 + i % 7), 'refresh', 0, 0, 1 FROM n;
             {numbers} INSERT INTO revocations (subject, cause, revoked_at, expires_at) SELECT 'old' || i, 'idle', 0, 1 FROM n;
             {numbers} INSERT INTO audit_events (id, at, kind) SELECT '0000' || i, 0, 'login' FROM n;
             {numbers} INSERT INTO personal_tokens (id, user_id, name, scopes, mac, created_at, expires_at, revoked_at) \
             SELECT 'old' || i, '{ada}', '', '*', {blob}, 0, 1, CASE WHEN i % 2 = 0 THEN 1 END FROM n;"
        ))
    });
    filled.await.unwrap();
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = Integer)]
    number: i32,
}

fn number(conn: &mut AnyConnection, sql: &str) -> diesel::QueryResult<i32> {
    let row: Number = match conn {
        AnyConnection::Sqlite(conn) => sql_query(sql).get_result(conn)?,
        AnyConnection::Postgres(conn) => sql_query(sql).get_result(conn)?,
    };
    Ok(row.number)
}

#[actix_web::test]
async fn a_cleanup_takes_small_steps() {
    let app = TestApp::start(Backend::Shared).await;
    fill(&app).await;
    // The database itself notes what goes together.
    let tables = [
        "logins",
        "rotating_tokens",
        "revocations",
        "audit_events",
        "personal_tokens",
    ];
    let watched = app.app.db.write(move |conn| {
        conn.batch_execute(
            "CREATE TABLE gone (step BIGINT); CREATE FUNCTION note_gone() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO gone VALUES (txid_current()); RETURN NULL; END $$;",
        )?;
        tables.iter().try_for_each(|table| {
            conn.batch_execute(&format!(
                "CREATE TRIGGER note_gone AFTER DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION note_gone()"
            ))
        })
    });
    watched.await.unwrap();
    let swept = cleanup::sweep(&app.app.db, &app.app.config, app.now()).await;
    assert_eq!(swept.unwrap().logins, DUE as usize);
    let told = app.app.db.read(|conn| {
        let largest = "SELECT max(rows)::int AS number FROM (SELECT count(*) AS rows FROM gone GROUP BY step) AS steps";
        let all = "SELECT count(*)::int AS number FROM gone";
        Ok((number(conn, largest)?, number(conn, all)?))
    });
    let (largest, all) = told.await.unwrap();
    assert_eq!(i64::from(all), 5 * DUE, "everything that is due goes");
    assert!(largest <= 400, "{largest} rows went in one step");
}

#[actix_web::test]
async fn a_cleanup_forgets_all_that_is_due_and_leaves_the_rest() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let browser = Browser::new(&app, "bob").log_in().await;
        fill(&app).await;
        let swept = cleanup::sweep(&app.app.db, &app.app.config, app.now())
            .await
            .unwrap();
        let due = DUE as usize;
        assert_eq!((swept.logins, swept.tokens, swept.events), (due, due, due));
        for table in ["rotating_tokens", "revocations", "personal_tokens"] {
            let sql = format!("SELECT CAST(count(*) AS INTEGER) AS number FROM {table}");
            let left = app.app.db.read(move |conn| number(conn, &sql));
            assert_eq!(left.await.unwrap(), 0, "{table}");
        }
        browser.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn what_is_overdue_is_found_among_many_that_are_not() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        fill(&app).await;
        let now = app.now();
        let idle_since = now - DAY;
        // Piece by piece, and each of them once.
        let mut found = 0;
        let mut after = String::new();
        loop {
            let from = after.clone();
            let piece = app
                .app
                .db
                .read(move |conn| login::overdue(conn, &from, 300, idle_since, now))
                .await
                .unwrap();
            assert!(piece.overdue.len() <= 300);
            found += piece.overdue.len();
            let Some(next) = piece.next else { break };
            assert!(next > after);
            after = next;
        }
        assert_eq!(found, DUE as usize);
    }
}
