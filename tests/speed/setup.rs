//! Servers that a measurement needs, on free ports, gone when it is over.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use gapura::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Outcome;
use crate::bare::Same;

pub const APP_KEY: &str = "w7sUXEJ1pTnKAyx9b2f4mSgH0vRq5oZlYdCeiN8aPuM=";
const PASSWORD: &str = "correct horse battery staple";

pub fn file(name: &str) -> String {
    format!("{}/tests/speed/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch, not a clock")]
pub fn stopwatch() -> Instant {
    Instant::now()
}

/// Waits until somebody listens.
pub fn wait_for(port: u16, at_most: Duration) -> Outcome<()> {
    let began = stopwatch();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if began.elapsed() > at_most {
            return Err(format!("nobody listens on port {port}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A process that ends with its handle.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Redis without persistence.
pub struct Redis {
    pub url: String,
    _process: Process,
}

impl Redis {
    pub fn start() -> Outcome<Self> {
        let port = free_port()?;
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .stdout(Stdio::null())
            .spawn()?;
        wait_for(port, Duration::from_secs(5))?;
        Ok(Self {
            url: format!("redis://127.0.0.1:{port}"),
            _process: Process(process),
        })
    }
}

/// PostgreSQL as it comes, `fsync` and `synchronous_commit` on.
pub struct Postgres {
    pub url: String,
    port: u16,
    bin: String,
    _process: Process,
    _dir: TempDir,
}

impl Postgres {
    pub fn start() -> Outcome<Self> {
        let bin = shell("ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1")?;
        let dir = TempDir::new()?;
        let data = dir.path().join("data");
        let (path, port) = (data.display().to_string(), free_port()?);
        shell(&format!(
            "chmod 711 {} && mkdir {path} && chown postgres {path}",
            dir.path().display()
        ))?;
        let run = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--init-groups",
            ]);
            command
                .arg(format!("{bin}/{program}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .current_dir("/");
            command
        };
        run("initdb")
            .args(["-D", &path, "-U", "postgres", "--auth=trust"])
            .status()?;
        let port_text = format!("port={port}");
        let process = run("postgres")
            .args([
                "-D",
                &path,
                "-c",
                &port_text,
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
            ])
            .arg(format!("unix_socket_directories={path}"))
            .spawn()?;
        wait_for(port, Duration::from_secs(20))?;
        std::thread::sleep(Duration::from_secs(1));
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        Ok(Self {
            url,
            port,
            bin,
            _process: Process(process),
            _dir: dir,
        })
    }

    /// One-row updates a second, 16 clients.
    pub fn pgbench(&self, seconds: u64) -> Outcome<f64> {
        let bench = format!(
            "{}/pgbench -h 127.0.0.1 -p {} -U postgres",
            self.bin, self.port
        );
        shell(&format!("{bench} -i -q -s 1 postgres 2>&1"))?;
        let script = "\\set id random(1, 100000)\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :id;\n";
        let file = self._dir.path().join("one-row.sql");
        std::fs::write(&file, script)?;
        let text = shell(&format!(
            "{bench} -n -M prepared -c 16 -j 2 -T {seconds} -f {} postgres 2>&1",
            file.display()
        ))?;
        let tps = text
            .lines()
            .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        tps.ok_or_else(|| format!("pgbench said nothing of a rate:\n{text}").into())
    }
}

fn shell(script: &str) -> Outcome<String> {
    let output = Command::new("sh").args(["-c", script]).output()?;
    if !output.status.success() {
        return Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The release binary, serving.
pub struct Gapura {
    port: u16,
    /// `None` while it is stopped.
    process: Option<Process>,
    settings: Vec<(String, String)>,
    dir: TempDir,
    http: reqwest::Client,
}

/// What a login by API gives.
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

impl Gapura {
    pub async fn start(settings: &[(&str, &str)]) -> Outcome<Self> {
        let dir = TempDir::new()?;
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let port = free_port()?;
        let process = Some(spawn(&dir, port, &settings)?);
        let gapura = Self {
            port,
            process,
            settings,
            dir,
            http: client()?,
        };
        wait_for(port, Duration::from_secs(20))?;
        Ok(gapura)
    }

    /// Stops it, and waits until it has.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, and measures how long that takes to the first answer.
    pub async fn resume(&mut self) -> Outcome<Duration> {
        let began = stopwatch();
        self.process = Some(spawn(&self.dir, self.port, &self.settings)?);
        wait_for(self.port, Duration::from_secs(60))?;
        self.http.get(self.url("/healthz")).send().await?;
        Ok(began.elapsed())
    }

    /// What it is told.
    pub fn config(&self) -> Outcome<Config> {
        let dir = ("GAPURA_DATA_DIR".to_owned(), self.data_dir());
        let settings = self.settings.iter().cloned().chain([dir]);
        Config::from_sources("", settings).map_err(|problems| problems.join("; ").into())
    }

    fn data_dir(&self) -> String {
        self.dir.path().join("data").display().to_string()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub async fn get(&self, path: &str, header: &str) -> Outcome<Same> {
        let (name, value) = header.split_once(": ").ok_or("a header")?;
        let request = self.http.get(self.url(path)).header(name, value);
        same(request.send().await?).await
    }

    pub async fn log_in(&self) -> Outcome<Tokens> {
        self.log_in_as("speed").await
    }

    pub async fn log_in_as(&self, username: &str) -> Outcome<Tokens> {
        let body = json!({"username": username, "password": PASSWORD});
        let answer = self
            .http
            .post(self.url("/api/v1/auth/token"))
            .json(&body)
            .send()
            .await?;
        let answer: Value = answer.json().await?;
        let text = |name: &str| {
            answer["data"][name]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| answer.to_string())
        };
        Ok(Tokens {
            access: text("access_token")?,
            refresh: text("refresh_token")?,
        })
    }

    /// A personal token that may do everything.
    pub async fn personal_token(&self) -> Outcome<String> {
        let access = self.log_in().await?.access;
        let request = self.http.post(self.url("/api/v1/tokens"));
        let answer = request
            .bearer_auth(access)
            .json(&json!({"name": "speed"}))
            .send()
            .await?;
        let answer: Value = answer.json().await?;
        let token = answer["data"]["token"].as_str().map(str::to_owned);
        Ok(token.ok_or_else(|| answer.to_string())?)
    }

    /// Signs in by the login page: the session cookie and the form token.
    pub async fn browser(&self) -> Outcome<(String, String)> {
        self.browser_as("speed").await
    }

    pub async fn browser_as(&self, username: &str) -> Outcome<(String, String)> {
        let http = client()?;
        let get = async |path: &str| http.get(self.url(path)).send().await?.text().await;
        let token = form_token(&get("/login").await?)?;
        let form = [
            ("login", username),
            ("password", PASSWORD),
            ("csrf_token", &token),
        ];
        let answer = http.post(self.url("/login")).form(&form).send().await?;
        let cookies = answer
            .headers()
            .get_all("set-cookie")
            .iter()
            .filter_map(|value| value.to_str().ok());
        let session = cookies
            .filter_map(|cookie| cookie.split(';').next())
            .find(|cookie| cookie.starts_with("gapura_session="));
        let session = session.ok_or("no session cookie")?.to_owned();
        Ok((session, form_token(&get("/dashboard").await?)?))
    }

    pub async fn ping(&self, cookie: &str, token: &str) -> Outcome<Same> {
        let mut request = self.http.post(self.url("/api/update-activity"));
        for header in [cookie, token] {
            let (name, value) = header.split_once(": ").ok_or("a header")?;
            request = request.header(name, value);
        }
        same(request.send().await?).await
    }

    /// Puts so many logins in place.
    pub async fn fill(&self, logins: usize) -> Outcome<()> {
        for _ in 0..logins.div_ceil(16) {
            let batch = (0..16).map(|_| self.log_in());
            for login in futures_util::future::join_all(batch).await {
                login?;
            }
        }
        Ok(())
    }

    pub fn resident_mib(&self) -> Outcome<f64> {
        let process = self.process.as_ref().ok_or("it is stopped")?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = line
            .and_then(|line| line.trim().split(' ').next())
            .ok_or("VmRSS")?
            .parse()?;
        Ok(kib / 1024.0)
    }
}

fn client() -> Outcome<reqwest::Client> {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    // No connection is kept: the next request may be to another process on the same port.
    Ok(http.pool_max_idle_per_host(0).cookie_store(true).build()?)
}

fn spawn(dir: &TempDir, port: u16, settings: &[(String, String)]) -> Outcome<Process> {
    let mut command = Command::new(format!(
        "{}/target/release/gapura",
        env!("CARGO_MANIFEST_DIR")
    ));
    command
        .env("GAPURA_DATA_DIR", dir.path().join("data"))
        .env("GAPURA_BIND", format!("127.0.0.1:{port}"))
        .env("GAPURA_ADMIN_USERNAME", "speed")
        .env("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .env("GAPURA_RATE_LIMITS", "off")
        .env("GAPURA_LOG", "error")
        .env("GAPURA_METRICS_BIND", "127.0.0.1:0")
        .envs(settings.iter().cloned())
        .stdout(Stdio::null())
        .current_dir(dir.path());
    Ok(Process(command.spawn()?))
}

async fn same(answer: reqwest::Response) -> Outcome<Same> {
    let answer = answer.error_for_status()?;
    // What the server itself adds to every answer it would add twice.
    let own = |name: &str| ["content-length", "date"].contains(&name);
    let headers = answer
        .headers()
        .iter()
        .filter(|(name, _)| !own(name.as_str()));
    let headers =
        headers.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap_or_default()));
    let headers = headers.collect();
    Ok(Same {
        headers,
        body: answer.text().await?,
    })
}

fn form_token(page: &str) -> Outcome<String> {
    let token = page
        .split("name=\"csrf-token\" content=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    Ok(token.ok_or("no form token on the page")?.to_owned())
}

/// One-row commits a second, one at a time, as durable as ours.
pub fn sqlite_commits(lasting: Duration) -> Outcome<f64> {
    let dir = TempDir::new()?;
    let mut conn = SqliteConnection::establish(&dir.path().join("limit.db").display().to_string())?;
    conn.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES (1, 0);")?;
    let (began, mut commits) = (stopwatch(), 0_u32);
    while began.elapsed() < lasting {
        conn.batch_execute("UPDATE t SET n = n + 1 WHERE id = 1")?;
        commits += 1;
    }
    Ok(f64::from(commits) / began.elapsed().as_secs_f64())
}

/// Argon2id hashes a second on all cores, with the default parameters and memory that is kept.
pub fn raw_argon2(lasting: Duration) -> Outcome<f64> {
    let cores = std::thread::available_parallelism()?.get();
    let hash_for = move || -> Result<f64, argon2::Error> {
        let params = Params::new(19_456, 2, 1, Some(32))?;
        let mut memory = vec![Block::new(); params.block_count()];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let (began, mut hashes) = (stopwatch(), 0_u32);
        while began.elapsed() < lasting {
            argon2.hash_password_into_with_memory(
                PASSWORD.as_bytes(),
                b"sixteen bytes ok",
                &mut [0; 32],
                &mut memory,
            )?;
            hashes += 1;
        }
        Ok(f64::from(hashes) / began.elapsed().as_secs_f64())
    };
    let threads: Vec<_> = (0..cores).map(|_| std::thread::spawn(hash_for)).collect();
    let mut total = 0.0;
    for thread in threads {
        total += thread.join().map_err(|_| "a hashing thread panicked")??;
    }
    Ok(total)
}
