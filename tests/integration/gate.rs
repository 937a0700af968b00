//! Forward-auth: whether somebody may pass, and who it is, asked directly and through a real nginx
//! with the configuration of the README.

use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::Duration;

use gapura::account::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};
use crate::readme::block;
use crate::realtime::Wire;

const HOUR: Duration = Duration::from_secs(3600);

async fn log_in(app: &TestApp, name: &str) -> Value {
    let body = json!({"username": name, "password": TestApp::PASSWORD});
    let request = app.http.post(format!("{}/api/v1/auth/token", app.url));
    Answer::of(request.json(&body)).await.expect(200).json()["data"].take()
}

fn verify(app: &TestApp) -> RequestBuilder {
    app.http.get(format!("{}/api/v1/verify", app.url))
}

/// As a proxy passes on what a browser sent: whatever page it came from.
fn passed_on<'a>(browser: &Browser<'a>) -> RequestBuilder {
    browser
        .bare(Method::GET, "/api/v1/verify")
        .header("sec-fetch-site", "cross-site")
}

fn who(answer: &Answer) -> [&str; 4] {
    [
        "x-auth-user-id",
        "x-auth-username",
        "x-auth-email",
        "x-auth-role",
    ]
    .map(|name| answer.header(name))
}

#[actix_web::test]
async fn every_credential_passes_and_nobody_else() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = log_in(&app, "ada").await;
        let id = ada["user"]["id"].as_str().unwrap();
        let access = ada["access_token"].as_str().unwrap();
        let answer = Answer::of(verify(&app).bearer_auth(access))
            .await
            .expect(200);
        // An address that nobody has verified is not passed on.
        assert_eq!(who(&answer), [id, "ada", "", "user"]);
        assert_eq!(answer.header("x-auth-method"), "jwt");

        let browser = Browser::new(&app, "ada").log_in().await;
        let answer = Answer::of(passed_on(&browser)).await.expect(200);
        assert_eq!(who(&answer), [id, "ada", "", "user"]);
        assert_eq!(answer.header("x-auth-method"), "session");

        let body =
            json!({"name": "gate", "scopes": ["verify"], "current_password": TestApp::PASSWORD});
        let request = app
            .http
            .post(format!("{}/api/v1/tokens", app.url))
            .bearer_auth(access);
        let made = Answer::of(request.json(&body)).await.expect(201).json()["data"].take();
        let personal = made["token"].as_str().unwrap();
        let answer = Answer::of(verify(&app).bearer_auth(personal))
            .await
            .expect(200);
        assert_eq!(who(&answer), [id, "ada", "", "user"]);

        let nobody = Answer::of(verify(&app)).await.expect(401);
        assert_eq!(nobody.json()["code"], "token_missing");
        assert_eq!(who(&nobody), [""; 4]);
        // Never 419, and never a redirect.
        browser.log_out().await.expect(303);
        let thief = Browser::new(&app, "ada").log_in().await;
        app.advance(20 * HOUR);
        assert_eq!(
            Answer::of(passed_on(&thief)).await.expect(401).json()["code"],
            "session_missing"
        );
    }
}

#[actix_web::test]
async fn only_a_page_that_a_person_opened_is_activity() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let navigation = |user: bool| {
            let request = passed_on(&ada).header("sec-fetch-mode", "navigate");
            match user {
                true => request.header("sec-fetch-user", "?1"),
                false => request,
            }
        };
        app.advance(10 * HOUR);
        Answer::of(navigation(true)).await.expect(200);
        for quiet in [
            navigation(false),
            passed_on(&ada),
            passed_on(&ada).header("sec-fetch-mode", "cors"),
        ] {
            app.advance(5 * HOUR / 2);
            Answer::of(quiet).await.expect(200);
        }
        // 7.5 hours after the click, and 17.5 after the login.
        app.advance(HOUR);
        ada.ping(20 * 3600).await.expect(200);
        let session = Browser::new(&app, "ada").log_in().await;
        app.advance(20 * HOUR - Duration::from_secs(60));
        Answer::of(passed_on(&session)).await.expect(200);
        app.advance(Duration::from_secs(60));
        Answer::of(passed_on(&session)).await.expect(401);
    }
}

/// The block of the README that begins with that comment, with other addresses put in.
pub fn from_readme(first_line: &str, addresses: &[(&str, &str)]) -> String {
    addresses
        .iter()
        .fold(block(first_line).to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        })
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

pub struct Nginx {
    process: Child,
    pub url: String,
    dir: TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Nginx {
    /// In front of an application that says whom it believes to be talking to.
    async fn start(app: &TestApp) -> Self {
        let (front, behind) = (free_port(), free_port());
        let (application, gapura) = (
            format!("127.0.0.1:{behind}"),
            app.url.replace("http://", ""),
        );
        let addresses = [
            ("127.0.0.1:3000", application.as_str()),
            ("127.0.0.1:8080", &gapura),
        ];
        let locations = from_readme("# nginx, inside `server`", &addresses);
        let servers = format!(
            "server {{ listen 127.0.0.1:{front}; {locations} }}
             server {{ listen {application}; location / {{ return 200 \"$http_x_auth_username $http_x_auth_role\"; }} }}"
        );
        Self::serve(front, &servers).await
    }

    /// What serves those `servers`, one of them on port `front`.
    pub async fn serve(front: u16, servers: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {path}/{name};"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log; events {{}}
             http {{ access_log off; {temporary} {servers} }}"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).expect("written");
        let nginx = std::env::var("GAPURA_TEST_NGINX").expect("run tests/run");
        let mut process = Command::new(nginx)
            .args(["-p", &dir.path().display().to_string(), "-c", "nginx.conf"])
            .spawn()
            .expect("nginx starts");
        let url = format!("http://127.0.0.1:{front}");
        let began = tokio::time::Instant::now();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let http = http.build().expect("a client");
        while http.get(&url).send().await.is_err() {
            let ended = process.try_wait().expect("a process");
            let log = std::fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
            assert!(
                ended.is_none() && began.elapsed() < 20 * Duration::from_secs(1),
                "{log}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { process, url, dir }
    }

    /// What it complained of.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }
}

#[actix_web::test]
async fn nginx_lets_in_whom_the_gate_lets_in() {
    let app = TestApp::start(Backend::Embedded).await;
    app.add_user("grace", Role::Admin).await;
    let nginx = Nginx::start(&app).await;
    let page = || app.http.get(format!("{}/reports?year=1952", nginx.url));

    let answer = Answer::of(page()).await.expect(302);
    let to_login = "/login?next=";
    assert!(
        answer.location().contains(to_login),
        "{}",
        answer.location()
    );
    let spoofed = page()
        .header("x-auth-username", "root")
        .header("x-auth-role", "admin");
    Answer::of(spoofed).await.expect(302);

    let ada = log_in(&app, "ada").await;
    let access = ada["access_token"].as_str().unwrap();
    let spoofed = page()
        .bearer_auth(access)
        .header("x-auth-username", "root")
        .header("x-auth-role", "admin");
    assert_eq!(Answer::of(spoofed).await.expect(200).body, "ada user");
    Wire::with_token(&nginx.url, access).await;

    let grace = Browser::new(&app, "grace").log_in().await;
    let with_cookie = || page().header("cookie", grace.cookie_header());
    assert_eq!(
        Answer::of(with_cookie()).await.expect(200).body,
        "grace admin"
    );
    let post = app
        .http
        .post(format!("{}/reports", nginx.url))
        .header("cookie", grace.cookie_header());
    assert_eq!(
        Answer::of(post.body("a=1")).await.expect(200).body,
        "grace admin"
    );
    let headers = with_cookie();
    grace.log_out().await.expect(303);
    Answer::of(headers).await.expect(302);
}

async fn introspect(app: &TestApp, by: &str, token: &str) -> Answer {
    let request = app.http.post(format!("{}/api/v1/auth/introspect", app.url));
    Answer::of(request.bearer_auth(by).form(&[("token", token)])).await
}

async fn revoke(app: &TestApp, token: &str) {
    let request = app.http.post(format!("{}/api/v1/auth/revoke", app.url));
    Answer::of(request.form(&[("token", token), ("token_type_hint", "whatever")]))
        .await
        .expect(200);
}

#[actix_web::test]
async fn a_token_may_be_asked_about_and_given_up() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (ada, root) = (log_in(&app, "ada").await, log_in(&app, "root").await);
        let text = |of: &Value, name: &str| of[name].as_str().unwrap().to_owned();
        let (access, refresh) = (text(&ada, "access_token"), text(&ada, "refresh_token"));
        let admin = text(&root, "access_token");
        let second = log_in(&app, "ada").await;

        let told = introspect(&app, &admin, &access).await.expect(200).json();
        assert_eq!(
            (&told["active"], &told["username"]),
            (&json!(true), &json!("ada"))
        );
        assert_eq!(told["token_type"], "Bearer");
        let told = introspect(&app, &admin, &refresh).await.expect(200).json();
        assert_eq!(
            (&told["active"], &told["sub"]),
            (&json!(true), &ada["user"]["id"])
        );
        for nothing in ["nonsense", "a.b.c", &"A".repeat(64), "1|gpr_x"] {
            let answer = introspect(&app, &admin, nothing).await.expect(200);
            assert_eq!(
                answer.json(),
                json!({"active": false}),
                "nothing more is told"
            );
        }
        assert_eq!(
            introspect(&app, &access, &access).await.expect(403).json()["code"],
            "forbidden"
        );
        let make = async |scope: &str| {
            let body =
                json!({"name": "gate", "scopes": [scope], "current_password": TestApp::PASSWORD});
            let request = app.http.post(format!("{}/api/v1/tokens", app.url));
            let made = Answer::of(request.bearer_auth(&access).json(&body)).await;
            text(&made.expect(201).json()["data"], "token")
        };
        let everything = make("*").await;
        introspect(&app, &everything, &access).await.expect(403);
        let personal = make("introspect").await;
        let told = introspect(&app, &personal, &personal)
            .await
            .expect(200)
            .json();
        assert_eq!(
            (&told["active"], &told["scope"]),
            (&json!(true), &json!("introspect"))
        );
        let told = introspect(&app, &personal, &text(&second, "access_token"))
            .await
            .expect(200)
            .json();
        assert_eq!(told["active"], json!(true));

        // A single access token, and nothing else of its login.
        revoke(&app, &access).await;
        revoke(&app, &access).await;
        let answer = Answer::of(verify(&app).bearer_auth(&access))
            .await
            .expect(401);
        assert_eq!(answer.json()["code"], "token_revoked");
        let answer = introspect(&app, &admin, &access).await.expect(200);
        assert_eq!(answer.json(), json!({"active": false}));
        let body = json!({ "refresh_token": refresh });
        let request = app.http.post(format!("{}/api/v1/auth/refresh", app.url));
        let next = Answer::of(request.json(&body)).await.expect(200).json()["data"].take();
        // A refresh token takes its login along.
        revoke(&app, &text(&next, "refresh_token")).await;
        Answer::of(verify(&app).bearer_auth(text(&next, "access_token")))
            .await
            .expect(401);
        revoke(&app, &personal).await;
        Answer::of(verify(&app).bearer_auth(&personal))
            .await
            .expect(401);
        revoke(&app, "nonsense").await;
        // Nobody else's.
        Answer::of(verify(&app).bearer_auth(text(&second, "access_token")))
            .await
            .expect(200);
        let empty = app
            .http
            .post(format!("{}/api/v1/auth/revoke", app.url))
            .form(&[("token", "")]);
        assert!(Answer::of(empty).await.expect(422).json()["errors"]["token"].is_array());
    }
}
