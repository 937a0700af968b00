//! Redis stopped, hung, cut off and flushed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, join3};
use reqwest::Client;
use tempfile::TempDir;

use super::killed::{browser, form_token_at, remembered};
use super::proxy::{CUT, HANGING, OPEN, Proxy};
use super::{TOKEN_STATUS, lasting_port, parts, serve_beside, shared, timed, unavailable};
use crate::program::{PASSWORD, Server, form_token, signal, until};

/// A Redis of our own, which may be stopped.
pub struct Redis {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        let port = lasting_port();
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

    pub async fn return_(&mut self) {
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

/// Whatever is asked with a session or would begin one waits, and what needs a JWT goes on: all asked
/// at once, while nobody knows of the fault yet.
async fn asked_at_once(fault: &str, server: &Server, access: &str, csrf: &str, visitor: &Visitor) {
    let post = |path: &str| server.http.post(format!("{}{path}", server.url));
    let get = |path: &str| server.http.get(format!("{}{path}", server.url));
    let ping = post("/api/update-activity").header("x-csrf-token", csrf);
    let waiting = [
        ("page", get("/dashboard")),
        ("verify", get("/api/v1/verify")),
        ("ping", ping),
        ("logout", post("/logout").form(&[("csrf_token", csrf)])),
        ("login", visitor.login(server)),
    ];
    let waiting = waiting.map(async |(what, request)| {
        let what = format!("{fault}: {what}");
        let answer = async { request.send().await.expect("an answer") };
        unavailable(&what, Duration::from_secs(1), answer).await;
    });
    let going_on = ["/api/v1/me", "/api/v1/verify", TOKEN_STATUS].map(async |path| {
        let (answer, took) = timed(server.get_as(path, access)).await;
        assert_eq!(answer.status(), 200, "{fault}: {path}");
        assert!(took < Duration::from_secs(1), "{fault}: {path}: {took:?}");
    });
    // The login page is there for who has a session, who may have a form open, and who is remembered.
    let remembered = Client::new().get(format!("{}/login", server.url));
    let open = [
        get("/login"),
        visitor.browser.get(format!("{}/login", server.url)),
        remembered.header("cookie", &visitor.remember),
    ];
    let open = open.map(async |request| {
        let (answer, took) = timed(async { request.send().await.expect("an answer") }).await;
        assert_eq!(answer.status(), 200, "{fault}");
        assert!(took < Duration::from_secs(1), "{fault}: {took:?}");
    });
    join3(join_all(waiting), join_all(going_on), join_all(open)).await;
}

/// Somebody at the login page.
struct Visitor {
    browser: Client,
    csrf: String,
    /// Of another browser of theirs.
    remember: String,
}

impl Visitor {
    async fn of(server: &Server) -> Self {
        let browser = browser();
        let csrf = form_token_at(&browser, &format!("{}/login", server.url)).await;
        Self {
            browser,
            csrf,
            remember: remembered(server, &self::browser()).await,
        }
    }

    fn login(&self, server: &Server) -> reqwest::RequestBuilder {
        let fields = [
            ("login", "admin"),
            ("password", PASSWORD),
            ("csrf_token", &self.csrf),
        ];
        let request = self.browser.post(format!("{}/login", server.url));
        request.form(&fields)
    }
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
    let page = server.get("/dashboard").await;
    assert_eq!(page.status(), 200);
    let page = page.text().await.expect("a page");
    let csrf = form_token(&page);
    let visitor = Visitor::of(&server).await;
    let second = Duration::from_secs(1);
    for fault in ["stopped", "cut off", "out of reach", "gone"] {
        match fault {
            "stopped" => signal(redis.child.id(), "STOP"),
            "cut off" => network.set(CUT),
            "out of reach" => network.set(HANGING),
            _ => redis.stop(),
        }
        asked_at_once(fault, &server, &access, csrf, &visitor).await;
        unavailable(fault, second, server.get("/dashboard")).await;
        let (answer, took) = timed(server.get("/login")).await;
        assert!(answer.status() == 200 && took < second, "{fault}: {took:?}");
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
