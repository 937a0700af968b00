//! Whatever happens in whatever order: the list a person sees is what is alive, and what is dead
//! stays dead.

use std::time::Duration;

use gapura::command::cleanup;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, Nodes, TestApp};
use crate::program::until;
use crate::realtime::{Heard, Wire};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Numbers that are the same on every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// A program with its tokens.
struct Program {
    access: String,
    refresh: String,
}

impl Program {
    fn of(answer: &Answer) -> Self {
        let data = &answer.json()["data"];
        let text = |name: &str| data[name].as_str().expect(name).to_owned();
        Self {
            access: text("access_token"),
            refresh: text("refresh_token"),
        }
    }
}

/// One of ada's logins, as the test believes it to be.
enum Held<'a> {
    Browser(Browser<'a>),
    Program(Program),
}

struct Login<'a> {
    id: String,
    held: Held<'a>,
    sockets: Vec<Wire>,
}

/// A personal token.
struct Key {
    id: String,
    token: String,
}

/// Ada with all her devices and keys, and what has become of them.
struct World<'a> {
    nodes: &'a Nodes,
    password: &'static str,
    alive: Vec<Login<'a>>,
    dead: Vec<Login<'a>>,
    keys: Vec<Key>,
    dead_keys: Vec<Key>,
}

/// So many logins and keys at once.
const MANY: usize = 8;
/// And so many sockets: a person may have 20 on a node.
const SOCKETS: usize = 16;

const PASSWORDS: [&str; 2] = [TestApp::PASSWORD, "staple battery horse correct"];

impl<'a> World<'a> {
    async fn log_in(&mut self, dice: &mut Dice) {
        let held = if dice.throw(2) == 0 {
            let browser = Browser::across(self.nodes, "ada");
            let remember = if dice.throw(2) == 0 { "1" } else { "" };
            let form = [("password", self.password), ("remember", remember)];
            browser.sign_in(&form).await.expect(303);
            browser.open("/dashboard").await.expect(200);
            Held::Browser(browser)
        } else {
            let body = json!({"username": "ada", "password": self.password});
            let request = self.nodes.next().call(Method::POST, "/api/v1/auth/token");
            Held::Program(Program::of(
                &Answer::of(request.json(&body)).await.expect(200),
            ))
        };
        let mut login = Login {
            id: String::new(),
            held,
            sockets: Vec::new(),
        };
        let list = self.list(&login).await;
        let current = list.iter().find(|entry| entry["current"] == true);
        login.id = current.expect("this one is listed")["id"]
            .as_str()
            .unwrap()
            .to_owned();
        self.alive.push(login);
    }

    fn request(&self, login: &Login<'_>, method: Method, path: &str) -> RequestBuilder {
        match &login.held {
            Held::Browser(browser) => browser.script(method, path),
            Held::Program(program) => {
                let request = self.nodes.next().call(method, path);
                request.bearer_auth(&program.access)
            }
        }
    }

    async fn ask(&self, login: &Login<'_>, method: Method, path: &str) -> Answer {
        Answer::of(self.request(login, method, path)).await
    }

    fn sockets(&self) -> usize {
        self.alive.iter().map(|login| login.sockets.len()).sum()
    }

    async fn open_socket(&mut self, chosen: usize) {
        let url = &self.nodes.next().url;
        let login = &mut self.alive[chosen];
        login.sockets.push(match &login.held {
            Held::Browser(browser) => Wire::of_page_at(url, browser).await,
            Held::Program(program) => Wire::with_token(url, &program.access).await,
        });
    }

    async fn make_key(&mut self, chosen: usize) {
        let body = json!({"name": "a key", "scopes": ["*"], "current_password": self.password});
        let login = &self.alive[chosen];
        let request = self.request(login, Method::POST, "/api/v1/tokens");
        let made = Answer::of(request.json(&body)).await.expect(201);
        // A password given again renews the session's id.
        if let Held::Browser(browser) = &login.held {
            browser.take(&made);
        }
        let made = made.json();
        let text = |name: &str| made["data"][name].as_str().expect(name).to_owned();
        self.keys.push(Key {
            id: text("id"),
            token: text("token"),
        });
    }

    async fn opens(&self, node: &TestApp, key: &Key) -> bool {
        let request = node.call(Method::GET, "/api/v1/me").bearer_auth(&key.token);
        match Answer::of(request).await.status {
            200 => true,
            401 => false,
            other => panic!("{other}"),
        }
    }

    /// What a living login sees of all of them.
    async fn list(&self, login: &Login<'_>) -> Vec<Value> {
        let path = "/api/v1/sessions?limit=200";
        let answer = self.ask(login, Method::GET, path).await.expect(200);
        answer.json()["data"].as_array().unwrap().clone()
    }

    /// Refreshes what can be refreshed, so that who is alive can be asked.
    async fn freshen(&mut self) {
        for login in &mut self.alive {
            if let Held::Program(program) = &mut login.held {
                let request = self.nodes.next().call(Method::POST, "/api/v1/auth/refresh");
                let request = request.json(&json!({ "refresh_token": program.refresh }));
                *program = Program::of(&Answer::of(request).await.expect(200));
                for socket in &mut login.sockets {
                    socket.authenticate(&program.access).await;
                }
            }
        }
    }

    fn bury(&mut self, dead: impl Fn(&Login<'_>) -> bool) {
        let (dead, alive) = std::mem::take(&mut self.alive).into_iter().partition(dead);
        self.alive = alive;
        self.dead.extend::<Vec<_>>(dead);
    }

    async fn step(&mut self, dice: &mut Dice) {
        let Some(chosen) = (!self.alive.is_empty()).then(|| dice.throw(self.alive.len())) else {
            return self.log_in(dice).await;
        };
        let id = self.alive[chosen].id.clone();
        match dice.throw(16) {
            0..=4 if self.alive.len() < MANY => self.log_in(dice).await,
            5 => {
                match &self.alive[chosen].held {
                    Held::Browser(browser) => drop(browser.log_out().await.expect(303)),
                    Held::Program(_) => {
                        let path = "/api/v1/auth/logout";
                        let answer = self.ask(&self.alive[chosen], Method::POST, path);
                        answer.await.expect(200);
                    }
                }
                self.bury(|login| login.id == id);
            }
            6 | 7 => {
                let by = dice.throw(self.alive.len());
                let path = format!("/api/v1/sessions/{id}");
                let answer = self.ask(&self.alive[by], Method::DELETE, &path);
                answer.await.expect(200);
                self.bury(|login| login.id == id);
            }
            8 => {
                if let Held::Browser(browser) = &self.alive[chosen].held {
                    browser
                        .post("/dashboard/sessions/revoke-others", &[])
                        .await
                        .expect(303);
                    self.bury(|login| login.id != id);
                }
            }
            9 => {
                if let Held::Browser(browser) = &self.alive[chosen].held {
                    let next = PASSWORDS[usize::from(self.password == PASSWORDS[0])];
                    let with_keys = dice.throw(2) == 0;
                    let mut form = vec![
                        ("current_password", self.password),
                        ("password", next),
                        ("password_confirmation", next),
                    ];
                    form.extend(with_keys.then_some(("revoke_tokens", "1")));
                    browser.post("/dashboard/password", &form).await.expect(303);
                    browser.open("/dashboard").await.expect(200);
                    self.password = next;
                    self.bury(|login| login.id != id);
                    if with_keys {
                        self.dead_keys.append(&mut self.keys);
                    }
                }
            }
            10 => {
                // Closed and opened again.
                if let Held::Browser(browser) = &self.alive[chosen].held
                    && browser.cookie("gapura_remember").is_some()
                {
                    browser.restart();
                    // The second is the first use of what the first has restored, and is noted.
                    for _ in 0..2 {
                        browser.open("/dashboard").await.expect(200);
                    }
                    self.alive[chosen].sockets.clear();
                }
            }
            11 | 12 if self.sockets() < SOCKETS => self.open_socket(chosen).await,
            13 if self.keys.len() < MANY => self.make_key(chosen).await,
            14 if !self.keys.is_empty() => {
                let key = self.keys.remove(dice.throw(self.keys.len()));
                let path = format!("/api/v1/tokens/{}", key.id);
                let answer = self.ask(&self.alive[chosen], Method::DELETE, &path);
                answer.await.expect(200);
                self.dead_keys.push(key);
            }
            _ => {
                self.nodes
                    .first()
                    .advance(Duration::from_secs(60 * (1 + dice.throw(5) as u64)));
                self.freshen().await;
            }
        }
    }

    async fn check(&mut self) {
        for login in &mut self.alive {
            for socket in &mut login.sockets {
                assert!(socket.is_open().await, "alive");
            }
        }
        for login in &mut self.dead {
            for mut socket in login.sockets.drain(..) {
                let closed = async { while let Heard::Event(_) = socket.hear().await {} };
                let in_time = timeout(Duration::from_secs(1), closed).await;
                assert!(in_time.is_ok(), "the socket of a dead login is open");
            }
        }
        let mut expected: Vec<&str> = self.alive.iter().map(|login| &*login.id).collect();
        expected.sort_unstable();
        for login in &self.alive {
            let list = self.list(login).await;
            let mut listed: Vec<&str> = list
                .iter()
                .map(|entry| entry["id"].as_str().unwrap())
                .collect();
            listed.sort_unstable();
            assert_eq!(listed, expected, "what is listed is what is alive");
        }
        if let Some(login) = self.alive.last() {
            let path = "/api/v1/tokens?limit=200";
            let list = self.ask(login, Method::GET, path).await.expect(200).json();
            let list = list["data"].as_array().unwrap();
            let mut listed: Vec<_> = list.iter().map(|key| key["id"].as_str().unwrap()).collect();
            let mut expected: Vec<_> = self.keys.iter().map(|key| &*key.id).collect();
            listed.sort_unstable();
            expected.sort_unstable();
            assert_eq!(listed, expected, "the keys that are listed open");
        }
        // For so long a node may remember a key.
        self.nodes.first().advance(Duration::from_secs(1));
        for node in &self.nodes.all {
            for key in &self.keys {
                assert!(self.opens(node, key).await);
            }
            self.stays_dead(node).await;
        }
    }

    /// Of those that died last, none lives on that node, by whatever it held.
    async fn stays_dead(&self, node: &TestApp) {
        let in_time = self.nodes.news_takes();
        for key in self.dead_keys.iter().rev().take(MANY) {
            assert!(!self.opens(node, key).await);
        }
        for login in self.dead.iter().rev().take(MANY) {
            until(in_time, || is_refused(node, login)).await;
            match &login.held {
                Held::Browser(browser) => {
                    let copy = browser.copied_to(node);
                    copy.open("/dashboard").await.expect(303);
                    copy.restart();
                    copy.open("/dashboard").await.expect(303);
                }
                Held::Program(program) => {
                    assert_eq!(node.present(&program.refresh).await.status(), 401);
                }
            }
        }
    }
}

async fn is_refused(node: &TestApp, login: &Login<'_>) -> bool {
    let path = "/api/v1/sessions";
    let request = match &login.held {
        Held::Browser(browser) => browser.copied_to(node).script(Method::GET, path),
        Held::Program(program) => {
            let request = node.call(Method::GET, path);
            request.bearer_auth(&program.access)
        }
    };
    match Answer::of(request).await.status {
        200 => false,
        401 | 419 => true,
        other => panic!("{other}"),
    }
}

#[actix_web::test]
async fn a_thousand_random_operations_leave_the_list_true() {
    let seeds = [
        88_172_645_463_325_252,
        7_766_279_631_452_241_920,
        2_463_534_242_990_871_617,
    ];
    for (place, seed) in Nodes::ALL.into_iter().zip(seeds) {
        // The limits would be met: all of this happens within a few hours of the fake clock.
        let settings = [
            ("GAPURA_RATE_LIMITS", "off"),
            ("GAPURA_LOGIN_LIFETIME", "90d"),
        ];
        let nodes = Nodes::start(place, &settings).await;
        let (mut dice, mut world) = (
            Dice(seed),
            World {
                nodes: &nodes,
                password: TestApp::PASSWORD,
                alive: Vec::new(),
                dead: Vec::new(),
                keys: Vec::new(),
                dead_keys: Vec::new(),
            },
        );
        for _ in 0..nodes.rounds(1000) {
            world.step(&mut dice).await;
            if dice.throw(4) == 0 {
                world.check().await;
            }
        }
        world.check().await;
    }
}

#[actix_web::test]
async fn a_browser_that_nobody_came_back_to_leaves_the_list_and_is_ended() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let left = Browser::new(&app, "ada").log_in().await;
        let remembered = Browser::new(&app, "ada").log_in_remembered().await;
        let body = json!({"username": "ada", "password": TestApp::PASSWORD});
        let request = app.http.post(format!("{}/api/v1/auth/token", app.url));
        let program = Program::of(&Answer::of(request.json(&body)).await.expect(200));
        let here = Browser::new(&app, "ada").log_in().await;
        let count = async || {
            let answer = here
                .send(here.script(Method::GET, "/api/v1/sessions"))
                .await;
            answer.expect(200).json()["data"].as_array().unwrap().len()
        };
        app.advance(11 * HOUR);
        here.open("/dashboard").await.expect(200);
        assert_eq!(count().await, 4);
        // The copy of a last activity is written behind the answer.
        let noted = async || {
            let now = app.now();
            let ada = app.app.db.read(move |conn| {
                let ada = gapura::account::by_login_name(conn, "ada")?.expect("ada");
                gapura::login::usable_of(conn, &ada.id, None, 10, now - DAY, now)
            });
            let logins = ada.await.unwrap();
            logins
                .iter()
                .any(|login| login.last_activity_at > app.now() - HOUR)
        };
        until(Duration::from_secs(5), noted).await;
        cleanup::end_overdue(&app.app, app.now()).await.unwrap();
        assert_eq!(count().await, 4, "nothing is over yet");
        app.advance(9 * HOUR);
        assert_eq!(count().await, 2, "idle, and not remembered any more");
        cleanup::end_overdue(&app.app, app.now()).await.unwrap();
        for browser in [left, remembered] {
            browser.ping(0).await.expect_over("idle");
        }
        here.open("/dashboard").await.expect(200);
        app.advance(7 * DAY);
        cleanup::end_overdue(&app.app, app.now()).await.unwrap();
        let request = app.http.post(format!("{}/api/v1/auth/refresh", app.url));
        let answer = Answer::of(request.json(&json!({ "refresh_token": program.refresh }))).await;
        assert_eq!(answer.expect(401).json()["code"], "refresh_expired");
        let causes = app.app.db.read(|conn| {
            let ada = gapura::account::by_login_name(conn, "ada")?.expect("ada");
            gapura::audit::page(conn, &gapura::audit::Filter::of_user(&ada.id), None, 100)
        });
        let ends = causes
            .await
            .unwrap()
            .into_iter()
            .filter_map(|event| event.cause);
        let mut ends: Vec<String> = ends.collect();
        ends.sort_unstable();
        assert_eq!(ends, ["idle", "idle", "lifetime", "unused"]);
    }
}
