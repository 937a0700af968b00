//! Outages: what goes on, what says 503 and how soon, and that everything comes back by itself.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::harness::{Backend, Installation};
use crate::killed::{browser, form_token, is_in, log_out, sign_in};
use crate::program::{PASSWORD, Place, Server, pair, signal, until};
use crate::realtime::{Wire, closed};
use crate::token_api::claims_of;

/// A Redis of our own, which may be stopped.
pub struct Redis {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let dir = TempDir::new().expect("a temporary directory");
        let child = Self::spawn(port, dir.path());
        let redis = Self { child, port, dir };
        redis.ready().await;
        redis
    }

    fn spawn(port: u16, dir: &Path) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command
            .args(["--appendonly", "yes", "--save", "", "--dir"])
            .arg(dir);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().expect("redis-server starts")
    }

    async fn ready(&self) {
        let port = self.port;
        until(Duration::from_secs(10), || async move {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
    }

    pub fn stop(&mut self) {
        signal(self.child.id(), "TERM");
        self.child.wait().expect("it ends");
    }

    async fn return_(&mut self) {
        self.child = Self::spawn(self.port, self.dir.path());
        self.ready().await;
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks nobody: a JWT is all it needs.
pub const TOKEN_STATUS: &str = "/api/v1/auth/token-status";

pub const OPEN: u8 = 0;
pub const HANGING: u8 = 1;
pub const CUT: u8 = 2;

/// Stands before a server, and can hang (nothing moves, nothing closes) or cut every connection.
pub struct Proxy {
    pub port: u16,
    state: watch::Sender<u8>,
}

impl Proxy {
    pub async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (state, seen) = watch::channel(OPEN);
        actix_web::rt::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                actix_web::rt::spawn(forward(client, target.clone(), seen.clone()));
            }
        });
        Self { port, state }
    }

    pub fn set(&self, state: u8) {
        self.state.send_replace(state);
    }
}

async fn forward(mut client: TcpStream, target: String, mut state: watch::Receiver<u8>) {
    let _ = state.wait_for(|state| *state != HANGING).await;
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    loop {
        let now = *state.borrow_and_update();
        match now {
            CUT => return,
            // What has been read when it is dropped would be lost, so it goes on until the next change.
            OPEN => tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                changed = state.changed() => if changed.is_err() { return },
            },
            _ if state.changed().await.is_err() => return,
            _ => {}
        }
    }
}

pub async fn timed(work: impl Future<Output = Response>) -> (Response, Duration) {
    let began = Instant::now();
    let answer = work.await;
    (answer, began.elapsed())
}

/// 503 with `Retry-After`, within the limit.
async fn unavailable(what: &str, limit: Duration, work: impl Future<Output = Response>) {
    let (answer, took) = timed(work).await;
    assert_eq!(answer.status(), 503, "{what}");
    assert!(answer.headers().contains_key("retry-after"), "{what}");
    // A slow machine is given a little more.
    assert!(
        took < limit + Duration::from_millis(400),
        "{what}: {took:?}"
    );
}

pub fn shared() -> Place {
    let mut place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    for (name, value) in Installation::new(Backend::Shared).settings {
        if !["GAPURA_DATA_DIR", "GAPURA_BIND", "GAPURA_PUBLIC_URL"].contains(&name.as_str()) {
            place = place.with(&name, &value);
        }
    }
    place
}

/// Starts a server while this thread carries what its database or its Redis says.
async fn serve_beside(place: &Arc<Place>) -> Server {
    let place = Arc::clone(place);
    let served = actix_web::web::block(move || place.serve()).await;
    served.expect("a thread")
}

async fn parts(server: &Server) -> Value {
    server.get("/readyz").await.json().await.expect("JSON")
}

#[actix_web::test]
async fn without_redis_tokens_go_on_sessions_wait_and_limits_hold() {
    let mut redis = Redis::start().await;
    let network = Proxy::before(format!("127.0.0.1:{}", redis.port)).await;
    let through = format!("redis://127.0.0.1:{}/", network.port);
    let place = Arc::new(shared().with("REDIS_URL", &through));
    let server = serve_beside(&place).await;
    let (access, _) = server.pair("admin", PASSWORD).await;
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    assert_eq!(server.get("/dashboard").await.status(), 200);
    let second = Duration::from_secs(1);
    for fault in ["stopped", "cut off", "out of reach", "gone"] {
        match fault {
            "stopped" => signal(redis.child.id(), "STOP"),
            "cut off" => network.set(CUT),
            "out of reach" => network.set(HANGING),
            _ => redis.stop(),
        }
        unavailable(fault, second, server.get("/dashboard")).await;
        unavailable(fault, second, server.get("/dashboard")).await;
        let (answer, took) = timed(server.get("/login")).await;
        assert!(answer.status() == 200 && took < second, "{fault}: {took:?}");
        assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 200);
        let told = parts(&server).await;
        assert_eq!(
            (&told["store"], &told["database"]),
            (&"unavailable".into(), &"ok".into())
        );
        if fault == "gone" {
            for _ in 0..5 {
                assert_eq!(server.token("admin", "wrong").await.status(), 401);
            }
            let answer = server.token("admin", PASSWORD).await;
            assert_eq!(answer.status(), 429);
            let seconds: u64 = answer.headers()["retry-after"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!((30..=60).contains(&seconds), "{seconds}");
        }
        match fault {
            "stopped" => signal(redis.child.id(), "CONT"),
            "gone" => redis.return_().await,
            _ => network.set(OPEN),
        }
        let took = until(Duration::from_secs(10), || async {
            server.get("/dashboard").await.status() == 200
        })
        .await;
        assert!(took < Duration::from_millis(2400), "{fault}: {took:?}");
    }
}

#[actix_web::test]
async fn a_flushed_redis_ends_sessions_and_revives_nothing() {
    let redis = Redis::start().await;
    let server = shared().with("REDIS_URL", &redis.url()).serve();
    let (access, refresh) = server.pair("admin", PASSWORD).await;
    let logout = server
        .http
        .post(format!("{}/api/v1/auth/logout", server.url));
    assert_eq!(
        logout.bearer_auth(&access).send().await.unwrap().status(),
        200
    );
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    let client = redis::Client::open(redis.url()).unwrap();
    redis::cmd("FLUSHALL")
        .exec(&mut client.get_connection().unwrap())
        .unwrap();
    let ping = server
        .http
        .post(format!("{}/api/update-activity", server.url));
    assert_eq!(ping.send().await.unwrap().status(), 419);
    assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 401);
    assert_eq!(server.refresh(&refresh).await.status(), 401);
}

#[actix_web::test]
async fn without_the_database_nobody_is_logged_out_and_no_end_is_missed() {
    let place = shared();
    let address = place
        .settings
        .iter()
        .find(|(name, _)| name == "DATABASE_URL")
        .unwrap()
        .1
        .clone();
    let url = url::Url::parse(&address).unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let proxy = Proxy::before(target.clone()).await;
    let through = address.replace(&target, &format!("127.0.0.1:{}", proxy.port));
    // Commands reach the database all the same.
    let (dir, settings) = (TempDir::new().unwrap(), place.settings.clone());
    let elsewhere = Place { dir, settings };
    let place = place
        .with("DATABASE_URL", &through)
        .with("GAPURA_REVOCATION_MAX_LAG", "4s");
    let place = Arc::new(place);
    let server = serve_beside(&place).await;
    let (access, mut refresh) = server.pair("admin", PASSWORD).await;
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    let limit = Duration::from_secs(2);
    for fault in [CUT, HANGING] {
        let (ending, token_of_ending) = server.pair("admin", PASSWORD).await;
        let (ended_elsewhere, _) = server.pair("admin", PASSWORD).await;
        proxy.set(fault);
        let what = format!("{fault}");
        until(Duration::from_secs(5), || async {
            parts(&server).await["database"] == "unavailable"
        })
        .await;
        let answer = server.get_as(TOKEN_STATUS, &access).await;
        assert_eq!(answer.status(), 200, "{what}");
        unavailable(&what, limit, server.refresh(&refresh)).await;
        unavailable(&what, limit, server.token("admin", PASSWORD)).await;
        // An end that cannot be written down is no end, and is not told as one.
        let logout = async { log_out(&server, &ending).send().await.expect("an answer") };
        unavailable(&what, limit, logout).await;
        let id = claims_of(&ended_elsewhere)["sid"]
            .as_str()
            .unwrap()
            .to_owned();
        elsewhere.run(&["session", "revoke", &id]).done();
        // What it knows of ended logins grows too old to be trusted.
        let took = until(Duration::from_secs(8), || async {
            server.get_as(TOKEN_STATUS, &access).await.status() == 503
        })
        .await;
        assert!(took < Duration::from_secs(6), "{what}: {took:?}");
        let mut wire = Wire::open(&server.url, &[]).await;
        wire.authenticate(&access).await;
        assert_eq!(wire.hear().await, closed(1013, "unavailable"), "{what}");
        proxy.set(OPEN);
        // Whatever it answers from here on, it knows of that end or that it does not know.
        until(Duration::from_secs(15), || async {
            let status = server.get_as(TOKEN_STATUS, &ended_elsewhere).await;
            let body = status.text().await.unwrap();
            assert!(!body.contains("\"valid\":true"), "{what}: {body}");
            body.contains("\"valid\":false")
        })
        .await;
        let took = until(Duration::from_secs(15), || async {
            server.get("/readyz").await.status() == 200
        })
        .await;
        assert!(took < Duration::from_secs(5), "{what}: {took:?}");
        assert_eq!(
            server.get_as(TOKEN_STATUS, &access).await.status(),
            200,
            "{what}"
        );
        assert_eq!(server.get("/dashboard").await.status(), 200, "{what}");
        let answer = server.refresh(&refresh).await;
        assert_eq!(answer.status(), 200, "{what}");
        refresh = pair(answer).await.1;
        let answer = server.refresh(&token_of_ending).await;
        assert_eq!(answer.status(), 200, "{what}");
    }
}

/// A file system of its own, unmounted when dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount() -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs"])
            .arg(dir.path());
        let status = mount.stderr(Stdio::null()).status();
        status
            .is_ok_and(|status| status.success())
            .then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[actix_web::test]
async fn on_a_full_disk_logins_wait_and_tokens_stay_good() {
    let Some(disk) = Tmpfs::mount() else {
        println!("skipped: a small disk can be mounted only by root");
        return;
    };
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let place = place.with("GAPURA_DATA_DIR", &disk.0.path().display().to_string());
    let server = place.serve();
    let (access, refresh) = server.pair("admin", PASSWORD).await;
    let [staying, leaving] = [browser(), browser()];
    for person in [&staying, &leaving] {
        let answer = sign_in(&server, person).await.send().await;
        assert_eq!(answer.unwrap().status(), 303);
        assert!(is_in(&server, person).await);
    }
    let csrf = form_token(&leaving, &format!("{}/dashboard", server.url)).await;
    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(7), &mut file);
    assert!(full.is_err());
    let limit = Duration::from_secs(2);
    // Room that is left in the last page of the log may still take a few.
    until(Duration::from_secs(10), || async {
        server.token("admin", PASSWORD).await.status() == 503
    })
    .await;
    for _ in 0..3 {
        unavailable("login", limit, server.token("admin", PASSWORD)).await;
        unavailable("refresh", limit, server.refresh(&refresh)).await;
        unavailable("form", limit, server.sign_in("admin", PASSWORD)).await;
        assert_eq!(server.get_as(TOKEN_STATUS, &access).await.status(), 200);
        // Sessions go on in memory.
        assert!(is_in(&server, &staying).await);
        let form = leaving.post(format!("{}/logout", server.url));
        let form = form.form(&[("csrf_token", &csrf)]).send();
        unavailable("logout", limit, async { form.await.unwrap() }).await;
        assert!(is_in(&server, &leaving).await, "not told, not done");
    }
    std::fs::remove_file(&filler).unwrap();
    drop(file);
    until(Duration::from_secs(5), || async {
        server.token("admin", PASSWORD).await.status() == 200
    })
    .await;
    assert_eq!(server.refresh(&refresh).await.status(), 200);
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    assert_eq!(server.get("/dashboard").await.status(), 200);
    assert!(is_in(&server, &staying).await);
    let form = leaving.post(format!("{}/logout", server.url));
    let form = form.form(&[("csrf_token", &csrf)]).send().await;
    assert_eq!(form.unwrap().status(), 303);
    assert!(!is_in(&server, &leaving).await);
}

#[actix_web::test]
async fn two_hundred_at_once_meet_no_locked_database() {
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let server = place.serve();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(server.pair("admin", PASSWORD).await.1);
    }
    for _ in 0..3 {
        // Connections of its own: one of the round before may be closed just as it is used again.
        let http = reqwest::Client::new();
        let work = (0..400).map(|number| {
            let (url, body) = match number / 20 % 2 {
                0 => ("token", json!({"username": "admin", "password": PASSWORD})),
                _ => ("refresh", json!({ "refresh_token": held[number % 20] })),
            };
            let request = http.post(format!("{}/api/v1/auth/{url}", server.url));
            let request = request.json(&body).send();
            actix_web::rt::spawn(async move { (number, request.await.expect("an answer")) })
        });
        for one in work.collect::<Vec<_>>() {
            let (number, answer) = one.await.expect("an answer");
            let (is_login, status) = (number / 20 % 2 == 0, answer.status());
            // More logins than may wait for a core are told to come back.
            let queued = is_login && status == 503;
            assert!(status == 200 || queued, "{number}: {status}");
            if !is_login {
                held[number % 20] = pair(answer).await.1;
            }
        }
    }
    let log = server.err.text();
    assert!(!log.contains("locked"), "{log}");
}
