//! The real binary as an operator runs it: a process of its own, settings from a clean environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

/// An app key as good as any.
pub const APP_KEY: &str = "w7sUXEJ1pTnKAyx9b2f4mSgH0vRq5oZlYdCeiN8aPuM=";
pub const OTHER_APP_KEY: &str = "k2Vb8QyTnW5uJrL0hZsX7cGfA1dPoM4eIx9RtB6aSjE=";
pub const PASSWORD: &str = "correct horse battery staple";
/// Until when a process must have done what it is expected to do, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory to run in, and settings.
pub struct Place {
    pub dir: TempDir,
    pub settings: Vec<(String, String)>,
}

impl Place {
    /// Nothing configured but a free port.
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a temporary directory"),
            settings: Vec::new(),
        }
        .with("GAPURA_BIND", "127.0.0.1:0")
        .with("GAPURA_WORKERS", "2")
        .with("GAPURA_METRICS_BIND", "off")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_by(env!("CARGO_BIN_EXE_gapura"), arguments)
    }

    /// As `command`, of another program.
    pub fn command_by(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // So that tests/run finds what a failed test leaves behind.
        if let Some(run) = std::env::var_os("GAPURA_TEST_RUN") {
            command.env("GAPURA_TEST_RUN", run);
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Told {
        self.run_with(arguments, "")
    }

    /// As `run`, with `stdin` to read.
    pub fn run_with(&self, arguments: &[&str], stdin: &str) -> Told {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
        let mut pipe = child.stdin.take().expect("a pipe");
        // A command that does not read closes it early.
        let _ = pipe.write_all(stdin.as_bytes());
        drop(pipe);
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("a child").is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("it does not end: {:?}", child.wait_with_output());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Told::of(child.wait_with_output().expect("it ends"))
    }

    /// Starts a server and waits for its address.
    pub fn serve(&self) -> Server {
        let server = self.try_serve();
        server.unwrap_or_else(|told| panic!("it does not serve: {told:?}"))
    }

    /// As `serve`, where it may refuse.
    pub fn try_serve(&self) -> Result<Server, Told> {
        let mut child = self.command(&[]).spawn().expect("it starts");
        let err = collect(child.stderr.take().expect("a pipe"));
        self.started(child, err)
    }

    /// As `serve`, and nobody is left to read its log.
    pub fn serve_unread(&self) -> Server {
        let mut child = self.command(&[]).spawn().expect("it starts");
        drop(child.stderr.take());
        self.started(child, Written(Arc::default()))
            .expect("it serves")
    }

    fn started(&self, mut child: Child, err: Written) -> Result<Server, Told> {
        let out = collect(child.stdout.take().expect("a pipe"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(url) = after(&out.text(), "Gapura is at ") {
                let http = reqwest::Client::builder().redirect(Policy::none());
                let http = http.cookie_store(true).timeout(Duration::from_secs(30));
                let http = http.build().expect("an HTTP client");
                return Ok(Server {
                    url,
                    child,
                    out,
                    err,
                    http,
                });
            }
            if let Some(status) = child.try_wait().expect("a child") {
                std::thread::sleep(Duration::from_millis(50));
                let (out, err) = (out.text(), err.text());
                return Err(Told {
                    good: status.success(),
                    out,
                    err,
                });
            }
            assert!(
                Instant::now() < deadline,
                "no address: {}{}",
                out.text(),
                err.text()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Told {
    pub good: bool,
    pub out: String,
    pub err: String,
}

impl Told {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self {
            good: output.status.success(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Asserts success and gives what was printed.
    pub fn done(self) -> String {
        assert!(self.good, "{self:?}");
        self.out
    }

    /// Asserts a failure told in one sentence, and gives it.
    pub fn refused(self) -> String {
        assert!(!self.good, "{self:?}");
        assert_eq!(self.err.trim_end().lines().count(), 1, "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        self.err
    }
}

/// What a process has written so far.
#[derive(Clone)]
pub struct Written(Arc<Mutex<String>>);

impl Written {
    pub fn text(&self) -> String {
        self.0.lock().expect("no panic while reading").clone()
    }
}

fn collect(pipe: impl Read + Send + 'static) -> Written {
    let written = Written(Arc::default());
    let into = written.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut text = into.0.lock().expect("no panic while reading");
            text.push_str(&line);
            text.push('\n');
        }
    });
    written
}

/// The rest of the line after `words`.
pub fn after(text: &str, words: &str) -> Option<String> {
    let (_, rest) = text.split_once(words)?;
    rest.split_once('\n').map(|(line, _)| line.to_owned())
}

/// A running server; killed when dropped.
pub struct Server {
    pub url: String,
    pub child: Child,
    pub out: Written,
    pub err: Written,
    /// With a cookie jar of its own.
    pub http: reqwest::Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(format!("{}{path}", self.url));
        request.send().await.expect("an answer")
    }

    pub async fn get_as(&self, path: &str, token: &str) -> reqwest::Response {
        let request = self
            .http
            .get(format!("{}{path}", self.url))
            .bearer_auth(token);
        request.send().await.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        let request = self.http.post(format!("{}{path}", self.url)).json(body);
        request.send().await.expect("an answer")
    }

    /// Signs in by API.
    pub async fn token(&self, name: &str, password: &str) -> reqwest::Response {
        let body = json!({"username": name, "password": password});
        self.post("/api/v1/auth/token", &body).await
    }

    /// Signs in by API; access and refresh token.
    pub async fn pair(&self, name: &str, password: &str) -> (String, String) {
        let answer = self.token(name, password).await;
        assert_eq!(answer.status(), 200);
        pair(answer).await
    }

    pub async fn refresh(&self, token: &str) -> reqwest::Response {
        self.post("/api/v1/auth/refresh", &json!({"refresh_token": token}))
            .await
    }

    /// Signs in with the form of the login page.
    pub async fn sign_in(&self, name: &str, password: &str) -> reqwest::Response {
        let page = self.get("/login").await.text().await.expect("a page");
        let fields = [
            ("login", name),
            ("password", password),
            ("csrf_token", form_token(&page)),
        ];
        let request = self.http.post(format!("{}/login", self.url)).form(&fields);
        request.send().await.expect("an answer")
    }

    /// Waits until its log says so, which may be read later than an answer.
    pub async fn logs(&self, words: &str) {
        let said = async {
            while !self.err.text().contains(words) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(5), said).await;
        assert!(in_time.is_ok(), "{words}: {}", self.err.text());
    }

    /// Waits until the process has ended and tells how long that took.
    pub async fn ended(&mut self) -> (Duration, bool) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return (began.elapsed(), status.success());
            }
            assert!(began.elapsed() < Duration::from_secs(40), "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The form token of a page.
pub fn form_token(page: &str) -> &str {
    let (_, rest) = page
        .split_once("name=\"csrf_token\" value=\"")
        .expect("a form");
    rest.split('"').next().expect("a value")
}

pub async fn pair(answer: reqwest::Response) -> (String, String) {
    let body: Value = answer.json().await.expect("JSON");
    let text = |name: &str| body["data"][name].as_str().expect("a token").to_owned();
    (text("access_token"), text("refresh_token"))
}

/// Adds a person by the command line.
pub fn add_user(place: &Place, name: &str) {
    let email = format!("{name}@example.org");
    place
        .run_with(&["user", "add", name, "--email", &email], PASSWORD)
        .done();
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    let sent = sent.expect("a command called kill");
    assert!(sent.success(), "SIG{name} to {pid}");
}

/// Asks until it is so, at most for `limit`; how long it took.
pub async fn until<F: Future<Output = bool>>(
    limit: Duration,
    mut so: impl FnMut() -> F,
) -> Duration {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < limit, "not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    began.elapsed()
}

pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    let data = std::fs::metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    data.permissions().mode() & 0o777
}
