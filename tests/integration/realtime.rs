//! Sockets: who is let in, what they are told, and when they are closed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gapura::clock::{Clock, FakeClock, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Error as WireError;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::actors::{Answer, Browser};
use crate::chromium::{Chromium, serve};
use crate::faults::proxy::{CUT, HANGING, OPEN, Proxy};
use crate::harness::{Backend, Installation, TestApp};
use crate::program::{PASSWORD, Place, add_user};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// In which time every end is known everywhere.
const SOON: Duration = Duration::from_secs(1);
/// Longer than several looks at the clock take.
const A_WHILE: Duration = Duration::from_millis(900);

/// What came over a socket.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Event(Value),
    Closed(u16, String),
    Nothing,
}

pub fn closed(code: u16, word: &str) -> Heard {
    Heard::Closed(code, word.to_owned())
}

fn revoked(reason: &str) -> Heard {
    Heard::Event(json!({"type": "session.revoked", "reason": reason}))
}

fn changed() -> Heard {
    Heard::Event(json!({"type": "sessions.changed"}))
}

/// A client of the WebSocket.
pub struct Wire(WebSocketStream<TcpStream>);

impl Wire {
    async fn try_open(url: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        Self::try_open_at(url, "/api/v1/ws", headers).await
    }

    /// The handshake, which may be refused with a status.
    async fn try_open_at(url: &str, path: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let host = url.trim_start_matches("http://");
        let tcp = TcpStream::connect(host).await.expect("a connection");
        let request = format!("ws://{host}{path}").into_client_request();
        let mut request = request.expect("a request");
        for (name, value) in headers {
            let name = reqwest::header::HeaderName::from_bytes(name.as_bytes());
            let value = value.parse().expect("a value");
            request.headers_mut().insert(name.expect("a name"), value);
        }
        match client_async(request, tcp).await {
            Ok((stream, answer)) => {
                assert!(!answer.headers().contains_key("set-cookie"));
                Ok(Self(stream))
            }
            Err(WireError::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn open(url: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_open(url, headers).await.expect("a socket")
    }

    async fn open_at(url: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let opened = Self::try_open_at(url, path, headers).await;
        opened.expect("a socket")
    }

    /// Sends what need not be a frame.
    async fn write(&mut self, bytes: &[u8]) {
        let tcp = self.0.get_mut();
        tcp.write_all(bytes).await.expect("the server reads");
    }

    /// Of somebody with that token.
    pub async fn with_token(url: &str, token: &str) -> Self {
        let mut wire = Self::open(url, &[]).await;
        wire.authenticate(token).await;
        let heard = wire.hear().await;
        assert!(
            matches!(&heard, Heard::Event(event) if event["type"] == "authenticated"),
            "{heard:?}"
        );
        wire
    }

    /// Of a page of the dashboard.
    async fn of_page(browser: &Browser<'_>) -> Self {
        Self::of_page_at(&browser.app.url, browser).await
    }

    pub async fn of_page_at(url: &str, browser: &Browser<'_>) -> Self {
        let (cookies, origin) = (browser.cookie_header(), browser.origin());
        let headers = [("cookie", cookies.as_str()), ("origin", origin.as_str())];
        let mut wire = Self::open(url, &headers).await;
        let heard = wire.hear().await;
        assert!(
            matches!(&heard, Heard::Event(event) if event["type"] == "authenticated"),
            "{heard:?}"
        );
        wire
    }

    async fn send(&mut self, message: Message) {
        // Where the server has closed already, what it said is what counts.
        let _ = self.0.send(message).await;
    }

    async fn say(&mut self, message: &Value) {
        self.send(Message::text(message.to_string())).await;
    }

    pub async fn authenticate(&mut self, token: &str) {
        self.say(&json!({"type": "authenticate", "token": token}))
            .await;
    }

    async fn hear_within(&mut self, limit: Duration) -> Heard {
        let heard = timeout(limit, async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => {
                        return Heard::Event(serde_json::from_str(&text).expect("JSON"));
                    }
                    Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                        return Heard::Closed(code.into(), reason.to_string());
                    }
                    Some(Ok(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        });
        heard.await.unwrap_or(Heard::Nothing)
    }

    pub async fn hear(&mut self) -> Heard {
        self.hear_within(Duration::from_secs(5)).await
    }

    /// The next that is not about the list of logins.
    pub async fn hear_of_itself(&mut self) -> Heard {
        loop {
            match self.hear().await {
                heard if heard == changed() => {}
                heard => return heard,
            }
        }
    }

    /// Whether the server answers over it.
    pub async fn is_open(&mut self) -> bool {
        self.send(Message::Ping("there?".into())).await;
        let answer = timeout(Duration::from_secs(5), async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Pong(_))) => return true,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
                    Some(Ok(_)) => {}
                }
            }
        });
        answer.await.expect("an answer or an end")
    }

    /// Lets the news of logins that have just begun pass by.
    async fn settle(&mut self) {
        loop {
            match self.hear_within(A_WHILE).await {
                Heard::Nothing => return,
                heard => assert_eq!(heard, changed()),
            }
        }
    }

    /// Goes on for a while without a word from the server.
    async fn hears_nothing(&mut self) {
        assert_eq!(self.hear_within(A_WHILE).await, Heard::Nothing);
    }
}

impl TestApp {
    async fn pair_of(&self, name: &str) -> Value {
        let body = json!({"username": name, "password": Self::PASSWORD});
        let answer = self.post_json("/api/v1/auth/token", &body).await;
        let body: Value = answer.json().await.expect("JSON");
        body["data"].clone()
    }

    async fn ask_as(&self, method: Method, path: &str, token: &str, body: &Value) -> Answer {
        let request = self.http.request(method, format!("{}{path}", self.url));
        Answer::of(request.bearer_auth(token).json(body)).await
    }
}

#[actix_web::test]
async fn an_access_token_lets_in_and_another_one_renews() {
    let app = TestApp::start(Backend::Embedded).await;
    let first = app.pair_of("ada").await;
    let mut wire = Wire::open(&app.url, &[]).await;
    let token = first["access_token"].as_str().unwrap();
    wire.authenticate(token).await;
    let expected = |from| {
        Heard::Event(json!({
            "type": "authenticated",
            "user_id": first["user"]["id"],
            "expires_at": from,
        }))
    };
    let end = app.now() + 30 * MINUTE;
    assert_eq!(wire.hear().await, expected(end.rfc3339()));

    app.advance(20 * MINUTE);
    let second = app.access_token("ada").await;
    let end = app.now() + 30 * MINUTE;
    wire.authenticate(&second).await;
    assert_eq!(wire.hear_of_itself().await, expected(end.rfc3339()));
    // The first is over by now.
    app.advance(11 * MINUTE);
    wire.settle().await;
}

#[actix_web::test]
async fn whoever_says_nothing_for_ten_seconds_is_sent_away() {
    let app = TestApp::start(Backend::Embedded).await;
    let mut wire = Wire::open(&app.url, &[]).await;
    // Of a later version, perhaps.
    wire.say(&json!({"type": "hello"})).await;
    app.advance(Duration::from_millis(9_999));
    wire.hears_nothing().await;
    app.advance(Duration::from_millis(1));
    assert_eq!(wire.hear().await, closed(4408, "not_authenticated"));
}

#[actix_web::test]
async fn a_token_that_is_no_good_closes() {
    let app = TestApp::start(Backend::Embedded).await;
    let old = app.access_token("ada").await;
    app.advance(30 * MINUTE);
    let ended = app.access_token("ada").await;
    app.ask_as(Method::POST, "/api/v1/auth/logout", &ended, &json!({}))
        .await
        .expect(200);
    let good = app.access_token("ada").await;
    let bobs = app.access_token("bob").await;
    for (token, code, word) in [
        ("x.y.z", 4401, "token_invalid"),
        ("", 4401, "token_invalid"),
        ("1|gpr_x", 4401, "token_invalid"),
        (&*old, 4401, "token_expired"),
        (&*ended, 4401, "token_revoked"),
    ] {
        let mut stranger = Wire::open(&app.url, &[]).await;
        stranger.authenticate(token).await;
        assert_eq!(stranger.hear().await, closed(code, word), "{token}");
        // The same for one that was let in before.
        let mut ada = Wire::with_token(&app.url, &good).await;
        ada.authenticate(token).await;
        assert_eq!(ada.hear_of_itself().await, closed(code, word), "{token}");
    }
    let mut ada = Wire::with_token(&app.url, &good).await;
    ada.authenticate(&bobs).await;
    assert_eq!(ada.hear_of_itself().await, closed(4403, "other_user"));
}

#[actix_web::test]
async fn a_page_of_ours_is_let_in_by_its_cookie_and_no_other() {
    let settings = [("GAPURA_CORS_ORIGINS", "https://app.example.org")];
    let app = TestApp::start_with(Backend::Embedded, &settings).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    Wire::of_page(&ada).await;
    let token = app.access_token("ada").await;
    let cookies = ada.cookie_header();
    for origin in [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
    ] {
        for cookie in [cookies.as_str(), "a=b"] {
            let headers = [("cookie", cookie), ("origin", origin)];
            let mut wire = Wire::open(&app.url, &headers).await;
            wire.authenticate(&token).await;
            assert_eq!(wire.hear().await, closed(4403, "other_origin"), "{origin}");
        }
    }
    // Here the cookie counts for nothing.
    for headers in [
        vec![("cookie", cookies.as_str())],
        vec![
            ("cookie", cookies.as_str()),
            ("origin", "https://app.example.org"),
        ],
    ] {
        let mut wire = Wire::open(&app.url, &headers).await;
        wire.hears_nothing().await;
        wire.authenticate(&token).await;
        let heard = wire.hear().await;
        assert!(matches!(&heard, Heard::Event(event) if event["type"] == "authenticated"));
    }
    let origin = ada.origin();
    ada.log_out().await.expect(303);
    let headers = [("cookie", cookies.as_str()), ("origin", origin.as_str())];
    let mut wire = Wire::open(&app.url, &headers).await;
    assert_eq!(wire.hear().await, closed(4401, "session_expired"));
}

#[actix_web::test]
async fn a_client_that_has_a_token_is_not_taken_for_the_session_of_its_browser() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    let (cookies, origin) = (ada.cookie_header(), ada.origin());
    let headers = [("cookie", cookies.as_str()), ("origin", origin.as_str())];
    let token = app.access_token("bob").await;
    for session in ["alive", "over"] {
        let mut wire = Wire::open_at(&app.url, "/api/v1/ws?by=token", &headers).await;
        wire.hears_nothing().await;
        wire.authenticate(&token).await;
        let heard = wire.hear().await;
        assert!(
            matches!(&heard, Heard::Event(event) if event["type"] == "authenticated"),
            "{session}: {heard:?}"
        );
        if session == "alive" {
            // What is not known means nothing.
            let mut page = Wire::open_at(&app.url, "/api/v1/ws?by=x&to=y", &headers).await;
            assert!(
                matches!(page.hear().await, Heard::Event(event) if event["type"] == "authenticated")
            );
            ada.log_out().await.expect(303);
        }
    }
    let headers = [("origin", "https://evil.example")];
    let mut wire = Wire::open_at(&app.url, "/api/v1/ws?by=token", &headers).await;
    assert_eq!(wire.hear().await, closed(4403, "other_origin"));
}

#[actix_web::test]
async fn the_end_of_an_access_token_is_told_once_before_it_comes() {
    let app = TestApp::start(Backend::Embedded).await;
    let token = app.access_token("ada").await;
    let end = app.now() + 30 * MINUTE;
    let mut wire = Wire::with_token(&app.url, &token).await;
    wire.settle().await;
    let threshold = app.app.config.clocks.refresh_threshold;
    // A JWT ends with a whole second.
    app.advance(30 * MINUTE - threshold - Duration::from_secs(1));
    wire.hears_nothing().await;
    app.advance(Duration::from_secs(1));
    let expiring = json!({"type": "token.expiring", "expires_at": end.rfc3339()});
    assert_eq!(wire.hear().await, Heard::Event(expiring));
    wire.hears_nothing().await;
    app.advance(threshold);
    assert_eq!(wire.hear().await, closed(4401, "token_expired"));
}

#[actix_web::test]
async fn the_end_of_a_login_closes_its_sockets_on_every_node_within_a_second() {
    for backend in Backend::ALL {
        let one = TestApp::start(backend).await;
        let two = match backend {
            Backend::Embedded => None,
            Backend::Shared => {
                Some(TestApp::join(one.installation.clone(), one.clock.clone(), &[]).await)
            }
        };
        let far = two.as_ref().unwrap_or(&one);
        let ada = Browser::new(&one, "ada").log_in().await;
        let other = Browser::new(&one, "ada").log_in().await;
        let pair = one.pair_of("ada").await;
        let access = pair["access_token"].as_str().unwrap();
        let mut of_page = Wire::of_page_at(&far.url, &other).await;
        let mut of_token = Wire::with_token(&far.url, access).await;
        let mut here = Wire::of_page(&ada).await;
        let mut goes_on = Wire::of_page_at(&far.url, &ada).await;

        let began = Instant::now();
        let list = ada.poll_sessions().await;
        for login in list.iter().filter(|login| login["current"] == false) {
            let path = format!(
                "/dashboard/sessions/{}/revoke",
                login["id"].as_str().unwrap()
            );
            ada.post(&path, &[]).await.expect(303);
        }
        for wire in [&mut of_page, &mut of_token] {
            assert_eq!(
                wire.hear_of_itself().await,
                revoked("revoked"),
                "{backend:?}"
            );
            assert_eq!(wire.hear().await, closed(4401, "token_revoked"));
        }
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        for wire in [&mut here, &mut goes_on] {
            wire.settle().await;
        }
        ada.log_out().await.expect(303);
        let began = Instant::now();
        for wire in [&mut here, &mut goes_on] {
            assert_eq!(wire.hear_of_itself().await, revoked("logged_out"));
        }
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}

#[actix_web::test]
async fn a_node_that_hears_no_announcement_closes_them_all_the_same() {
    let one = TestApp::start(Backend::Embedded).await;
    // Beside the same database, with a keystore of its own.
    let two = TestApp::join(one.installation.clone(), one.clock.clone(), &[]).await;
    let token = one.access_token("ada").await;
    let mut wire = Wire::with_token(&two.url, &token).await;
    one.ask_as(Method::POST, "/api/v1/auth/logout", &token, &json!({}))
        .await
        .expect(200);
    let began = Instant::now();
    assert_eq!(wire.hear_of_itself().await, revoked("logged_out"));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[actix_web::test]
async fn what_ends_a_login_is_told_and_a_revoked_token_holds_no_socket() {
    let app = TestApp::start(Backend::Embedded).await;
    let here = app.access_token("ada").await;
    let there = app.access_token("ada").await;
    let (mut wire, mut other) = (
        Wire::with_token(&app.url, &here).await,
        Wire::with_token(&app.url, &there).await,
    );
    let body =
        json!({"current_password": TestApp::PASSWORD, "password": "staple battery horse correct"});
    app.ask_as(Method::PUT, "/api/v1/me/password", &here, &body)
        .await
        .expect(200);
    assert_eq!(other.hear_of_itself().await, revoked("password_changed"));
    wire.settle().await;
    // The token alone: its login goes on.
    app.ask_as(
        Method::POST,
        "/api/v1/auth/revoke",
        &here,
        &json!({"token": here}),
    )
    .await
    .expect(200);
    assert_eq!(wire.hear_of_itself().await, revoked("revoked"));
    assert_eq!(wire.hear().await, closed(4401, "token_revoked"));

    let bob = Browser::new(&app, "bob").log_in().await;
    let mut wire = Wire::of_page(&bob).await;
    let root = app.access_token("root").await;
    let me = bob.poll().await.json();
    let path = format!("/api/v1/users/{}", me["data"]["id"].as_str().unwrap());
    app.ask_as(Method::PATCH, &path, &root, &json!({"disabled": true}))
        .await
        .expect(200);
    assert_eq!(wire.hear_of_itself().await, revoked("revoked"));
}

#[actix_web::test]
async fn a_socket_is_never_activity_and_tells_of_the_idle_end_ten_minutes_before() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let mut wire = Wire::of_page(&ada).await;
        wire.settle().await;
        let end = |at: gapura::clock::Timestamp, end| {
            Heard::Event(json!({"type": "session.expiring", "end": end, "ends_at": at.rfc3339()}))
        };
        // The key is kept in whole seconds.
        let to_the_second =
            |at: gapura::clock::Timestamp| gapura::clock::Timestamp::from_seconds(at.seconds());
        let idle_end = to_the_second(app.now()) + 20 * HOUR;
        for _ in 0..19 {
            app.advance(HOUR);
            wire.send(Message::Ping("x".into())).await;
            wire.say(&json!({"type": "hello"})).await;
        }
        app.advance(49 * MINUTE);
        wire.hears_nothing().await;
        app.advance(MINUTE);
        assert_eq!(wire.hear().await, end(idle_end, "idle"), "{backend:?}");
        wire.hears_nothing().await;

        // The person is there after all, in another tab; four hours on their day is over.
        ada.ping(0).await.expect(200);
        let hard_end = idle_end + 4 * HOUR;
        app.advance(4 * HOUR - MINUTE);
        wire.hears_nothing().await;
        app.advance(2 * MINUTE);
        let Heard::Event(event) = wire.hear().await else {
            panic!("it is told");
        };
        assert_eq!(event["end"], "lifetime");
        assert_eq!(
            event["ends_at"].as_str().unwrap()[..16],
            hard_end.rfc3339()[..16]
        );
        app.advance(10 * MINUTE);
        assert_eq!(wire.hear().await, closed(4401, "session_expired"));

        let ada = Browser::new(&app, "ada").log_in().await;
        let mut wire = Wire::of_page(&ada).await;
        app.advance(20 * HOUR);
        let heard = wire.hear_of_itself().await;
        assert_eq!(heard, closed(4401, "session_expired"), "{backend:?}");
        ada.poll().await.expect_over("idle");
    }
}

#[actix_web::test]
async fn a_user_hears_on_every_node_that_their_logins_have_changed() {
    for backend in Backend::ALL {
        let one = TestApp::start(backend).await;
        let two = match backend {
            Backend::Embedded => None,
            Backend::Shared => {
                Some(TestApp::join(one.installation.clone(), one.clock.clone(), &[]).await)
            }
        };
        let far = two.as_ref().unwrap_or(&one);
        let token = one.access_token("ada").await;
        let bobs = one.access_token("bob").await;
        let mut near = Wire::with_token(&one.url, &token).await;
        let mut far_away = Wire::with_token(&far.url, &token).await;
        let mut bob = Wire::with_token(&far.url, &bobs).await;
        for wire in [&mut near, &mut far_away, &mut bob] {
            wire.settle().await;
        }
        let browser = Browser::new(&one, "ada");
        let hears = async |near: &mut Wire, far: &mut Wire, why: &str| {
            for wire in [&mut *near, &mut *far] {
                assert_eq!(wire.hear_within(SOON).await, changed(), "{why} {backend:?}");
            }
            // A node hears its own announcement, too, on a slow machine only after it has told of it.
            tokio::join!(near.settle(), far.settle());
        };
        browser.sign_in(&[("remember", "1")]).await.expect(303);
        hears(&mut near, &mut far_away, "a login by browser").await;
        browser.restart();
        browser.open("/dashboard").await.expect(200);
        hears(&mut near, &mut far_away, "it is remembered").await;
        browser.log_out().await.expect(303);
        hears(&mut near, &mut far_away, "it is over").await;
        one.access_token("ada").await;
        hears(&mut near, &mut far_away, "a login by API").await;
        bob.hears_nothing().await;
    }
}

#[actix_web::test]
async fn what_no_client_of_ours_would_send_closes() {
    let app = TestApp::start(Backend::Embedded).await;
    let token = app.access_token("ada").await;
    let text = |text: &str| vec![Message::text(text.to_owned())];
    let part = |bytes: usize, opcode, last| {
        Message::Frame(Frame::message(
            vec![b' '; bytes],
            OpCode::Data(opcode),
            last,
        ))
    };
    let parts = |bytes| {
        vec![
            part(bytes, Data::Text, false),
            part(bytes, Data::Continue, false),
            part(bytes, Data::Continue, true),
        ]
    };
    let not_utf8 = Frame::message(vec![0xff], OpCode::Data(Data::Text), true);
    let not_known = Frame::message(vec![], OpCode::Data(Data::Reserved(3)), true);
    let many = (0..61).map(|_| Message::text(r#"{"type":"hello"}"#));
    for (messages, code, word) in [
        (text("hello"), 1008, "malformed_message"),
        (text("[]"), 1008, "malformed_message"),
        (
            text(r#"{"type":"authenticate"}"#),
            1008,
            "malformed_message",
        ),
        (text(&"[".repeat(5000)), 1008, "malformed_message"),
        (parts(1000), 1008, "malformed_message"),
        (text(&"x".repeat(5 * 1024 + 1)), 1009, "message_too_big"),
        (parts(2000), 1009, "message_too_big"),
        (vec![Message::binary(vec![1])], 1003, "text_only"),
        (vec![Message::Frame(not_utf8)], 1007, "not_utf8"),
        (vec![Message::Frame(not_known)], 1002, "protocol_error"),
        (many.collect(), 1008, "too_many_messages"),
    ] {
        let mut stranger = Wire::open(&app.url, &[]).await;
        let mut ada = Wire::with_token(&app.url, &token).await;
        for wire in [&mut stranger, &mut ada] {
            for message in messages.clone() {
                wire.send(message).await;
            }
            assert_eq!(wire.hear_of_itself().await, closed(code, word));
        }
    }
    let mut wire = Wire::open(&app.url, &[]).await;
    wire.send(Message::Close(None)).await;
    assert_eq!(wire.hear().await, closed(1000, ""));
}

/// As much as sixty of the longest messages.
const MOST_BYTES: usize = 60 * (5 * 1024 + 14);

#[actix_web::test]
async fn what_is_no_message_yet_is_not_kept_without_end() {
    let app = TestApp::start(Backend::Embedded).await;
    let token = app.access_token("ada").await;
    // A text of 2^40 bytes; a message in empty parts that nobody ends. No mask is a mask of zeros.
    let huge = [0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (part, next) = ([0x01, 0x80, 0, 0, 0, 0], [0x00, 0x80, 0, 0, 0, 0]);
    let endless = [&huge[..], &[b' '; MOST_BYTES]].concat();
    let parts = [&part[..], &next.repeat(MOST_BYTES / 6)].concat();
    for bytes in [endless, parts] {
        for token in [None, Some(&token)] {
            let mut wire = match token {
                Some(token) => Wire::with_token(&app.url, token).await,
                None => Wire::open(&app.url, &[]).await,
            };
            let said = token.map_or(0, |token| {
                json!({"type": "authenticate", "token": token})
                    .to_string()
                    .len()
                    + 8
            });
            // One short of it.
            let (most, rest) = bytes.split_at(MOST_BYTES - said);
            wire.write(most).await;
            wire.settle().await;
            wire.write(&rest[..1]).await;
            assert_eq!(wire.hear_of_itself().await, closed(1009, "message_too_big"));
        }
    }
}

#[actix_web::test]
async fn sixty_of_the_longest_messages_are_heard() {
    let app = TestApp::start(Backend::Embedded).await;
    let token = app.access_token("ada").await;
    let mut wire = Wire::open(&app.url, &[]).await;
    let longest = format!("{:<5120}", r#"{"type":"hello"}"#);
    for _ in 0..59 {
        wire.send(Message::text(longest.clone())).await;
    }
    wire.authenticate(&token).await;
    assert!(matches!(wire.hear().await, Heard::Event(event) if event["type"] == "authenticated"));
}

#[actix_web::test]
async fn a_user_has_twenty_sockets_and_an_address_fifty_without_a_name() {
    let app = TestApp::start(Backend::Embedded).await;
    let token = app.access_token("ada").await;
    let mut wires = Vec::new();
    for _ in 0..20 {
        wires.push(Wire::with_token(&app.url, &token).await);
    }
    let mut one_more = Wire::open(&app.url, &[]).await;
    one_more.authenticate(&token).await;
    assert_eq!(one_more.hear().await, closed(1008, "too_many_sockets"));
    // Those that are there may renew, and one that goes makes room.
    wires[0].authenticate(&token).await;
    let renewed = wires[0].hear_of_itself().await;
    assert!(matches!(&renewed, Heard::Event(event) if event["type"] == "authenticated"));
    wires[1].send(Message::Close(None)).await;
    assert_eq!(wires[1].hear_of_itself().await, closed(1000, ""));
    Wire::with_token(&app.url, &token).await;

    let mut strangers = Vec::new();
    for _ in 0..50 {
        strangers.push(Wire::open(&app.url, &[]).await);
    }
    assert_eq!(Wire::try_open(&app.url, &[]).await.err(), Some(429));
    // A page of ours is known as it comes.
    let bob = Browser::new(&app, "bob").log_in().await;
    Wire::of_page(&bob).await;
    app.advance(10 * Duration::from_secs(1));
    assert_eq!(strangers[0].hear().await, closed(4408, "not_authenticated"));
    Wire::open(&app.url, &[]).await;
}

#[actix_web::test]
async fn a_personal_token_that_may_see_sessions_lets_a_script_in() {
    let app = TestApp::start(Backend::Embedded).await;
    let access = app.access_token("ada").await;
    let made = app.make_token(&access, &["sessions:read"]).await;
    let token = made["token"].as_str().unwrap();
    let mut wire = Wire::with_token(&app.url, token).await;
    app.access_token("ada").await;
    assert_eq!(wire.hear().await, changed());
    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    app.ask_as(Method::DELETE, &path, &access, &json!({}))
        .await
        .expect(200);
    app.advance(SOON);
    assert_eq!(wire.hear_of_itself().await, revoked("revoked"));
    assert_eq!(wire.hear().await, closed(4401, "token_revoked"));

    let made = app.make_token(&access, &["profile:read"]).await;
    let mut wire = Wire::open(&app.url, &[]).await;
    wire.authenticate(made["token"].as_str().unwrap()).await;
    assert_eq!(wire.hear().await, closed(4403, "insufficient_scope"));
}

#[actix_web::test]
async fn without_an_upgrade_there_is_a_problem() {
    let app = TestApp::start(Backend::Embedded).await;
    let url = format!("{}/api/v1/ws", app.url);
    let answer = Answer::of(app.http.get(&url)).await.expect(426);
    assert_eq!(answer.json()["code"], "upgrade_required");
    assert_eq!(answer.header("upgrade"), "websocket");
    let upgrade = |version: &str| {
        let request = app.http.get(&url).header("upgrade", "websocket");
        let request = request.header("connection", "upgrade");
        request.header("sec-websocket-version", version)
    };
    let answer = Answer::of(upgrade("12")).await.expect(426);
    assert_eq!(answer.header("sec-websocket-version"), "13");
    // No key.
    Answer::of(upgrade("13")).await.expect(400);
}

#[actix_web::test]
async fn a_node_that_goes_closes_all_its_sockets() {
    let place = Place::new();
    add_user(&place, "ada");
    let mut server = place.serve();
    let (token, _) = server.pair("ada", PASSWORD).await;
    let mut wires = Vec::new();
    for _ in 0..20 {
        wires.push(Wire::with_token(&server.url, &token).await);
    }
    for _ in 0..50 {
        wires.push(Wire::open(&server.url, &[]).await);
    }
    let began = Instant::now();
    server.signal("TERM");
    for wire in &mut wires {
        assert_eq!(wire.hear_of_itself().await, closed(1001, "going_away"));
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(Wire::try_open(&server.url, &[]).await.err(), Some(503));
    let (time, good) = server.ended().await;
    assert!(good && time < Duration::from_secs(5), "{time:?}");
}

#[actix_web::test]
async fn all_of_many_sockets_are_told_at_once() {
    let app = TestApp::start(Backend::Embedded).await;
    let mut wires = Vec::new();
    for number in 0..10 {
        let name = format!("person{number}");
        app.add_user(&name, gapura::account::Role::User).await;
        let token = app.access_token(&name).await;
        for _ in 0..20 {
            wires.push(Wire::with_token(&app.url, &token).await);
        }
    }
    app.app.begin_draining();
    for wire in &mut wires {
        assert_eq!(wire.hear_of_itself().await, closed(1001, "going_away"));
    }
}

impl Browser<'_> {
    async fn poll_sessions(&self) -> Vec<Value> {
        let request = self.script(Method::GET, "/api/v1/sessions");
        let answer = self.send(request).await.expect(200).json();
        answer["data"].as_array().unwrap().clone()
    }
}

/// A page that has got as far as listening.
async fn listen(page: &Chromium, app: &TestApp, sockets: usize) {
    let began = Instant::now();
    while app.app.hub.len() < sockets {
        assert!(began.elapsed() < Duration::from_secs(20), "no socket");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    page.until("document.readyState === 'complete'").await;
}

#[actix_web::test]
async fn a_device_signed_out_elsewhere_leaves_its_page_at_once() {
    let app = serve(&[]).await;
    let there = Chromium::open(&app).await;
    there.log_in("ada").await;
    there.go("/dashboard/profile").await;
    there.write("input[name=name]", "Ada of the Engine").await;
    listen(&there, &app, 1).await;
    let here = Browser::new(&app, "ada").log_in().await;
    here.post("/dashboard/sessions/revoke-others", &[])
        .await
        .expect(303);
    let began = Instant::now();
    there
        .arrive("/login?reason=revoked&next=%2Fdashboard%2Fprofile")
        .await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // What was typed is still there.
    there.fill_in("ada", TestApp::PASSWORD).await;
    there.arrive("/dashboard/profile").await;
    let name = there.evaluate("document.querySelector('input[name=name]').value");
    assert_eq!(name.await, "Ada of the Engine");
    there.close().await;
}

#[actix_web::test]
async fn the_lists_of_logins_and_of_events_follow_by_themselves() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    ada.go("/dashboard/sessions").await;
    ada.evaluate("void (window.mark = 'the same page')").await;
    listen(&ada, &app, 1).await;
    let devices = "document.querySelectorAll('.device').length";
    assert_eq!(ada.evaluate(devices).await, 1);

    let phone = Browser::new(&app, "ada").log_in().await;
    ada.until(&format!("{devices} === 2")).await;
    // The focus stays on the button that it was on, though that is another one now.
    ada.evaluate("document.querySelector('.device button').focus()")
        .await;
    let tablet = Browser::new(&app, "ada").log_in().await;
    ada.until(&format!("{devices} === 3")).await;
    let focus = "document.activeElement.closest('form')?.action.endsWith('/revoke')";
    assert_eq!(ada.evaluate(focus).await, true);
    // Nothing moves away from under somebody who is marking an address.
    ada.evaluate("getSelection().selectAllChildren(document.querySelector('.device .address'))")
        .await;
    phone.log_out().await.expect(303);
    tablet.log_out().await.expect(303);
    tokio::time::sleep(SOON).await;
    assert_eq!(ada.evaluate(devices).await, 3);
    ada.evaluate("getSelection().removeAllRanges()").await;
    ada.until(&format!("{devices} === 1")).await;
    assert_eq!(ada.evaluate("window.mark").await, "the same page");

    for page in ["/dashboard/activity", "/dashboard"] {
        ada.go(page).await;
        listen(&ada, &app, 1).await;
        let open = "document.querySelector('details')?.setAttribute('open', '')";
        ada.evaluate(&format!("void {open}")).await;
        let events = "document.querySelectorAll('.events li').length";
        let before = ada.evaluate(events).await.as_u64().expect("a number");
        app.access_token("ada").await;
        // The overview shows a few only, and another one first.
        let first = "document.querySelector('.events li').textContent";
        let told = ada.evaluate(first).await;
        if page == "/dashboard/activity" {
            ada.until(&format!("{events} > {before}")).await;
            assert_eq!(
                ada.evaluate("document.querySelector('details').open").await,
                true
            );
        } else {
            Browser::new(&app, "ada").sign_in(&[]).await.expect(303);
            ada.until(&format!("{first} !== {told}")).await;
        }
    }
    ada.close().await;
}

/// A page of `ada` that listens through what `network` lets pass.
async fn listen_through(app: &TestApp, page: &str) -> (Chromium, Proxy) {
    let network = Proxy::before(app.url.replace("http://", "")).await;
    let mut ada = Chromium::open(app).await;
    ada.url = format!("http://127.0.0.1:{}", network.port);
    ada.log_in("ada").await;
    ada.go(page).await;
    ada.evaluate("void (window.mark = 'the same page')").await;
    listen(&ada, app, 1).await;
    (ada, network)
}

/// Cuts the network until that has come about on the server.
async fn without_network(app: &TestApp, network: &Proxy, work: impl Future<Output = ()>) {
    network.set(CUT);
    while !app.app.hub.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    work.await;
    // What there was to tell has been told.
    tokio::time::sleep(A_WHILE).await;
    network.set(OPEN);
}

#[actix_web::test]
async fn what_happens_while_a_socket_is_lost_is_shown_once_there_is_another() {
    let app = serve(&[]).await;
    let (ada, network) = listen_through(&app, "/dashboard/sessions").await;
    without_network(&app, &network, async {
        app.access_token("ada").await;
    })
    .await;
    ada.until("document.querySelectorAll('.device').length === 2")
        .await;
    assert_eq!(ada.evaluate("window.mark").await, "the same page");
    // Not `close`: the browser complains of the network, as it should.
    ada.client.close().await.expect("the browser closes");
}

#[actix_web::test]
async fn a_page_whose_cookie_is_gone_is_left_once_its_socket_is_not_let_in() {
    let app = serve(&[]).await;
    let (ada, network) = listen_through(&app, "/dashboard/sessions").await;
    without_network(&app, &network, async {
        let gone = ada.client.delete_cookie("gapura_session").await;
        gone.expect("gone");
    })
    .await;
    listen(&ada, &app, 1).await;
    app.advance(Duration::from_secs(10));
    ada.arrive("/login?reason=&next=%2Fdashboard%2Fsessions")
        .await;
    ada.client.close().await.expect("the browser closes");
}

/// Gives the browser another session than the one that its page was made for.
async fn exchange(page: &Chromium, session: &str) {
    let cookie =
        json!({"name": "gapura_session", "value": session, "url": page.url, "httpOnly": true});
    page.devtools("Network.setCookie", cookie).await;
}

#[actix_web::test]
async fn news_for_a_page_never_bring_another_page_into_it() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.go("/login").await;
    ada.click("#remember").await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    ada.go("/dashboard/sessions").await;
    ada.evaluate("void (window.mark = 'the same page')").await;
    listen(&ada, &app, 1).await;

    // To the login page, which would open another session for the remember cookie.
    let phone = Browser::new(&app, "ada").log_in().await;
    ada.until("document.querySelectorAll('.device').length === 2")
        .await;
    let over = phone.cookie("gapura_session").expect("a session cookie");
    exchange(&ada, &over).await;
    phone.log_out().await.expect(303);
    tokio::time::sleep(SOON).await;
    assert_eq!(ada.evaluate("window.mark").await, "the same page");
    let devices = "document.querySelectorAll('.device').length";
    assert_eq!(ada.evaluate(devices).await, 2, "nothing has come");
    let cookie = ada.client.get_named_cookie("gapura_session").await;
    assert!(cookie.is_err(), "{cookie:?}");

    // Somebody else's is opened as theirs.
    let bob = Browser::new(&app, "bob").log_in().await;
    exchange(&ada, &bob.cookie("gapura_session").expect("a cookie")).await;
    let whose = ada.evaluate("document.body.dataset.userId").await;
    app.access_token("ada").await;
    ada.until(&format!("document.body.dataset.userId !== {whose}"))
        .await;
    assert_eq!(ada.evaluate("window.mark").await, Value::Null);
    assert_eq!(ada.evaluate(devices).await, 1, "his");
    ada.close().await;
}

#[actix_web::test]
async fn a_page_that_follows_is_not_somebody_who_is_there() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    ada.go("/dashboard/sessions").await;
    listen(&ada, &app, 1).await;
    let devices = "document.querySelectorAll('.device').length";
    for hours in 1..=10 {
        app.advance(2 * HOUR - Duration::from_secs(60));
        let pair = app.pair_of("ada").await;
        ada.until(&format!("{devices} > {hours}")).await;
        assert!(pair["access_token"].is_string());
    }
    app.advance(Duration::from_secs(600));
    ada.arrive("/login?reason=idle&next=%2Fdashboard%2Fsessions")
        .await;
    ada.close().await;
}

#[actix_web::test]
async fn without_a_socket_everything_works_as_before() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    let none = json!({"source": "delete window.WebSocket"});
    ada.devtools("Page.addScriptToEvaluateOnNewDocument", none)
        .await;
    ada.log_in("ada").await;
    ada.go("/dashboard/sessions").await;
    assert_eq!(ada.evaluate("'WebSocket' in window").await, false);
    assert_eq!(app.app.hub.len(), 0);
    ada.click("form[action='/logout'] button").await;
    ada.arrive("/login?reason=logged_out").await;
    ada.close().await;
}

#[actix_web::test]
async fn an_outage_of_the_keystore_closes_nothing() {
    let installation = Installation::new(Backend::Shared);
    let redis = &installation
        .settings
        .iter()
        .find(|(name, _)| name == "REDIS_URL");
    let redis = url::Url::parse(&redis.expect("an address").1).expect("an address");
    let target = format!("{}:{}", redis.host_str().unwrap(), redis.port().unwrap());
    let proxy = Proxy::before(target).await;
    let through = format!("redis://127.0.0.1:{}{}", proxy.port, redis.path());
    let clock = Arc::new(FakeClock::at(SystemClock.now()));
    let settings = [("REDIS_URL", through.as_str())];
    let app = TestApp::join(Arc::new(installation), clock, &settings).await;
    app.add_user("ada", gapura::account::Role::User).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    let mut wire = Wire::of_page(&ada).await;
    wire.settle().await;
    proxy.set(HANGING);
    app.advance(20 * HOUR);
    wire.hears_nothing().await;
    // Nor is the next socket told that its session is over.
    let (cookies, origin) = (ada.cookie_header(), ada.origin());
    let headers = [("cookie", cookies.as_str()), ("origin", origin.as_str())];
    assert_eq!(Wire::try_open(&app.url, &headers).await.err(), Some(503));
    proxy.set(OPEN);
    app.advance(Duration::from_secs(6));
    assert_eq!(wire.hear().await, closed(4401, "session_expired"));
}

/// What an idle socket costs. Its figures stand in the README; it takes a while, and 20,000 open files.
#[actix_web::test]
#[ignore = "a measurement"]
async fn ten_thousand_idle_sockets() {
    let installation = Arc::new(Installation::new(Backend::Embedded));
    let clock = Arc::new(FakeClock::at(SystemClock.now()));
    let beside = TestApp::join(installation.clone(), clock, &[]).await;
    let mut tokens = Vec::new();
    for number in 0..500 {
        let name = format!("person{number}");
        let user = beside.add_user(&name, gapura::account::Role::User).await;
        let (jwt, now) = (beside.app.jwt.clone(), beside.now());
        let client = gapura::login::Client::command_line();
        let begun = beside.app.db.write(move |conn| {
            let kind = gapura::login::Kind::Api;
            let login = gapura::login::begin(conn, &user, kind, &client, 24 * HOUR, now)?;
            Ok((user, login.expect("a login")))
        });
        let (user, login) = begun.await.expect("a login");
        tokens.push(jwt.sign(&user, &login, now).expect("a token").0);
    }
    let mut place = Place::new();
    place.settings.extend(installation.settings.clone());
    place = place.with("GAPURA_BIND", "127.0.0.1:0");
    let server = place.serve();
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id()));
        let status = status.expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        kilobytes.expect("a size").parse::<i64>().expect("a number")
    };
    let mut wires = vec![Wire::with_token(&server.url, &tokens[0]).await];
    let before = resident();
    for token in &tokens {
        let missing = if token == &tokens[0] { 19 } else { 20 };
        for _ in 0..missing {
            wires.push(Wire::with_token(&server.url, token).await);
        }
    }
    let opened = resident();
    // Two pings later.
    let rest = Instant::now() + Duration::from_secs(65);
    while Instant::now() < rest {
        for wire in &mut wires {
            wire.hear_within(Duration::ZERO).await;
        }
    }
    let rested = resident();
    let each = |more: i64| more as f64 / wires.len() as f64;
    println!(
        "{} sockets: {before} KiB before, {opened} KiB after ({:.1} KiB each), {rested} KiB two pings later ({:.1} KiB each)",
        wires.len(),
        each(opened - before),
        each(rested - before)
    );
}
