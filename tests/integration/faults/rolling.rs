//! Two nodes behind a proxy, started anew one after the other under load: nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::json;
use tempfile::TempDir;

use super::lasting_port;
use crate::gate::{Nginx, from_readme};
use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{PASSWORD, Place, Server, form_token, pair, until};

async fn good(what: &str, answer: Result<Response, reqwest::Error>) -> Response {
    let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(answer.status(), 200, "{what}");
    answer
}

/// Somebody who comes by way of the proxy.
#[derive(Clone)]
struct Visitor {
    http: Client,
    url: String,
    away: Arc<AtomicBool>,
}

impl Visitor {
    fn is_there(&self) -> bool {
        !self.away.load(Ordering::SeqCst)
    }

    async fn log_in(&self) -> (String, String) {
        let body = json!({"username": "admin", "password": PASSWORD});
        let request = self.http.post(format!("{}/api/v1/auth/token", self.url));
        pair(good("a login", request.json(&body).send().await).await).await
    }

    async fn refresh(&self, token: &str) -> (String, String) {
        let body = json!({ "refresh_token": token });
        let request = self.http.post(format!("{}/api/v1/auth/refresh", self.url));
        pair(good("a refresh", request.json(&body).send().await).await).await
    }

    /// Refreshes again and again, and asks something each time.
    async fn refreshes(self) -> usize {
        let (mut held, mut served) = (self.log_in().await, 0);
        while self.is_there() {
            held = self.refresh(&held.1).await;
            let me = self.http.get(format!("{}/api/v1/me", self.url));
            good("a question", me.bearer_auth(&held.0).send().await).await;
            served += 1;
        }
        served
    }

    /// Logs in and out again and again.
    async fn comes_and_goes(self) -> usize {
        let mut served = 0;
        while self.is_there() {
            let (access, _) = self.log_in().await;
            let out = self.http.post(format!("{}/api/v1/auth/logout", self.url));
            good("a logout", out.bearer_auth(&access).send().await).await;
            served += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        served
    }

    /// Opens pages.
    async fn reads(self) -> usize {
        let page = self.http.get(format!("{}/login", self.url)).send().await;
        let page = good("the login page", page).await.text().await.unwrap();
        let fields = [
            ("login", "admin"),
            ("password", PASSWORD),
            ("csrf_token", form_token(&page)),
        ];
        let form = self.http.post(format!("{}/login", self.url)).form(&fields);
        assert_eq!(form.send().await.unwrap().status(), 303);
        let mut served = 0;
        while self.is_there() {
            let page = self.http.get(format!("{}/dashboard", self.url));
            let page = good("a page", page.send().await).await;
            page.bytes().await.expect("the whole page");
            served += 1;
        }
        served
    }
}

async fn is_ready(server: &Server) -> bool {
    server.get("/readyz").await.status() == 200
}

#[actix_web::test]
async fn two_nodes_started_anew_one_after_the_other_fail_no_request_and_lose_no_login() {
    let (front, behind) = (lasting_port(), [lasting_port(), lasting_port()]);
    let place = place_on(Backend::Shared)
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_PUBLIC_URL", "http://localhost")
        .with("GAPURA_TRUSTED_PROXIES", "127.0.0.1/32")
        // The tokens are rotated more often than any client would.
        .with("GAPURA_RATE_LIMITS", "off");
    let addresses = behind.map(|port| format!("127.0.0.1:{port}"));
    let places = addresses.each_ref().map(|address| {
        let settings = place.settings.clone();
        let dir = TempDir::new().unwrap();
        Place { dir, settings }.with("GAPURA_BIND", address)
    });
    let mut nodes = places.each_ref().map(Place::serve);
    let listen = format!("listen 127.0.0.1:{front}");
    let replaced = [
        ("10.0.0.11:8080", addresses[0].as_str()),
        ("10.0.0.12:8080", &addresses[1]),
        ("listen 443 ssl", &listen),
        ("ssl_certificate     /etc/ssl/login.example.org.pem;", ""),
        ("ssl_certificate_key /etc/ssl/login.example.org.key;", ""),
    ];
    let servers = from_readme("# nginx, in front of the nodes", &replaced);
    let nginx = Nginx::serve(front, &servers).await;

    let away = Arc::new(AtomicBool::new(false));
    let visitor = || Visitor {
        http: Client::builder()
            .cookie_store(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap(),
        url: nginx.url.clone(),
        away: Arc::clone(&away),
    };
    let load = [
        actix_web::rt::spawn(visitor().refreshes()),
        actix_web::rt::spawn(visitor().refreshes()),
        actix_web::rt::spawn(visitor().refreshes()),
        actix_web::rt::spawn(visitor().reads()),
        actix_web::rt::spawn(visitor().reads()),
        actix_web::rt::spawn(visitor().comes_and_goes()),
    ];
    for _ in 0..2 {
        for (node, place) in nodes.iter_mut().zip(&places) {
            node.signal("TERM");
            let (took, well) = node.ended().await;
            assert!(well && took < Duration::from_secs(30), "{took:?}");
            *node = place.serve();
            until(Duration::from_secs(10), || is_ready(node)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(is_ready(node).await);
            let fine = load.iter().all(|visitor| !visitor.is_finished());
            assert!(fine, "{}", nginx.log());
        }
    }
    away.store(true, Ordering::SeqCst);
    for visitor in load {
        let served = visitor.await;
        assert!(served.expect("no failed request") > 10, "{}", nginx.log());
    }
}
