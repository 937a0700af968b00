//! A real server on a free port, its clock in the test's hand, its databases its own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::web::Data;
use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use gapura::account::password::{Hasher, normalise};
use gapura::account::{Role, User};
use gapura::app::App;
use gapura::clock::{Clock, FakeClock, SystemClock, Timestamp};
use gapura::command::server::{Signals, bind};
use gapura::config::Config;
use serde_json::Value;
use tempfile::TempDir;

/// What a server keeps its data in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// SQLite and the embedded store.
    Embedded,
    /// PostgreSQL and Redis.
    Shared,
}

impl Backend {
    pub const ALL: [Self; 2] = [Self::Embedded, Self::Shared];
}

/// Databases of one installation; several servers may share them.
pub struct Installation {
    pub settings: Vec<(String, String)>,
    dir: TempDir,
}

impl Installation {
    pub fn new(backend: Backend) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let dir = TempDir::new().expect("a temporary directory");
        let mut settings = vec![
            (
                "GAPURA_DATA_DIR".to_owned(),
                dir.path().join("data").display().to_string(),
            ),
            ("GAPURA_BIND".to_owned(), "127.0.0.1:0".to_owned()),
            (
                "GAPURA_PUBLIC_URL".to_owned(),
                "http://localhost".to_owned(),
            ),
            ("GAPURA_WORKERS".to_owned(), "2".to_owned()),
        ];
        if backend == Backend::Shared {
            let admin = variable("GAPURA_TEST_POSTGRES_URL");
            let name = format!("gapura_{}_{number}", std::process::id());
            let mut conn = PgConnection::establish(&admin).expect("PostgreSQL answers");
            conn.batch_execute(&format!("CREATE DATABASE {name}"))
                .expect("a database of its own");
            let (server, _) = admin.rsplit_once('/').expect("a database in the address");
            settings.push(("DATABASE_URL".to_owned(), format!("{server}/{name}")));
            let redis = variable("GAPURA_TEST_REDIS_URL");
            let redis = redis.trim_end_matches('/');
            settings.push(("REDIS_URL".to_owned(), format!("{redis}/{}", number % 1024)));
            settings.push((
                "GAPURA_APP_KEY".to_owned(),
                "w7sUXEJ1pTnKAyx9b2f4mSgH0vRq5oZlYdCeiN8aPuM=".to_owned(),
            ));
        }
        Self { settings, dir }
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Of PostgreSQL.
    pub fn database_url(&self) -> &str {
        let mut settings = self.settings.iter();
        let url = settings.find(|(name, _)| name == "DATABASE_URL");
        &url.expect("PostgreSQL").1
    }

    /// Lets nobody into the PostgreSQL database any more.
    pub fn close_database(&self) {
        let (_, name) = self.database_url().rsplit_once('/').expect("a database");
        let admin = variable("GAPURA_TEST_POSTGRES_URL");
        let mut admin = PgConnection::establish(&admin).expect("PostgreSQL answers");
        let close = format!(
            "ALTER DATABASE {name} ALLOW_CONNECTIONS false; \
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        admin.batch_execute(&close).expect("the database is closed");
    }

    /// The settings, with `more` on top.
    pub fn config(&self, more: &[(&str, &str)]) -> Config {
        let more = more
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = self.settings.iter().cloned().chain(more);
        Config::from_sources("", settings).expect("settings that can be right")
    }
}

/// A running server.
pub struct TestApp {
    pub url: String,
    pub clock: Arc<FakeClock>,
    pub app: Data<App>,
    pub http: reqwest::Client,
    pub installation: Arc<Installation>,
    handle: actix_web::dev::ServerHandle,
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // The server ends when its handle is told, whether or not anybody waits.
        drop(actix_web::rt::spawn(self.handle.stop(false)));
    }
}

impl TestApp {
    /// Of everybody.
    pub const PASSWORD: &str = "correct horse battery staple";

    pub async fn start(backend: Backend) -> Self {
        Self::start_with(backend, &[]).await
    }

    pub async fn start_with(backend: Backend, settings: &[(&str, &str)]) -> Self {
        let clock = Arc::new(FakeClock::at(SystemClock.now()));
        let app = Self::join(Arc::new(Installation::new(backend)), clock, settings).await;
        for name in ["ada", "bob"] {
            app.add_user(name, Role::User).await;
        }
        app.add_user("root", Role::Admin).await;
        app
    }

    /// Another node, or the same one restarted.
    pub async fn join(
        installation: Arc<Installation>,
        clock: Arc<FakeClock>,
        settings: &[(&str, &str)],
    ) -> Self {
        let config = installation.config(settings);
        std::fs::create_dir_all(&config.data_dir).expect("a data directory");
        gapura::db::migrate(&config.database).expect("migrations apply");
        let app = App::start(config, clock.clone())
            .await
            .expect("the server starts");
        let running = bind(app, Signals::Ignore).expect("a free port");
        let handle = running.server.handle();
        actix_web::rt::spawn(running.server);
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self {
            url: format!("http://{}", running.address),
            clock,
            app: running.app,
            http: http.build().expect("an HTTP client"),
            installation,
            handle,
        }
    }

    pub async fn add_user(&self, name: &str, role: Role) -> User {
        static HASH: OnceLock<String> = OnceLock::new();
        if HASH.get().is_none() {
            let hasher = Hasher::new(&self.app.config).expect("a hasher");
            let hash = hasher
                .hash(normalise(Self::PASSWORD))
                .await
                .expect("a hash");
            let _ = HASH.set(hash);
        }
        let hash = HASH.get().expect("a hash").clone();
        let email = format!("{name}@example.org");
        let user = User::new(
            name.to_owned(),
            email,
            name.to_owned(),
            role,
            hash,
            self.clock.now(),
        );
        let added = user.clone();
        let insert = self
            .app
            .db
            .write(move |conn| gapura::account::insert(conn, &added));
        insert.await.expect("a user");
        user
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> reqwest::Response {
        let request = self.http.post(format!("{}{path}", self.url)).json(body);
        request.send().await.expect("an answer")
    }
}

/// The servers of one installation, as a balancer has them: each in its turn.
pub struct Nodes {
    pub all: Vec<TestApp>,
    turn: AtomicUsize,
}

impl Nodes {
    /// Where races are run: on one server of each kind, and across two.
    pub const ALL: [(Backend, usize); 3] = [
        (Backend::Embedded, 1),
        (Backend::Shared, 1),
        (Backend::Shared, 2),
    ];

    pub async fn start((backend, count): (Backend, usize), settings: &[(&str, &str)]) -> Self {
        let mut nodes = Self {
            all: vec![TestApp::start_with(backend, settings).await],
            turn: AtomicUsize::new(0),
        };
        let (installation, clock) = nodes.shared();
        nodes.join(count - 1, &installation, &clock, settings).await;
        nodes
    }

    /// All of them end before the first starts again.
    pub async fn restart(&mut self, settings: &[(&str, &str)]) {
        let (installation, clock) = self.shared();
        let count = self.all.len();
        self.all.clear();
        self.join(count, &installation, &clock, settings).await;
    }

    fn shared(&self) -> (Arc<Installation>, Arc<FakeClock>) {
        let first = self.first();
        (Arc::clone(&first.installation), Arc::clone(&first.clock))
    }

    async fn join(
        &mut self,
        count: usize,
        installation: &Arc<Installation>,
        clock: &Arc<FakeClock>,
        settings: &[(&str, &str)],
    ) {
        for _ in 0..count {
            let (installation, clock) = (Arc::clone(installation), Arc::clone(clock));
            let node = TestApp::join(installation, clock, settings).await;
            self.all.push(node);
        }
    }

    /// For what is no request: the clock, the database.
    pub fn first(&self) -> &TestApp {
        &self.all[0]
    }

    /// The one whose turn it is.
    pub fn next(&self) -> &TestApp {
        &self.all[self.turn.fetch_add(1, Ordering::SeqCst) % self.all.len()]
    }

    /// How long one may not know yet of an end on another.
    pub fn news_takes(&self) -> Duration {
        match self.all.len() {
            1 => Duration::ZERO,
            _ => Duration::from_secs(1),
        }
    }

    /// How often a race is run: across nodes it has been run on one of them before.
    pub fn rounds(&self, on_one: usize) -> usize {
        on_one / self.all.len()
    }
}

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/run"))
}

/// The `node_modules` with that package (`name@version`) of npm in it; `None` where npm is missing
/// or cannot reach its registry.
pub fn npm(package: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(package);
    let (name, _) = package.rsplit_once('@').expect("a version");
    let modules = folder.join("node_modules");
    if !modules.join(name).join("package.json").exists() {
        let ran = Command::new("npm")
            .args([
                "install",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--silent",
                "--prefix",
            ])
            .arg(&folder)
            .arg(package)
            .status();
        ran.is_ok_and(|status| status.success()).then_some(())?;
    }
    Some(modules)
}
