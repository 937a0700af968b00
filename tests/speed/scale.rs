//! What a request costs with a million live logins and a hundred thousand ended ones, beside itself
//! with ten: `tests/bench scale`. The rows are made in the database itself, since a million passwords
//! would take hours.

use std::io::Write;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::rt::System;
use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection, SqliteConnection};
use gapura::app::App;
use gapura::clock::{Clock, SystemClock, Timestamp};
use gapura::command::cleanup;
use gapura::command::server::{self, Running, Signals};
use gapura::config::{Config, DatabaseUrl};
use gapura::db::{Db, DbError};
use gapura::keys;
use gapura::login::rotation::{Purpose, TokenId};
use gapura::vault::AppKeys;
use tempfile::NamedTempFile;
use tokio::sync::oneshot;

use crate::setup::{self, APP_KEY, Gapura, Postgres, Redis};
use crate::{Load, Outcome, run_wrk};

/// How long each load lasts; each is taken twice, in turns, and the better one counts.
const SECONDS: u64 = 2;
const ROUNDS: usize = 2;
/// Of a hundred logins one is that of a person who has very many of them.
const OF_ONE_PERSON: usize = 100;
/// So many logins have been started over so many milliseconds.
const SPAN: i64 = 10 * 3_600_000;
const DAY: i64 = 86_400_000;
/// Logins that are refreshed once each.
const SPREAD: usize = 5000;

pub async fn run(arguments: &[String]) -> Outcome<()> {
    let numbers = arguments.iter().filter_map(|text| text.parse().ok());
    let mut live: Vec<usize> = numbers.collect();
    if live.is_empty() {
        live = vec![10, 10_000, 1_000_000];
    }
    let names = ["sqlite", "postgres"];
    let named = |name: &str| arguments.iter().any(|text| text == name);
    let wanted = |name: &str| named(name) || !names.into_iter().any(named);
    if wanted("sqlite") {
        let mut sides = Vec::new();
        for live in &live {
            sides.push(Side::start(Gapura::start(&[]).await?, *live).await?);
        }
        report("SQLite, embedded keystore", &mut sides, named("cleanup")).await?;
    }
    if wanted("postgres") {
        let (mut servers, mut sides) = (Vec::new(), Vec::new());
        for live in &live {
            let (postgres, redis) = (Postgres::start()?, Redis::start()?);
            let settings = [
                ("DATABASE_URL", &*postgres.url),
                ("REDIS_URL", &*redis.url),
                ("GAPURA_APP_KEY", APP_KEY),
            ];
            sides.push(Side::start(Gapura::start(&settings).await?, *live).await?);
            servers.push((postgres, redis));
        }
        report("PostgreSQL, Redis", &mut sides, named("cleanup")).await?;
        drop(sides);
    }
    Ok(())
}

/// A server with so many live logins, a tenth as many ended ones, and as many again to be cleaned up.
struct Side {
    live: usize,
    gapura: Gapura,
    config: Config,
    started_in: Duration,
    idle_mib: f64,
    cookie: String,
    form_token: String,
    /// Of a person with a handful of logins.
    ordinary: String,
    ordinary_bearer: String,
    /// Of the person with very many logins.
    crowded: String,
    bearer: String,
    crowded_bearer: String,
    personal: String,
    /// Refresh tokens of logins far apart.
    spread: NamedTempFile,
}

impl Side {
    async fn start(mut gapura: Gapura, live: usize) -> Outcome<Self> {
        let config = gapura.config()?;
        gapura.stop();
        let now = SystemClock.now().millis();
        let fill = Fill { live, now };
        match &config.database {
            DatabaseUrl::Sqlite(path) => {
                let mut conn = SqliteConnection::establish(&path.display().to_string())?;
                conn.batch_execute("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000;")?;
                conn.batch_execute(&fill.statements(&Dialect::Sqlite))?;
                conn.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?;
            }
            DatabaseUrl::Postgres(url) => {
                let mut conn = PgConnection::establish(url.expose())?;
                // Which of the rows belong together is known here.
                conn.batch_execute(
                    "SET session_replication_role = replica; SET synchronous_commit = off;",
                )?;
                conn.batch_execute(&fill.statements(&Dialect::Postgres))?;
                conn.batch_execute("VACUUM ANALYZE")?;
            }
        }
        if let Some(url) = &config.redis_url {
            fill.redis(url.expose())?;
        }
        let spread = fill.tokens(&config).await?;
        // As it is found on the next day: once for the caches, once to be measured.
        gapura.resume().await?;
        gapura.stop();
        let started_in = gapura.resume().await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let idle_mib = gapura.resident_mib()?;
        let (cookie, form_token) = gapura.browser().await?;
        let (ordinary, _) = gapura.browser_as("user1").await?;
        let (crowded, _) = gapura.browser_as("user0").await?;
        let bearer = |token: &str| format!("Authorization: Bearer {token}");
        Ok(Self {
            cookie: format!("Cookie: {cookie}"),
            form_token: format!("X-CSRF-Token: {form_token}"),
            ordinary: format!("Cookie: {ordinary}"),
            ordinary_bearer: bearer(&gapura.log_in_as("user1").await?.access),
            crowded: format!("Cookie: {crowded}"),
            bearer: bearer(&gapura.log_in().await?.access),
            crowded_bearer: bearer(&gapura.log_in_as("user0").await?.access),
            personal: bearer(&gapura.personal_token().await?),
            live,
            gapura,
            config,
            started_in,
            idle_mib,
            spread,
        })
    }

    fn load(
        &self,
        connections: u8,
        script: Option<&str>,
        path: &str,
        headers: &[&str],
        arguments: &[&str],
    ) -> Outcome<Load> {
        let mut command = Command::new("wrk");
        let threads = match connections {
            // A chain each.
            32 => 32,
            64 => 2,
            _ => 1,
        };
        command.args([format!("-t{threads}"), format!("-c{connections}")]);
        if let Some(script) = script {
            command.args(["-s", &setup::file(script)]);
        }
        run_wrk(
            &mut command,
            &self.gapura.url(path),
            headers,
            arguments,
            SECONDS,
        )
    }

    async fn chains(&self) -> Outcome<Vec<String>> {
        let mut tokens = Vec::new();
        for _ in 0..32 {
            tokens.push(self.gapura.log_in().await?.refresh);
        }
        Ok(tokens)
    }

    fn rotate(&self, chains: &[String]) -> Outcome<Load> {
        let chains: Vec<&str> = chains.iter().map(String::as_str).collect();
        self.load(32, Some("chain.lua"), "/api/v1/auth/refresh", &[], &chains)
    }
}

async fn report(title: &str, sides: &mut [Side], cleanup_only: bool) -> Outcome<()> {
    if !cleanup_only {
        table(title, sides).await?;
    }
    match sides.last_mut() {
        Some(largest) => clean_up(largest).await,
        None => Ok(()),
    }
}

async fn table(title: &str, sides: &[Side]) -> Outcome<()> {
    let heads: Vec<String> = sides.iter().map(|side| side.live.to_string()).collect();
    println!(
        "\n| {title} | {} | times the first | to reach |",
        heads.join(" | ")
    );
    println!("| --- |{} --- | --- |", " --- |".repeat(sides.len()));
    let fast = |name: &str, of: &dyn Fn(&Side) -> Outcome<Load>| rates(sides, name, of);
    fast("GET with a JWT", &|side| {
        side.load(64, None, "/api/v1/auth/token-status", &[&side.bearer], &[])
    })?;
    fast("ping with a session", &|side| {
        let headers = [&*side.cookie, &side.form_token];
        side.load(64, Some("post.lua"), "/api/update-activity", &headers, &[])
    })?;
    fast("GET with a personal token", &|side| {
        side.load(64, None, "/api/v1/verify", &[&side.personal], &[])
    })?;
    let mut chains = Vec::new();
    for side in sides {
        chains.push((side.live, side.chains().await?, side.chains().await?));
    }
    let taken = std::cell::Cell::new(0);
    fast("refresh rotation, 32 chains", &|side| {
        let of_side = chains.iter().find(|(live, ..)| *live == side.live);
        let (_, first, second) = of_side.ok_or("no chains")?;
        // A chain goes on where wrk ended, which nobody knows: each load has its own.
        let round = taken.replace(taken.get() + 1) / sides.len();
        side.rotate(if round == 0 { first } else { second })
    })?;
    spread_rotations(sides)?;
    fast("login, one at a time", &|side| {
        side.load(1, Some("login.lua"), "/api/v1/auth/token", &[], &[])
    })?;
    slow(sides, "device page", &|side| {
        side.load(1, None, "/dashboard/sessions", &[&side.ordinary], &[])
    })?;
    for (name, path) in [
        ("page: people", "/admin/users"),
        ("page: everybody's activity", "/admin/activity"),
        (
            "page: everybody's activity, failures",
            "/admin/activity?show=failures",
        ),
        ("page: figures", "/admin"),
    ] {
        slow(sides, name, &|side| {
            side.load(1, None, path, &[&side.cookie], &[])
        })?;
    }
    slow(
        sides,
        "device page of who has a hundredth of all logins",
        &|side| side.load(1, None, "/dashboard/sessions", &[&side.crowded], &[]),
    )?;
    slow(sides, "`GET /api/v1/sessions`", &|side| {
        side.load(1, None, "/api/v1/sessions", &[&side.ordinary_bearer], &[])
    })?;
    slow(
        sides,
        "`GET /api/v1/sessions` of who has a hundredth of all logins",
        &|side| side.load(1, None, "/api/v1/sessions", &[&side.crowded_bearer], &[]),
    )?;
    let cells =
        |cell: &dyn Fn(&Side) -> String| sides.iter().map(cell).collect::<Vec<_>>().join(" | ");
    println!(
        "| resident memory, idle | {} | | |",
        cells(&|side| format!("{:.0} MiB", side.idle_mib))
    );
    println!(
        "| start to first answer | {} | | ≤ 100 ms |",
        cells(&|side| format!("{} ms", side.started_in.as_millis()))
    );
    Ok(())
}

/// Loads all sides in turns, and prints how many requests a second each took, and how much more one
/// costs on the last side than on the first.
fn rates(sides: &[Side], name: &str, load: &dyn Fn(&Side) -> Outcome<Load>) -> Outcome<()> {
    print_row(sides, name, load, &|load| format!("{:.0}/s", load.rate))
}

/// As [`rates`], for what is asked for one at a time.
fn slow(sides: &[Side], name: &str, load: &dyn Fn(&Side) -> Outcome<Load>) -> Outcome<()> {
    print_row(sides, name, load, &|load| {
        format!("{:.2} ms", 1000.0 / load.rate)
    })
}

fn print_row(
    sides: &[Side],
    name: &str,
    load: &dyn Fn(&Side) -> Outcome<Load>,
    cell: &dyn Fn(&Load) -> String,
) -> Outcome<()> {
    let mut best: Vec<Option<Load>> = sides.iter().map(|_| None).collect();
    for _ in 0..ROUNDS {
        for (side, best) in sides.iter().zip(&mut best) {
            let load = load(side).map_err(|error| format!("{name}: {error}"))?;
            if best.as_ref().is_none_or(|best| best.rate < load.rate) {
                *best = Some(load);
            }
        }
    }
    let loads: Vec<Load> = best.into_iter().flatten().collect();
    let cells: Vec<String> = loads.iter().map(cell).collect();
    if let (Some(first), Some(last)) = (loads.first(), loads.last()) {
        let times = first.rate / last.rate;
        let mark = if times <= 1.2 { "" } else { " (missed)" };
        println!(
            "| {name} | {} | {times:.2} | ≤ 1.2{mark} |",
            cells.join(" | ")
        );
    }
    Ok(())
}

/// Refreshes logins far apart, each once. Ten logins are too few for that, so the next side is the
/// measure.
fn spread_rotations(sides: &[Side]) -> Outcome<()> {
    let mut rates = Vec::new();
    for side in sides {
        let rate = match side.live / 2 < SPREAD {
            true => None,
            false => {
                let file = side.spread.path().display().to_string();
                Some(
                    side.load(16, Some("each.lua"), "/api/v1/auth/refresh", &[], &[&file])?
                        .rate,
                )
            }
        };
        rates.push(rate);
    }
    let cells = rates
        .iter()
        .map(|rate| rate.map_or_else(String::new, |rate| format!("{rate:.0}/s")));
    let cells: Vec<String> = cells.collect();
    let known: Vec<f64> = rates.iter().copied().flatten().collect();
    let times = match &known[..] {
        [first, .., last] => format!("{:.2}", first / last),
        _ => String::new(),
    };
    println!(
        "| refresh rotation, {SPREAD} logins once each, 16 at a time | {} | {times} | |",
        cells.join(" | ")
    );
    Ok(())
}

/// Rotations without and with a cleanup beside them: some by the server itself, the rest by another
/// process.
async fn clean_up(side: &mut Side) -> Outcome<()> {
    let now = SystemClock.now();
    // Until then half of what is due has been kept for long enough.
    let halfway = now - Duration::from_millis((13 * DAY - SPAN / 2).unsigned_abs());
    side.gapura.stop();
    let own = Own::start(Config {
        bind: side.gapura.address(),
        rate_limits: false,
        ..side.config.clone()
    })?;
    let without = side.rotate(&side.chains().await?)?;
    own.sweep
        .send(halfway)
        .map_err(|_| "the server has ended")?;
    beside(side, "By the server itself", &without, &own.swept).await?;
    own.handle.stop(false).await;

    side.gapura.resume().await?;
    let without = side.rotate(&side.chains().await?)?;
    let (done, swept) = mpsc::channel();
    let config = side.config.clone();
    std::thread::spawn(move || {
        let sweep = async {
            let db = Db::open_patient(&config.database, 1)?;
            cleanup::sweep(&db, &config, now).await
        };
        let _ = done.send(System::new().block_on(timed(sweep)));
    });
    beside(side, "By `gapura cleanup`", &without, &swept).await
}

/// Rotates for as long as a cleanup takes, and prints how both fared.
async fn beside(
    side: &Side,
    who: &str,
    without: &Load,
    swept: &mpsc::Receiver<Swept>,
) -> Outcome<()> {
    let mut with = Vec::new();
    let (deleted, took) = loop {
        with.push(side.rotate(&side.chains().await?)?);
        match swept.try_recv() {
            Err(mpsc::TryRecvError::Empty) => {}
            swept => break swept??,
        }
    };
    let each = with
        .iter()
        .map(|load| format!("{:.0}/s, {:.1} ms", load.rate, load.p99));
    println!(
        "\n{who} {} logins with their tokens, {} personal tokens and {} events: {:.1} s, the longest step {} ms. \
         Rotations without it: {:.0}/s, p99 {:.1} ms; while it ran, every {SECONDS} s: {}.",
        deleted.logins,
        deleted.tokens,
        deleted.events,
        took.as_secs_f64(),
        deleted.longest_step.as_millis(),
        without.rate,
        without.p99,
        each.collect::<Vec<_>>().join("; "),
    );
    Ok(())
}

/// How a cleanup ended, and how long it took.
type Swept = Result<(cleanup::Deleted, Duration), String>;

async fn timed(sweep: impl Future<Output = Result<cleanup::Deleted, DbError>>) -> Swept {
    let began = setup::stopwatch();
    let deleted = sweep.await.map_err(|error| error.to_string())?;
    Ok((deleted, began.elapsed()))
}

/// A server in this process, which cleans up when it is told to instead of every ten minutes.
struct Own {
    /// At what time it does so.
    sweep: oneshot::Sender<Timestamp>,
    swept: mpsc::Receiver<Swept>,
    handle: ServerHandle,
}

impl Own {
    fn start(config: Config) -> Outcome<Self> {
        let (bound, is_bound) = mpsc::channel();
        let (done, swept) = mpsc::channel();
        let (sweep, told) = oneshot::channel();
        std::thread::spawn(move || {
            let served = async {
                let app = App::start(config, Arc::new(SystemClock)).await?;
                let Running { server, app, .. } = server::bind(app, Signals::Ignore)?;
                let _ = bound.send(Ok(server.handle()));
                actix_web::rt::spawn(async move {
                    if let Ok(now) = told.await {
                        let _ = done.send(timed(cleanup::sweep(&app.db, &app.config, now)).await);
                    }
                });
                server.await.map_err(|error| error.to_string())
            };
            if let Err(problem) = System::new().block_on(served) {
                let _ = bound.send(Err(problem));
            }
        });
        Ok(Self {
            sweep,
            swept,
            handle: is_bound.recv()??,
        })
    }
}

enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// So many numbers `i` from `first` on.
    fn numbers(&self, first: usize, count: usize) -> String {
        let last = first + count - 1;
        match self {
            Self::Sqlite => format!(
                "WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
            ),
            Self::Postgres => {
                format!("WITH n (i) AS (SELECT generate_series({first}, {last})::bigint)")
            }
        }
    }

    /// A UUIDv7 of that moment; `sort` tells those of one table from another's.
    fn id(&self, millis: &str, sort: &str, number: &str) -> String {
        match self {
            Self::Sqlite => format!(
                "printf('%08x-%04x-{sort}-8000-%012x', ({millis}) >> 16, ({millis}) & 65535, {number})"
            ),
            Self::Postgres => format!(
                "(lpad(to_hex(({millis}) >> 16), 8, '0') || '-' || lpad(to_hex(({millis}) & 65535), 4, '0') || \
                 '-{sort}-8000-' || lpad(to_hex({number}), 12, '0'))"
            ),
        }
    }

    /// The id of a rotating token.
    fn token(&self, millis: &str, number: &str) -> String {
        match self {
            Self::Sqlite => format!("unhex(printf('%012x%032x', {millis}, {number}))"),
            Self::Postgres => format!(
                "decode(lpad(to_hex({millis}), 12, '0') || lpad(to_hex({number}), 32, '0'), 'hex')"
            ),
        }
    }
}

/// Logins that began at about the same time and fared alike.
struct Batch {
    first: usize,
    count: usize,
    /// Over `SPAN` from here.
    began: i64,
    ended: bool,
    /// When they would be over: after so many milliseconds.
    life: i64,
    /// When their events were, so much earlier.
    events_before: i64,
}

struct Fill {
    live: usize,
    now: i64,
}

impl Fill {
    fn live(&self) -> Batch {
        Batch {
            first: 0,
            count: self.live,
            began: self.now - SPAN,
            ended: false,
            life: 10 * DAY,
            events_before: 0,
        }
    }

    fn statements(&self, dialect: &Dialect) -> String {
        let (live, now) = (self.live, self.now);
        let tenth = (live / 10).max(1);
        let people = (live / 5).max(10);
        let numbers = dialect.numbers(0, people);
        let joined = &(now - 40 * DAY).to_string();
        let user = |number: &str| dialect.id(joined, "7001", number);
        let id = user("i");
        let mut sql = format!(
            "{numbers} INSERT INTO users (id, username, email, email_verified, name, role, theme, password_hash, created_at) \
             SELECT {id}, 'user' || i, 'user' || i || '@example.org', TRUE, 'User ' || i, 'user', theme, password_hash, \
             created_at FROM n, users WHERE username = 'speed';\n"
        );
        let owner = user(&format!(
            "(CASE WHEN i % {OF_ONE_PERSON} = 0 THEN 0 ELSE 1 + (i * 48271) % {} END)",
            people - 1
        ));
        let ended = Batch {
            first: live,
            count: tenth,
            began: now - 3 * SPAN,
            ended: true,
            ..self.live()
        };
        let due = Batch {
            first: live + tenth,
            began: now - 30 * DAY,
            events_before: 400 * DAY,
            ..ended
        };
        for batch in [&self.live(), &ended, &due] {
            sql += &batch.statements(dialect, &owner);
        }
        for (first, count, ends) in [(0, tenth, now + 90 * DAY), (tenth, tenth, now - 31 * DAY)] {
            let (numbers, id) = (
                dialect.numbers(first, count),
                dialect.id(joined, "7003", "i"),
            );
            sql += &format!(
                "{numbers} INSERT INTO personal_tokens (id, user_id, name, scopes, mac, created_at, expires_at) \
                 SELECT {id}, {owner}, 'backup', '*', {}, {}, {ends} FROM n;\n",
                dialect.token("0", "i"),
                now - 40 * DAY,
            );
        }
        if matches!(dialect, Dialect::Sqlite) {
            let (numbers, ends) = (dialect.numbers(0, tenth), now + DAY);
            for (key, value) in SESSION {
                sql += &format!(
                    "{numbers} INSERT INTO keystore (key, value, expires_at) \
                     SELECT '{key}' || printf('%036d', i), '{value}', {ends} FROM n;\n"
                );
            }
        }
        sql
    }

    /// Sessions of a tenth of the logins.
    fn redis(&self, url: &str) -> Outcome<()> {
        let mut connection = redis::Client::open(url)?.get_connection()?;
        for (key, value) in SESSION {
            let script = "for i = 0, ARGV[1] do redis.call('SET', KEYS[1] .. string.format('%036d', i), ARGV[2], 'EX', 80000) end";
            let mut fill = redis::cmd("EVAL");
            fill.arg(script)
                .arg(1)
                .arg(key)
                .arg(self.live / 10)
                .arg(value);
            fill.exec(&mut connection)?;
        }
        Ok(())
    }

    /// The refresh tokens of logins by API, far apart.
    async fn tokens(&self, config: &Config) -> Outcome<NamedTempFile> {
        let db = Db::open(&config.database, 1)?;
        let app_keys = Arc::new(AppKeys::load(config)?);
        let lifetime = config.clocks.login_lifetime;
        let known = keys::load(
            &db,
            &app_keys,
            config.jwt_algorithm,
            lifetime,
            SystemClock.now(),
        )
        .await?;
        let mut file = NamedTempFile::new()?;
        let apart = (self.live / SPREAD).max(2) / 2 * 2;
        for i in (1..self.live).step_by(apart).take(SPREAD) {
            let (i, count) = (i64::try_from(i)?, i64::try_from(self.live)?);
            let millis = self.now - SPAN + i * SPAN / count;
            let mut bytes = [0; 22];
            bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
            bytes[14..].copy_from_slice(&(i * 2 + 1).to_be_bytes());
            let token =
                TokenId::from_stored(Purpose::Refresh, &bytes).ok_or("the length of a token")?;
            writeln!(file, "{}", token.to_token(&known.secrets).expose())?;
        }
        Ok(file)
    }
}

/// What a session keeps, under what begins like this.
const SESSION: [(&str, &str); 3] = [
    (
        "gapura:session:bench",
        r#"{"login_id":"0199f0c1-2345-7abc-8def-0123456789ab","user_id":"0199f0c1-2345-7abc-8def-0123456789ab","username":"somebody","name":"Some Body","email":"somebody@example.org","email_verified":true,"role":"user","locale":null,"theme":"system","device":"Firefox on Linux","ip":"192.0.2.7","started_at":1763740000000,"auth_time":1763740000000,"expires_at":1763826400000,"remember_until":null,"remember_token":null,"must_change_password":false,"form_id":"0199f0c123457abc8def0123456789ab"}"#,
    ),
    ("gapura:activity:", "1763740000"),
    (
        "gapura:sessions:",
        "gapura:session:bench000000000000000000000000000000000000 ",
    ),
];

impl Batch {
    fn statements(&self, dialect: &Dialect, owner: &str) -> String {
        let Self {
            first,
            count,
            began,
            life,
            events_before,
            ..
        } = self;
        let numbers = dialect.numbers(*first, *count);
        let began = &format!("({began} + (i - {first}) * {SPAN} / {count})");
        let (id, kind) = (
            dialect.id(began, "7000", "i"),
            "CASE WHEN i % 2 = 0 THEN 'browser' ELSE 'api' END",
        );
        let (ended_at, cause) = match self.ended {
            true => (format!("{began} + 3600000"), "'logged_out'"),
            false => ("NULL".to_owned(), "NULL"),
        };
        let place = "'Firefox on Linux', '192.0.2.7'";
        let mut sql = format!(
            "{numbers} INSERT INTO logins (id, user_id, kind, device, ip, started_at, auth_time, last_activity_at, expires_at, \
             ended_at, ended_cause) SELECT {id}, {owner}, {kind}, {place}, {began}, {began}, {began}, {began} + {life}, \
             {ended_at}, {cause} FROM n;\n"
        );
        let [old, new] = ["i * 2", "i * 2 + 1"].map(|number| dialect.token(began, number));
        let purpose = "CASE WHEN i % 2 = 0 THEN 'remember' ELSE 'refresh' END";
        let columns = "id, login_id, purpose, parent_id, counter, issued_at, expires_at, used_at, superseded_at, \
                       successor_id, successor_given_at, successors";
        let later = format!("{began} + 60000");
        sql += &format!(
            "{numbers} INSERT INTO rotating_tokens ({columns}) SELECT {old}, {id}, {purpose}, NULL, 0, {began}, \
             {began} + {life}, {later}, {later}, {new}, {later}, 1 FROM n;\n\
             {numbers} INSERT INTO rotating_tokens ({columns}) SELECT {new}, {id}, {purpose}, {old}, 1, {later}, \
             {began} + {life}, NULL, NULL, NULL, NULL, 0 FROM n;\n"
        );
        let at = &format!("({began} - {events_before})");
        let event = dialect.id(at, "7002", "i");
        sql += &format!(
            "{numbers} INSERT INTO audit_events (id, at, kind, user_id, actor_id, login_id, device, ip) SELECT {event}, {at}, \
             CASE WHEN i % 20 = 0 THEN 'login_failed' ELSE 'login' END, {owner}, {owner}, {id}, {place} FROM n;\n"
        );
        if self.ended {
            sql += &format!(
                "{numbers} INSERT INTO revocations (subject, cause, revoked_at, expires_at) \
                 SELECT {id}, {cause}, {ended_at}, {began} + {life} FROM n;\n"
            );
        }
        sql
    }
}
