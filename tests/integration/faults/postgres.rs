//! A PostgreSQL of a test's own, which may be hung or killed, and another's transaction in a shared one.

use std::future::ready;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::BigInt;
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use tempfile::TempDir;

use super::lasting_port;
use crate::harness::variable;
use crate::program::{Place, signal, until};

/// A whole cluster, gone when dropped.
pub struct Postgres {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Postgres {
    pub async fn start() -> Self {
        let bin = variable("GAPURA_TEST_POSTGRES_BIN");
        let dir = TempDir::new().expect("a temporary directory");
        let data = Self::data(&dir);
        std::fs::create_dir(&data).unwrap();
        // PostgreSQL does not run as root.
        if is_root() {
            run(Command::new("chmod").arg("711").arg(dir.path()));
            run(Command::new("chown").arg("postgres:").arg(&data));
        }
        run(unprivileged(&format!("{bin}/initdb"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync", "--pgdata"])
            .arg(&data));
        let port = lasting_port();
        let child = Self::serve(&bin, &data, port);
        let server = Self { child, port, dir };
        server.ready().await;
        server
    }

    fn data(dir: &TempDir) -> PathBuf {
        dir.path().join("data")
    }

    async fn ready(&self) {
        let answers = || async { PgConnection::establish(&self.url()).is_ok() };
        until(Duration::from_secs(20), answers).await;
    }

    /// Ends it: by INT, as an operator does, or by KILL, as a machine without memory does.
    pub async fn stop(&mut self, by: &str) {
        match by {
            "KILL" => self.signal(by),
            _ => signal(self.child.id(), by),
        }
        let ended = || ready(self.child.try_wait().expect("a child").is_some());
        until(Duration::from_secs(20), ended).await;
    }

    pub async fn return_(&mut self) {
        let bin = variable("GAPURA_TEST_POSTGRES_BIN");
        self.child = Self::serve(&bin, &Self::data(&self.dir), self.port);
        self.ready().await;
    }

    fn serve(bin: &str, data: &Path, port: u16) -> Child {
        let mut command = unprivileged("setpriv");
        command
            .args(["--pdeathsig", "QUIT"])
            .arg(format!("{bin}/postgres"))
            .arg("-D")
            .arg(data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c"])
            .arg(format!("port={port}"))
            .arg("-c")
            .arg(format!("unix_socket_directories={}", data.display()))
            .args(["-c", "max_connections=100", "-c", "fsync=off"]);
        let child = quiet(&mut command).spawn();
        child.expect("postgres starts")
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// To the server and everything that works for it.
    pub fn signal(&self, name: &str) {
        let id = self.child.id();
        // Stopped, it starts no others while they are told.
        signal(id, "STOP");
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.expect("its children");
        let children = children.split_whitespace();
        for child in children.filter_map(|child| child.parse().ok()) {
            // One may have ended meanwhile.
            let _ = Command::new("kill")
                .args(["-s", name, &u32::to_string(&child)])
                .stderr(Stdio::null())
                .status();
        }
        signal(id, name);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal("CONT");
        signal(self.child.id(), "QUIT");
        let _ = self.child.wait();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").expect("Linux").uid() == 0
}

fn unprivileged(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "postgres", "--regid", "postgres"])
        .args(["--init-groups", program]);
    command
}

fn quiet(command: &mut Command) -> &mut Command {
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

fn run(command: &mut Command) {
    let status = quiet(command).status().expect("it runs");
    assert!(status.success(), "{command:?}");
}

/// Somebody else at work in the database of a place: what is locked stays so until they are done.
pub struct SomebodyElse {
    conn: PgConnection,
    /// Apart, since a transaction sees the others as they were when it first looked.
    watching: PgConnection,
}

impl SomebodyElse {
    pub fn in_database_of(place: &Place) -> Self {
        let mut settings = place.settings.iter();
        let url = settings.find(|(name, _)| name == "DATABASE_URL");
        let (_, url) = url.expect("PostgreSQL");
        Self::at(url)
    }

    pub fn at(url: &str) -> Self {
        let connect = || PgConnection::establish(url).expect("it answers");
        Self {
            conn: connect(),
            watching: connect(),
        }
    }

    pub fn execute(&mut self, statements: &str) {
        self.conn.batch_execute(statements).expect("it is done");
    }

    /// Nobody adds to a table or changes it.
    pub fn lock(&mut self, table: &str) {
        self.execute(&format!(
            "BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"
        ));
    }

    pub fn done(&mut self) {
        self.execute("ROLLBACK");
    }

    pub fn number(&mut self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let row = diesel::sql_query(format!("SELECT ({query})::bigint AS number"));
        row.get_result::<Row>(&mut self.watching)
            .expect("a number")
            .number
    }

    /// How many of this database's transactions wait for somebody's lock.
    pub fn waiting(&mut self) -> i64 {
        self.number(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
    }

    /// How many transactions of a server are open though it says nothing.
    pub fn abandoned(&mut self) -> i64 {
        self.number(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND state = 'idle in transaction'
               AND pid <> pg_backend_pid()",
        )
    }
}
