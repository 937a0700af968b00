//! Who the tests tell of: people with a browser. A browser keeps cookies as browsers do, by the
//! test's clock, and says of each request what browsers say (Fetch Metadata).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use gapura::clock::Timestamp;
use reqwest::header::{HeaderMap, SET_COOKIE};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::contract;
use crate::harness::{Nodes, TestApp};

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let answer = client.execute(request).await.expect("an answer");
        let answer = Self {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.text().await.expect("a text"),
        };
        contract::hold(&method, &path, answer.status, &answer.headers, &answer.body);
        answer
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("a text"))
    }

    /// Where it sends the browser; empty if nowhere.
    pub fn location(&self) -> &str {
        self.header("location")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The `Set-Cookie` lines of that cookie.
    pub fn set_cookies(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.get_all(SET_COOKIE).iter();
        lines
            .map(|line| line.to_str().expect("a text"))
            .filter(|line| line.split('=').next() == Some(name))
            .collect()
    }

    /// The one `Set-Cookie` line of that cookie.
    #[track_caller]
    pub fn set_cookie(&self, name: &str) -> &str {
        let lines = self.set_cookies(name);
        assert_eq!(lines.len(), 1, "{name} is set once: {lines:?}");
        lines[0]
    }

    /// Whether it tells the browser to forget that cookie.
    pub fn clears(&self, name: &str) -> bool {
        let lines = self.set_cookies(name);
        lines
            .last()
            .is_some_and(|line| line.contains("Max-Age=0") && line.contains("Path=/"))
    }

    /// The form token of a page.
    pub fn form_token(&self) -> Option<String> {
        let (_, rest) = self.body.split_once("name=\"csrf-token\" content=\"")?;
        rest.split('"').next().map(str::to_owned)
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {}", self.location(), self.body);
        self
    }

    #[track_caller]
    pub fn expect_redirect(self, to: &str) -> Self {
        assert_eq!(
            (self.status, self.location()),
            (303, to),
            "{} {}",
            self.header("set-cookie"),
            self.body
        );
        self
    }

    /// A 419 of a JSON route, which clears the dead cookie.
    #[track_caller]
    pub fn expect_over(self, reason: &str) -> Self {
        let answer = self.expect(419);
        let problem = answer.json();
        assert_eq!(
            (&problem["code"], &problem["reason"]),
            (&json!("session_expired"), &json!(reason))
        );
        assert!(answer.clears("gapura_session"), "the dead cookie goes");
        answer
    }
}

#[derive(Clone)]
struct Kept {
    value: String,
    /// `None`: goes when the browser closes.
    until: Option<Timestamp>,
}

/// A person's browser.
pub struct Browser<'a> {
    pub app: &'a TestApp,
    /// Behind a balancer each request may reach another node.
    balancer: Option<&'a Nodes>,
    who: &'a str,
    jar: Mutex<BTreeMap<String, Kept>>,
    form_token: Mutex<String>,
}

impl<'a> Browser<'a> {
    pub fn new(app: &'a TestApp, who: &'a str) -> Self {
        Self {
            app,
            balancer: None,
            who,
            jar: Mutex::default(),
            form_token: Mutex::default(),
        }
    }

    pub fn across(nodes: &'a Nodes, who: &'a str) -> Self {
        Self {
            balancer: Some(nodes),
            ..Self::new(nodes.first(), who)
        }
    }

    /// A thief's browser, with a copy of every cookie.
    pub fn copied(&self) -> Self {
        Self {
            app: self.app,
            balancer: self.balancer,
            who: self.who,
            jar: Mutex::new(self.jar.lock().unwrap().clone()),
            form_token: Mutex::new(self.form_token.lock().unwrap().clone()),
        }
    }

    /// As `copied`, and all its requests reach that node.
    pub fn copied_to(&self, node: &'a TestApp) -> Self {
        Self {
            app: node,
            balancer: None,
            ..self.copied()
        }
    }

    pub async fn log_in(self) -> Self {
        self.sign_in(&[]).await.expect(303);
        self.open("/dashboard").await.expect(200);
        self
    }

    /// With "Remember me" ticked.
    pub async fn log_in_remembered(self) -> Self {
        self.sign_in(&[("remember", "1")]).await.expect(303);
        self.open("/dashboard").await.expect(200);
        self
    }

    /// Opens the login page and sends its form, with `more` on top of name and password.
    pub async fn sign_in(&self, more: &[(&str, &str)]) -> Answer {
        self.open("/login").await;
        self.send_login(more).await
    }

    /// Sends the form of a login page opened before.
    pub async fn send_login(&self, more: &[(&str, &str)]) -> Answer {
        let mut fields = vec![("login", self.who), ("password", TestApp::PASSWORD)];
        for (name, value) in more {
            fields.retain(|(known, _)| known != name);
            fields.push((name, value));
        }
        self.post("/login", &fields).await
    }

    /// As a person who follows a link or types an address.
    pub async fn open(&self, path: &str) -> Answer {
        let request = self.navigation(Method::GET, path);
        self.send(request.header("sec-fetch-site", "none")).await
    }

    /// Sends a form with the token of the last page, unless `fields` has one.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let request = self
            .navigation(Method::POST, path)
            .header("sec-fetch-site", "same-origin")
            .header("origin", self.origin());
        self.send(self.form(request, fields)).await
    }

    pub fn form(&self, request: RequestBuilder, fields: &[(&str, &str)]) -> RequestBuilder {
        let token = self.form_token();
        let mut fields = fields.to_vec();
        if !fields.iter().any(|(name, _)| *name == "csrf_token") {
            fields.push(("csrf_token", &token));
        }
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
    }

    pub async fn log_out(&self) -> Answer {
        self.post("/logout", &[]).await
    }

    /// The dashboard's ping: the person did something `idle_seconds` ago.
    pub async fn ping(&self, idle_seconds: u64) -> Answer {
        let body = json!({"idle_seconds": idle_seconds});
        self.send(
            self.script(Method::POST, "/api/update-activity")
                .json(&body),
        )
        .await
    }

    /// What a page asks for by itself.
    pub async fn poll(&self) -> Answer {
        self.send(self.script(Method::GET, "/api/v1/me")).await
    }

    /// A tab left open: polls on, an hour at a time, for as long.
    pub async fn poll_for(&self, time: Duration) {
        let hour = Duration::from_secs(3600);
        let end = self.app.now() + time;
        while self.app.now() < end {
            self.poll().await.expect(200);
            self.app.advance(hour.min(self.app.now().until(end)));
        }
    }

    /// A request of a script of ours, with the form token, not yet sent.
    pub fn script(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path)
            .header("sec-fetch-site", "same-origin")
            .header("sec-fetch-mode", "cors")
            .header("sec-fetch-dest", "empty")
            .header("origin", self.origin())
            .header("x-csrf-token", self.form_token())
    }

    /// With the cookies, and nothing that a browser would say besides.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        let node = self.balancer.map_or(self.app, Nodes::next);
        let request = node.http.request(method, format!("{}{path}", node.url));
        let request = request.header(
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        );
        let cookies = self.cookie_header();
        match cookies.is_empty() {
            true => request,
            false => request.header("cookie", cookies),
        }
    }

    fn navigation(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path)
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-user", "?1")
            .header("sec-fetch-dest", "document")
    }

    /// Sends a request and keeps what comes back.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = Answer::of(request).await;
        self.take(&answer);
        answer
    }

    /// So many tabs open a page at once, each with the cookies of this moment.
    pub async fn open_at_once(&self, path: &str, tabs: usize) -> Vec<Answer> {
        let requests = (0..tabs).map(|_| {
            let request = self.navigation(Method::GET, path);
            Answer::of(request.header("sec-fetch-site", "none"))
        });
        let answers = join_all(requests.collect::<Vec<_>>()).await;
        answers.iter().for_each(|answer| self.take(answer));
        answers
    }

    /// Keeps the cookies and the form token of an answer.
    pub fn take(&self, answer: &Answer) {
        let mut jar = self.jar.lock().unwrap();
        for line in answer.headers.get_all(SET_COOKIE) {
            let line = line.to_str().expect("a text");
            let (pair, attributes) = line.split_once("; ").unwrap_or((line, ""));
            let (name, value) = pair.split_once('=').expect("a cookie has a name");
            let max_age = attributes
                .split("; ")
                .find_map(|attribute| attribute.strip_prefix("Max-Age="))
                .map(|seconds| seconds.parse().expect("a number of seconds"));
            if max_age == Some(0) {
                jar.remove(name);
                continue;
            }
            let kept = Kept {
                value: value.to_owned(),
                until: max_age.map(|seconds| self.app.now() + Duration::from_secs(seconds)),
            };
            jar.insert(name.to_owned(), kept);
        }
        if let Some(token) = answer.form_token() {
            *self.form_token.lock().unwrap() = token;
        }
    }

    /// Closed and opened again: what has no `Max-Age` is gone.
    pub fn restart(&self) {
        self.jar
            .lock()
            .unwrap()
            .retain(|_, kept| kept.until.is_some());
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        let jar = self.jar.lock().unwrap();
        let now = self.app.now();
        jar.get(name)
            .filter(|kept| kept.until.is_none_or(|until| until > now))
            .map(|kept| kept.value.clone())
    }

    /// Puts a cookie in as somebody else would.
    pub fn plant(&self, name: &str, value: &str) {
        let kept = Kept {
            value: value.to_owned(),
            until: None,
        };
        self.jar.lock().unwrap().insert(name.to_owned(), kept);
    }

    pub fn drop_cookie(&self, name: &str) {
        self.jar.lock().unwrap().remove(name);
    }

    pub fn cookie_header(&self) -> String {
        let names: Vec<String> = self.jar.lock().unwrap().keys().cloned().collect();
        let pairs = names
            .iter()
            .filter_map(|name| Some(format!("{name}={}", self.cookie(name)?)));
        pairs.collect::<Vec<_>>().join("; ")
    }

    pub fn form_token(&self) -> String {
        self.form_token.lock().unwrap().clone()
    }

    pub fn origin(&self) -> String {
        let url = self.app.app.config.public_url.as_ref();
        url.map_or_else(
            || self.app.url.clone(),
            |url| url.origin().ascii_serialization(),
        )
    }
}
