//! A person signs in, stays signed in exactly as long as the clocks say, and is out when they end.

use std::time::Duration;

use actix_web::cookie::{Cookie, CookieJar};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::{join, join_all, join3};
use gapura::keystore::Keystore;
use reqwest::Method;
use serde_json::json;

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, Nodes, TestApp};
use crate::program::until;

const SESSION: &str = "gapura_session";
const REMEMBER: &str = "gapura_remember";

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The session id inside a session cookie, as only the server can read it.
fn session_id(app: &TestApp, value: &str) -> String {
    let mut jar = CookieJar::new();
    let raw = Cookie::parse_encoded(format!("{SESSION}={value}")).unwrap();
    jar.add_original(raw.into_owned());
    let private = jar.private(&app.app.secrets.cookie);
    private.get(SESSION).unwrap().value().to_owned()
}

/// The login behind a browser's session cookie.
fn login_id(browser: &Browser<'_>) -> String {
    let id = session_id(browser.app, &browser.cookie(SESSION).unwrap());
    id.split_once('.').unwrap().0.to_owned()
}

async fn redis(app: &TestApp) -> Option<redis::aio::MultiplexedConnection> {
    let url = app.app.config.redis_url.as_ref()?;
    let client = redis::Client::open(url.expose().as_str()).unwrap();
    Some(client.get_multiplexed_async_connection().await.unwrap())
}

async fn activity(browser: &Browser<'_>) -> Option<String> {
    let key = format!("gapura:activity:{}", login_id(browser));
    let [found] = browser.app.app.keystore.get([key.as_str()]).await.unwrap();
    found
}

/// Polls until what happens behind an answer has happened.
async fn soon<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

#[actix_web::test]
async fn signing_in_sets_one_session_cookie_that_goes_with_the_browser() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada");
        let page = ada.open("/login").await.expect(200);
        assert!(
            page.set_cookies(SESSION).is_empty(),
            "nothing is stored for a visitor"
        );
        let answer = ada.send_login(&[]).await.expect_redirect("/dashboard");
        let line = answer.set_cookie(SESSION);
        for attribute in ["; HttpOnly", "; SameSite=Lax", "; Path=/"] {
            assert!(line.contains(attribute), "{line}");
        }
        for attribute in ["Max-Age", "Expires", "Domain", "Secure"] {
            assert!(!line.contains(attribute), "{line}");
        }
        assert!(answer.set_cookies(REMEMBER).is_empty());
        let login = login_id(&ada);
        assert!(!line.contains(&login), "the content is encrypted");
        let page = ada.open("/dashboard").await.expect(200);
        assert!(page.body.contains("ada"));
        assert!(page.set_cookies(SESSION).is_empty(), "nothing to say again");

        ada.restart();
        let answer = ada.open("/dashboard").await;
        answer.expect_redirect("/login?next=%2Fdashboard");
    }
}

#[actix_web::test]
async fn remember_me_sets_a_cookie_for_twelve_hours() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada");
        let answer = ada.sign_in(&[("remember", "1")]).await.expect(303);
        let line = answer.set_cookie(REMEMBER);
        for attribute in [
            "; HttpOnly",
            "; SameSite=Lax",
            "; Path=/",
            "; Max-Age=43200",
        ] {
            assert!(line.contains(attribute), "{line}");
        }
        assert!(!answer.set_cookie(SESSION).contains("Max-Age"));
    }
}

#[actix_web::test]
async fn under_https_every_cookie_is_bound_to_the_host_and_the_scheme() {
    let settings = [("GAPURA_PUBLIC_URL", "https://gate.example.org")];
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, &settings).await;
        let ada = Browser::new(&app, "ada");
        let page = ada.open("/login?lang=en").await.expect(200);
        let answer = ada.send_login(&[("remember", "1")]).await.expect(303);
        for (answer, name) in [
            (&answer, "__Host-gapura_session"),
            (&answer, "__Host-gapura_remember"),
            (&page, "__Host-gapura_form"),
        ] {
            let line = answer.set_cookie(name);
            assert!(
                line.contains("; Secure") && line.contains("; Path=/"),
                "{line}"
            );
            assert!(!line.contains("Domain"), "{line}");
        }
        for answer in [&page, &answer] {
            let lines = answer.headers.get_all("set-cookie").iter();
            for line in lines.map(|line| line.to_str().unwrap()) {
                assert!(line.contains("; Secure"), "{line}");
            }
            assert!(!answer.header("strict-transport-security").is_empty());
        }
        ada.open("/dashboard").await.expect(200);
        let answer = ada.log_out().await.expect(303);
        assert!(answer.clears("__Host-gapura_session") && answer.clears("__Host-gapura_remember"));
        for line in answer.headers.get_all("set-cookie") {
            assert!(
                line.to_str().unwrap().contains("; Secure"),
                "browsers ignore it otherwise"
            );
        }

        // The prefix in another spelling is a cookie of any host.
        let ada = Browser::new(&app, "ada").log_in().await;
        let value = ada.cookie("__Host-gapura_session").unwrap();
        for name in ["__host-gapura_session", "__HOST-gapura_session", SESSION] {
            let thief = Browser::new(&app, "ada");
            thief.plant(name, &value);
            thief.open("/dashboard").await.expect(303);
        }
    }
}

#[actix_web::test]
async fn a_refused_login_says_the_same_whatever_is_wrong() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let mut eve = app.add_user("eve", gapura::account::Role::User).await;
        eve.disabled_at = Some(app.now());
        let id = eve.id.clone();
        let disable = app
            .app
            .db
            .write(move |conn| gapura::account::set_disabled(conn, &id, Some(eve.created_at)));
        disable.await.unwrap();
        let browser = Browser::new(&app, "ada");
        browser.open("/login").await;
        let mut said = Vec::new();
        for name in ["ada", "eve", "zoe", "ada@example.org", "zoe@example.org"] {
            let fields = [
                ("login", name),
                ("password", "not the password"),
                ("remember", "1"),
            ];
            let answer = browser.send_login(&fields).await.expect(401);
            assert!(
                answer.body.contains(&format!("value=\"{name}\"")),
                "what was typed"
            );
            assert!(!answer.body.contains("not the password"));
            assert!(answer.body.contains("checked"));
            assert!(answer.body.contains("role=\"alert\""));
            assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
            assert!(answer.set_cookies(SESSION).is_empty());
            let mut headers: Vec<_> = answer
                .headers
                .iter()
                .filter(|(name, _)| {
                    !["x-request-id", "date", "content-length"].contains(&name.as_str())
                })
                .map(|(name, value)| (name.to_string(), value.clone()))
                .collect();
            headers.sort();
            said.push((
                headers,
                answer.body.replace(&format!("value=\"{name}\""), ""),
            ));
        }
        assert!(said.iter().all(|answer| *answer == said[0]), "{said:#?}");

        // Who knows the password is told.
        let fields = [("login", "eve")];
        let answer = browser.send_login(&fields).await.expect(403);
        assert!(answer.body.contains("This account is disabled"));
    }
}

#[actix_web::test]
async fn a_login_form_needs_its_token_and_our_own_page() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada");
        let post = || ada.bare(Method::POST, "/login");
        let fields = [("login", "ada"), ("password", TestApp::PASSWORD)];
        let origin = ada.origin();
        // Without the cookie that the token is bound to.
        let no_cookie = ada.form(post(), &fields);
        assert_eq!(Answer::of(no_cookie).await.status, 403);
        ada.open("/login").await.expect(200);

        let without = [fields[0], fields[1], ("csrf_token", "")];
        let answer = Answer::of(ada.form(post(), &without)).await.expect(403);
        assert!(
            answer.body.contains("value=\"ada\""),
            "what was typed is there again"
        );
        let other = Browser::new(&app, "ada");
        other.open("/login").await;
        let token = other.form_token();
        let foreign = [fields[0], fields[1], ("csrf_token", token.as_str())];
        assert_eq!(Answer::of(ada.form(post(), &foreign)).await.status, 403);

        for (name, value, status) in [
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-site", "same-site", 403),
            ("sec-fetch-site", "", 403),
            ("origin", "https://evil.example", 403),
            ("origin", "null", 403),
            ("origin", "http://localhost.evil.example", 403),
            ("origin", origin.as_str(), 303),
            ("sec-fetch-site", "same-origin", 303),
            ("sec-fetch-site", "none", 303),
            // Neither: the form's token decides.
            ("x-none", "x", 303),
        ] {
            let request = ada.form(post(), &fields).header(name, value);
            let answer = Answer::of(request).await;
            assert_eq!(answer.status, status, "{name}: {value}");
            let signed_in = !answer.set_cookies(SESSION).is_empty();
            assert_eq!(signed_in, status == 303, "{name}: {value}");
        }
        // What a browser says of the site counts more than the origin it also names.
        let request = ada.form(post(), &fields).header("origin", origin.as_str());
        let answer = Answer::of(request.header("sec-fetch-site", "cross-site")).await;
        assert_eq!(answer.status, 403);
    }
}

#[actix_web::test]
async fn without_a_public_url_our_origin_is_the_host_the_browser_used() {
    let app = TestApp::start_with(Backend::Embedded, &[("GAPURA_PUBLIC_URL", "")]).await;
    let ada = Browser::new(&app, "ada");
    ada.open("/login").await.expect(200);
    let host = app.url.strip_prefix("http://").unwrap();
    let fields = [("login", "ada"), ("password", TestApp::PASSWORD)];
    for (origin, status) in [
        (app.url.clone(), 303),
        // Behind a proxy that speaks TLS we cannot tell, the host is ours all the same.
        (format!("https://{host}"), 303),
        ("http://evil.example".to_owned(), 403),
        (format!("http://{host}.evil.example"), 403),
        (format!("http://{host}@evil.example"), 403),
        ("null".to_owned(), 403),
    ] {
        let request = ada.form(ada.bare(Method::POST, "/login"), &fields);
        let answer = Answer::of(request.header("origin", &origin)).await;
        assert_eq!(answer.status, status, "{origin}");
    }
}

#[actix_web::test]
async fn the_way_on_after_the_login_is_a_local_path() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        for (next, lands) in [
            ("/dashboard?x=1", "/dashboard?x=1"),
            ("/docs", "/docs"),
            ("//evil.example", "/dashboard"),
            ("https://evil.example/", "/dashboard"),
            ("/\\evil.example", "/dashboard"),
            ("/%2f%2fevil.example", "/dashboard"),
            ("/\r\nSet-Cookie: a=b", "/dashboard"),
            ("javascript:alert(1)", "/dashboard"),
            ("/user@evil.example\\", "/dashboard"),
        ] {
            let ada = Browser::new(&app, "ada");
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("next", next)
                .finish();
            let page = ada.open(&format!("/login?{query}")).await.expect(200);
            let field = format!("name=\"next\" value=\"{lands}\"");
            assert!(page.body.contains(&field), "{next}");
            // Also where it was changed in the form.
            let answer = ada.send_login(&[("next", next)]).await;
            answer.expect_redirect(lands);
            // And for somebody who is signed in already.
            let answer = ada.open(&format!("/login?{query}")).await;
            answer.expect_redirect(lands);
        }
    }
}

#[actix_web::test]
async fn the_front_door_leads_in_or_to_the_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada");
        ada.open("/").await.expect_redirect("/login");
        let ada = ada.log_in().await;
        ada.open("/").await.expect_redirect("/dashboard");
    }
}

#[actix_web::test]
async fn twenty_hours_without_activity_end_the_session() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let bob = Browser::new(&app, "bob").log_in().await;
        app.advance(hours(20) - seconds(1));
        ada.poll().await.expect(200);
        bob.open("/dashboard").await.expect(200);
        app.advance(seconds(1));
        ada.poll().await.expect_over("idle");
        ada.ping(0).await.expect(401);
        bob.poll().await.expect(200);
        // Bob was there an instant before; his hard end comes all the same.
        app.advance(hours(4));
        let page = bob.open("/dashboard?x=1").await;
        assert!(page.clears(SESSION));
        let page = page.expect_redirect("/login?reason=lifetime&next=%2Fdashboard%3Fx%3D1");
        let login = bob.open(page.location()).await.expect(200);
        assert!(login.body.contains("reached its end"));
        let answer = bob.send_login(&[("next", "/dashboard?x=1")]).await;
        answer.expect_redirect("/dashboard?x=1");
    }
}

#[actix_web::test]
async fn a_ping_moves_the_idle_end_and_tells_it() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let start = app.now();
        app.advance(hours(3));
        let answer = ada.ping(0).await.expect(200);
        let body = answer.json();
        assert_eq!(body["status"], 200);
        assert_eq!(
            body["data"],
            json!({
                "last_activity": (start + hours(3)).rfc3339(),
                "idle_expires_at": (start + hours(23)).rfc3339(),
                "session_expires_at": (start + hours(24)).rfc3339(),
            })
        );
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(answer.set_cookies(SESSION).is_empty());
        app.advance(hours(20) - seconds(1));
        ada.poll().await.expect(200);
        app.advance(seconds(1));
        ada.poll().await.expect_over("idle");
    }
}

#[actix_web::test]
async fn a_ping_never_moves_the_hard_end() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let end = app.now() + hours(24);
        for _ in 0..23 {
            app.advance(hours(1));
            let data = ada.ping(0).await.expect(200).json()["data"].clone();
            assert_eq!(data["session_expires_at"], end.rfc3339());
            assert!(data["idle_expires_at"].as_str().unwrap() <= end.rfc3339().as_str());
        }
        app.advance(hours(1) - seconds(1));
        ada.ping(0).await.expect(200);
        ada.open("/dashboard").await.expect(200);
        app.advance(seconds(1));
        ada.ping(0).await.expect_over("lifetime");
    }
}

#[actix_web::test]
async fn a_ping_cannot_say_more_than_the_server_knows() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let start = app.now();
        let last = async |idle: u64| {
            let data = ada.ping(idle).await.expect(200).json()["data"].clone();
            data["last_activity"].as_str().unwrap().to_owned()
        };
        app.advance(hours(2));
        assert_eq!(last(3600).await, (start + hours(1)).rfc3339());
        for older in [3601, 7200, 86400, u64::MAX] {
            assert_eq!(
                last(older).await,
                (start + hours(1)).rfc3339(),
                "never back"
            );
        }
        assert_eq!(last(60).await, (start + hours(2) - seconds(60)).rfc3339());
        assert_eq!(last(0).await, (start + hours(2)).rfc3339());
        app.advance(hours(1));
        assert_eq!(last(3600).await, (start + hours(2)).rfc3339());
        for bad in [
            json!({"idle_seconds": -1}),
            json!({"idle_seconds": "1"}),
            json!([1]),
        ] {
            let request = ada.script(Method::POST, "/api/update-activity").json(&bad);
            ada.send(request).await.expect(422);
        }
        // Without a body: now.
        let request = ada.script(Method::POST, "/api/update-activity");
        let answer = ada.send(request).await.expect(200);
        assert_eq!(answer.json()["data"]["last_activity"], app.now().rfc3339());
    }
}

#[actix_web::test]
async fn a_forgotten_tab_does_not_keep_a_session_alive() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let bob = Browser::new(&app, "bob").log_in().await;
        // Each hour what is not a person: a script, a prefetch, a page that reloads itself, a ping
        // of somebody long gone.
        for hour in 1..20 {
            ada.poll_for(hours(1)).await;
            let page = || bob.bare(Method::GET, "/dashboard");
            let by_itself = [
                page().header("sec-fetch-mode", "cors"),
                page().header("sec-fetch-mode", "navigate"),
                page()
                    .header("sec-fetch-mode", "navigate")
                    .header("sec-fetch-user", "?1")
                    .header("sec-purpose", "prefetch;prerender"),
                page().header("purpose", "prefetch"),
            ];
            for request in by_itself {
                bob.send(request).await.expect(200);
            }
            bob.ping(hour * 3600).await.expect(200);
        }
        app.advance(hours(1));
        ada.poll().await.expect_over("idle");
        let answer = bob.open("/dashboard").await;
        answer.expect_redirect("/login?reason=idle&next=%2Fdashboard");
    }
}

#[actix_web::test]
async fn remember_me_opens_a_new_session_without_a_detour() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let (start, login) = (app.now(), login_id(&ada));
        let first = ada.cookie(REMEMBER).unwrap();
        app.advance(hours(5));
        ada.restart();
        let page = ada.open("/dashboard").await.expect(200);
        assert!(page.body.contains("ada"));
        assert!(
            page.set_cookie(REMEMBER).contains("; Max-Age=25200"),
            "what is left"
        );
        assert_ne!(ada.cookie(REMEMBER).unwrap(), first, "rotated");
        assert_eq!(login_id(&ada), login, "the same login");
        let data = ada.ping(0).await.expect(200).json()["data"].clone();
        assert_eq!(data["session_expires_at"], (start + hours(24)).rfc3339());
        assert_eq!(data["idle_expires_at"], (start + hours(24)).rfc3339());

        // Coming back was activity, so the session outlives the first idle end, but not the hard one.
        app.advance(hours(16));
        ada.open("/dashboard").await.expect(200);
        app.advance(hours(3) - seconds(1));
        ada.poll().await.expect(200);
        app.advance(seconds(1));
        ada.poll().await.expect_over("lifetime");
    }
}

#[actix_web::test]
async fn remember_me_ends_twelve_hours_after_the_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let first = ada.cookie(REMEMBER).unwrap();
        app.advance(hours(12) - seconds(1));
        let bob = Browser::new(&app, "bob").log_in_remembered().await;
        ada.restart();
        ada.open("/dashboard").await.expect(200);
        let second = ada.cookie(REMEMBER).unwrap();
        app.advance(seconds(1));
        ada.poll().await.expect(200);
        bob.poll().await.expect(200);
        // A cookie kept for longer than it should changes nothing.
        for kept in [first, second] {
            let late = Browser::new(&app, "ada");
            late.plant(REMEMBER, &kept);
            let answer = late.open("/dashboard").await;
            assert!(answer.clears(REMEMBER), "{answer:?}");
            answer.expect_redirect("/login?next=%2Fdashboard");
        }
        // The session is alive and goes on.
        ada.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn a_remember_cookie_is_read_only_where_a_page_is_opened_without_a_session() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let kept = ada.cookie(REMEMBER).unwrap();
        ada.open("/dashboard").await.expect(200);
        assert_eq!(
            ada.cookie(REMEMBER).unwrap(),
            kept,
            "not rotated beside a session"
        );
        ada.restart();
        ada.poll().await.expect(401);
        ada.ping(0).await.expect(401);
        assert_eq!(ada.cookie(REMEMBER).unwrap(), kept);
        // The login page does not ask for a password where none is needed.
        let answer = ada.open("/login?next=%2Fdashboard%3Fx").await;
        answer.expect_redirect("/dashboard?x");
        ada.open("/dashboard").await.expect(200);
        // A forged one is thrown away, and is nobody.
        let forged = Browser::new(&app, "ada");
        forged.plant(REMEMBER, &"A".repeat(64));
        let answer = forged.open("/dashboard").await;
        assert!(answer.clears(REMEMBER));
        answer.expect_redirect("/login?next=%2Fdashboard");
    }
}

/// A tab left open knows of the end of its session, and must not be what opens the next.
#[actix_web::test]
async fn a_remember_cookie_is_for_a_person_and_not_for_a_tab_left_open() {
    let settings = [("GAPURA_SESSION_IDLE_TIMEOUT", "1h")];
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, &settings).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let kept = ada.cookie(REMEMBER).unwrap();
        app.advance(hours(1));
        ada.ping(3600).await.expect_over("idle");
        let page = |path: &str| ada.bare(Method::GET, path);
        let load = |path: &str| page(path).header("sec-fetch-mode", "navigate");
        // What it shows anew, and where it goes.
        for request in [
            page("/dashboard").header("sec-fetch-mode", "cors"),
            page("/dashboard").header("purpose", "prefetch"),
        ] {
            let answer = ada.send(request).await;
            answer.expect_redirect("/login?next=%2Fdashboard");
        }
        for reason in ["idle", "", "x"] {
            let path = format!("/login?reason={reason}&next=%2Fdashboard");
            ada.send(load(&path)).await.expect(200);
        }
        let script = page("/login").header("sec-fetch-mode", "cors");
        ada.send(script).await.expect(200);
        assert_eq!(ada.cookie(REMEMBER).unwrap(), kept);
        assert!(ada.cookie(SESSION).is_none());

        // Somebody who is there; a browser that brings its tabs back; and one that tells nothing.
        for (path, request, status) in [
            ("/dashboard", load("/dashboard"), 200),
            ("/dashboard", page("/dashboard"), 200),
            ("/login", load("/login"), 303),
            ("/login", page("/login"), 303),
            (
                "/login?reason=idle",
                load("/login?reason=idle").header("sec-fetch-user", "?1"),
                303,
            ),
        ] {
            // Each with the cookies that it was made with.
            let answer = Answer::of(request).await;
            assert_eq!(answer.status, status, "{path}");
        }
        // By a link of the page that is over.
        ada.open("/dashboard").await.expect(200);
        let tab = ada.copied();
        app.advance(hours(1));
        let answer = tab.open("/dashboard/sessions").await;
        let answer = answer.expect_redirect("/login?reason=idle&next=%2Fdashboard%2Fsessions");
        let answer = tab.open(answer.location()).await;
        answer.expect_redirect("/dashboard/sessions");
    }
}

#[actix_web::test]
async fn six_tabs_restored_at_once_all_open_and_stay() {
    for place in Nodes::ALL {
        let nodes = Nodes::start(place, &[]).await;
        let app = nodes.first();
        let ada = Browser::across(&nodes, "ada").log_in_remembered().await;
        let login = login_id(&ada);
        for _ in 0..nodes.rounds(200) {
            ada.restart();
            for page in ada.open_at_once("/dashboard", 6).await {
                page.expect(200);
            }
            app.advance(seconds(60));
            ada.open("/dashboard").await.expect(200);
            assert_eq!(login_id(&ada), login);
            app.advance(seconds(60));
        }
    }
}

#[actix_web::test]
async fn a_lost_answer_to_a_remember_cookie_costs_nothing() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        ada.restart();
        for _ in 0..3 {
            // The answer never arrives.
            ada.copied().open("/dashboard").await.expect(200);
            app.advance(seconds(60));
        }
        ada.open("/dashboard").await.expect(200);
        app.advance(seconds(60));
        ada.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn a_remember_cookie_used_twice_is_theft_and_ends_the_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        ada.restart();
        let thief = ada.copied();
        ada.open("/dashboard").await.expect(200);
        // Seen in use: from here on the old cookie is a thief's.
        ada.open("/dashboard").await.expect(200);
        app.advance(seconds(11));
        let answer = thief.open("/dashboard").await;
        assert!(answer.clears(REMEMBER));
        let answer = answer.expect_redirect("/login?reason=theft&next=%2Fdashboard");
        assert!(thief.cookie(SESSION).is_none());
        let page = thief.open(answer.location()).await.expect(200);
        assert!(page.body.contains("Someone may have copied this login"));

        // The person's own session has ended too, and they are told why.
        let new = ada.copied();
        ada.ping(0).await.expect_over("theft");
        let answer = new.open("/dashboard").await;
        let answer = answer.expect_redirect("/login?reason=theft&next=%2Fdashboard");
        // The newest cookie is dead as well, and says the same.
        let answer = new.open(answer.location()).await.expect(200);
        assert!(answer.clears(REMEMBER) && answer.body.contains("Someone may have copied"));
    }
}

#[actix_web::test]
async fn logging_out_ends_every_session_of_the_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let phone = Browser::new(&app, "ada").log_in_remembered().await;
        let first = ada.copied();
        ada.restart();
        ada.open("/dashboard").await.expect(200);
        assert_ne!(first.cookie(SESSION), ada.cookie(SESSION));
        let (second, other_tab) = (ada.copied(), ada.copied());

        let answer = ada.log_out().await;
        assert_eq!(answer.header("clear-site-data"), "\"cache\", \"storage\"");
        for name in [SESSION, REMEMBER, "gapura_form"] {
            assert!(answer.clears(name), "{name}");
        }
        answer.expect_redirect("/login?reason=logged_out");
        let page = ada.open("/login?reason=logged_out").await.expect(200);
        assert!(page.body.contains("logged out"));
        assert_eq!(ada.cookie(SESSION), None);
        ada.ping(0).await.expect(401);

        first.poll().await.expect_over("logged_out");
        second.ping(0).await.expect_over("logged_out");
        assert_eq!(activity(&other_tab).await, None, "no key, no session");
        // Nor does the remember cookie that another tab still has.
        for answer in other_tab.open_at_once("/dashboard", 2).await {
            answer.expect_redirect("/login?reason=logged_out&next=%2Fdashboard");
        }
        let answer = other_tab.open("/dashboard").await.expect(303);
        assert!(other_tab.cookie(SESSION).is_none(), "{answer:?}");

        // The other device is none of its business.
        phone.open("/dashboard").await.expect(200);
        phone.restart();
        phone.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn logging_out_needs_the_form_token_and_our_own_page() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let bob = Browser::new(&app, "bob").log_in().await;
        ada.post("/logout", &[("csrf_token", "")]).await.expect(403);
        let token = bob.form_token();
        ada.post("/logout", &[("csrf_token", &token)])
            .await
            .expect(403);
        let request = ada.form(ada.bare(Method::POST, "/logout"), &[]);
        let foreign = request.header("sec-fetch-site", "cross-site");
        ada.send(foreign).await.expect(403);
        for (token, site) in [
            ("", "same-origin"),
            ("x", "same-origin"),
            ("ok", "cross-site"),
        ] {
            let request = ada.bare(Method::POST, "/api/update-activity");
            let token = match token {
                "ok" => ada.form_token(),
                other => other.to_owned(),
            };
            let request = request.header("x-csrf-token", token);
            let answer = ada.send(request.header("sec-fetch-site", site)).await;
            assert_eq!(answer.expect(403).json()["code"], "csrf_failed");
        }
        ada.open("/dashboard").await.expect(200);
    }
}

/// Whoever asks to be logged out where nothing knows the session any more must not find themselves
/// signed in again by the remember cookie.
#[actix_web::test]
async fn logging_out_of_a_dead_session_also_forgets_the_browser() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let key = format!("gapura:activity:{}", login_id(&ada));
        app.app.keystore.delete(&[key.as_str()]).await.unwrap();
        let copy = ada.copied();
        // Another site cannot ask for that.
        let foreign = copy.form(copy.bare(Method::POST, "/logout"), &[]);
        let foreign = foreign.header("sec-fetch-site", "cross-site");
        let answer = Answer::of(foreign).await;
        assert!(!answer.clears(REMEMBER), "{answer:?}");
        let answer = ada.log_out().await.expect(303);
        assert!(answer.clears(REMEMBER) && answer.clears(SESSION));
        ada.open("/dashboard")
            .await
            .expect_redirect("/login?next=%2Fdashboard");
        copy.restart();
        let answer = copy.open("/dashboard").await;
        answer.expect_redirect("/login?reason=logged_out&next=%2Fdashboard");
    }
}

#[actix_web::test]
async fn nothing_under_way_brings_a_session_back_after_its_logout() {
    for place in Nodes::ALL {
        let nodes = Nodes::start(place, &[]).await;
        let mut came_first = 0;
        for round in 0..nodes.rounds(150) {
            let (ended_on, other) = (nodes.next(), nodes.next());
            let ada = Browser::new(ended_on, "ada");
            ada.sign_in(&[("remember", "1")]).await.expect(303);
            let first = ada.copied();
            ada.restart();
            // A session whose first request will save it, and its remember cookie beside.
            ada.open("/dashboard").await.expect(200);
            let slow = ada.copied_to(other);
            // Whoever comes with a remember cookie learns of the end by that.
            let restoring = ada.copied_to([other, ended_on][round % 2]);
            restoring.restart();
            let (out, saved, restored) = join3(
                async {
                    for _ in 0..round % 7 {
                        tokio::task::yield_now().await;
                    }
                    ada.log_out().await
                },
                slow.open_at_once("/dashboard", 3),
                restoring.open_at_once("/dashboard", 3),
            )
            .await;
            out.expect_redirect("/login?reason=logged_out");
            came_first += usize::from(restored.iter().any(|answer| answer.status == 200));
            // Every cookie that anybody was ever given in this login is dead.
            let values = saved.iter().chain(&restored).flat_map(|answer| {
                let lines = answer.set_cookies(SESSION).into_iter();
                lines.filter_map(|line| Some(line.split_once('=')?.1.split(';').next()?.to_owned()))
            });
            let values = values
                .filter(|value| !value.is_empty())
                .chain(first.cookie(SESSION))
                .chain(slow.cookie(SESSION));
            let poll = async |node, value: &str| {
                let thief = Browser::new(node, "ada");
                thief.plant(SESSION, value);
                thief.poll().await
            };
            // Whoever finds a session over deletes it, so that each node is asked of others first.
            let (here, elsewhere): (Vec<_>, Vec<_>) = values
                .enumerate()
                .partition(|(number, _)| (number + round / 2) % 2 == 0);
            for (_, value) in &here {
                poll(ended_on, value).await.expect_over("logged_out");
            }
            for (_, value) in &elsewhere {
                let dead = async || poll(other, value).await.status != 200;
                until(nodes.news_takes(), dead).await;
            }
            for (values, node) in [(&here, other), (&elsewhere, ended_on)] {
                for (_, value) in values {
                    poll(node, value).await.expect_over("logged_out");
                }
            }
            for browser in [slow, restoring] {
                browser.open("/dashboard").await.expect(303);
                browser.open("/dashboard").await.expect(303);
                browser.poll().await.expect(401);
            }
        }
        assert!(came_first > 0, "it never came before the logout");
    }
}

/// The store itself: what a slow request saves under an id that is gone is dropped, in whatever
/// order the two arrive.
#[actix_web::test]
async fn the_keeper_drops_what_is_saved_after_the_end() {
    use actix_session::storage::SessionStore;
    use gapura::session::keeper::Keeper;
    let ttl = actix_web::cookie::time::Duration::hours(1);
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let keeper = Keeper {
            keystore: app.app.keystore.clone(),
            secrets: app.app.secrets.clone(),
            ended: app.app.ended.clone(),
            clock: app.clock.clone(),
            idle_timeout: hours(20),
        };
        let id = session_id(&app, &ada.cookie(SESSION).unwrap());
        let key = || id.clone().try_into().unwrap();
        let state = keeper.load(&key()).await.unwrap().unwrap();
        for round in 0..300 {
            let id = keeper.save(state.clone(), &ttl).await.unwrap();
            let key = || id.as_ref().to_owned().try_into().unwrap();
            let update = keeper.update(key(), state.clone(), &ttl);
            let delete = keeper.delete(&id);
            let (updated, deleted) = match round % 2 {
                0 => join(update, delete).await,
                _ => {
                    let (deleted, updated) = join(delete, update).await;
                    (updated, deleted)
                }
            };
            assert_eq!(updated.unwrap().as_ref(), id.as_ref(), "never another id");
            deleted.unwrap();
            let loaded = keeper.load(&key()).await.unwrap().unwrap();
            assert!(!loaded.contains_key("record"), "gone");
        }
        assert!(
            keeper
                .load(&key())
                .await
                .unwrap()
                .unwrap()
                .contains_key("record")
        );
    }
}

#[actix_web::test]
async fn the_activity_key_is_unix_seconds_for_the_idle_timeout() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        assert_eq!(activity(&ada).await, Some(app.now().seconds().to_string()));
        app.advance(hours(6));
        ada.ping(0).await.expect(200);
        assert_eq!(activity(&ada).await, Some(app.now().seconds().to_string()));
        if let Some(mut redis) = redis(&app).await {
            let key = format!("gapura:activity:{}", login_id(&ada));
            let ttl = async |redis: &mut redis::aio::MultiplexedConnection| {
                let ttl = redis::cmd("TTL").arg(&key).query_async::<i64>(redis).await;
                ttl.unwrap()
            };
            let after_ping = ttl(&mut redis).await;
            assert!((72000 - 20..=72000).contains(&after_ping), "{after_ping}");
            ada.restart();
            ada.open("/dashboard").await.expect(200);
            let after_restoring = ttl(&mut redis).await;
            assert!(
                (72000 - 20..=72000).contains(&after_restoring),
                "{after_restoring}"
            );
        }
    }
}

/// As a program of another release may leave it.
#[actix_web::test]
async fn a_session_that_cannot_be_read_is_over_and_no_error_of_ours() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let (keystore, hour) = (&app.app.keystore, Duration::from_secs(3600));
        let index = format!("gapura:sessions:{}", login_id(&ada));
        let [listed] = keystore.get([index.as_str()]).await.unwrap();
        let key = listed.unwrap().trim().to_owned();
        let [kept] = keystore.get([key.as_str()]).await.unwrap();
        let kept = kept.unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&kept).unwrap();
        record.as_object_mut().unwrap().remove("username").unwrap();
        let replaced = keystore.replace(&key, &record.to_string(), hour).await;
        assert!(replaced.unwrap());
        let over = ada.ping(0).await.expect(419);
        assert_eq!(over.json()["reason"], "revoked");
        assert!(!over.clears(SESSION), "where it was written it may go on");
        keystore.replace(&key, &kept, hour).await.unwrap();
        ada.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn deleting_the_activity_key_logs_the_browser_out() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let id = login_id(&ada);
        let key = format!("gapura:activity:{id}");
        match redis(&app).await {
            Some(mut redis) => {
                let mut delete = redis::cmd("DEL");
                let deleted: i64 = delete.arg(&key).query_async(&mut redis).await.unwrap();
                assert_eq!(deleted, 1);
            }
            None => app.app.keystore.delete(&[key.as_str()]).await.unwrap(),
        }
        let tab = ada.copied();
        // Activity does not make the key anew.
        ada.ping(0).await.expect_over("idle");
        assert_eq!(activity(&tab).await, None);
        let answer = tab.open("/dashboard").await;
        answer.expect_redirect("/login?reason=idle&next=%2Fdashboard");
        // The login is over with it.
        let login = app.app.db.read(move |conn| gapura::login::by_id(conn, &id));
        let login = login.await.unwrap().unwrap();
        assert_eq!(login.ended_cause.as_deref(), Some("idle"));
    }
}

/// A session cookie of that id, as only the server can make one.
fn encrypted(app: &TestApp, id: &str) -> String {
    let mut jar = CookieJar::new();
    jar.private_mut(&app.app.secrets.cookie)
        .add(Cookie::new(SESSION, id.to_owned()));
    let cookie = jar.delta().next().unwrap().encoded().to_string();
    cookie.split_once('=').unwrap().1.to_owned()
}

#[actix_web::test]
async fn a_flushed_redis_ends_sessions_and_revives_nothing() {
    let app = TestApp::start(Backend::Shared).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    let bob = Browser::new(&app, "bob").log_in_remembered().await;
    let root = Browser::new(&app, "root").log_in_remembered().await;
    let gone = root.copied();
    root.log_out().await.expect(303);
    let mut redis = redis(&app).await.unwrap();
    redis::cmd("FLUSHDB")
        .query_async::<()>(&mut redis)
        .await
        .unwrap();
    let copy = ada.copied();
    ada.ping(0).await.expect_over("idle");
    copy.open("/dashboard")
        .await
        .expect_redirect("/login?reason=idle&next=%2Fdashboard");
    gone.poll().await.expect_over("logged_out");
    gone.open("/dashboard")
        .await
        .expect_redirect("/login?reason=logged_out&next=%2Fdashboard");
    // Who is remembered comes back without a password, in the same login.
    let old = bob.copied();
    let login = login_id(&bob);
    bob.poll().await.expect_over("idle");
    bob.open("/dashboard").await.expect(200);
    assert_eq!(login_id(&bob), login);
    old.poll().await.expect(419);
    bob.open("/dashboard").await.expect(200);
    assert_eq!(copy.open("/dashboard").await.status, 303);
}

/// Activity keys are of the login: a session that was over must not live again because the person
/// came back through the remember cookie.
#[actix_web::test]
async fn coming_back_by_remember_me_does_not_revive_an_idle_session() {
    let settings = [("GAPURA_SESSION_IDLE_TIMEOUT", "1h")];
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, &settings).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let thief = ada.copied();
        thief.drop_cookie(REMEMBER);
        app.advance(hours(1));
        ada.restart();
        ada.open("/dashboard").await.expect(200);
        ada.open("/dashboard").await.expect(200);
        thief.poll().await.expect(419);
        ada.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn a_dead_session_is_told_before_a_missing_token() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let (page, form) = (ada.copied(), ada.copied());
        app.advance(hours(20));
        let request = ada.bare(Method::POST, "/api/update-activity");
        let answer = ada.send(request).await.expect_over("idle");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.header("cache-control"), "no-store");
        let problem = answer.json();
        assert_eq!(problem["status"], 419);
        assert_eq!(problem["detail"], problem["message"]);
        assert_eq!(problem["request_id"], answer.header("x-request-id"));
        let answer = page.open("/dashboard").await;
        assert!(answer.clears(SESSION));
        answer.expect_redirect("/login?reason=idle&next=%2Fdashboard");
        let request = form.form(form.bare(Method::POST, "/logout"), &[("csrf_token", "")]);
        let referer = format!("{}/dashboard?tab=2", form.origin());
        let answer = form.send(request.header("referer", referer)).await;
        assert!(answer.clears(SESSION));
        answer.expect_redirect("/login?reason=idle&next=%2Fdashboard%3Ftab%3D2");
        // There never was one: 401.
        ada.ping(0).await.expect(401);
    }
}

#[actix_web::test]
async fn a_dead_cookie_does_not_stand_in_the_way_of_a_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let other_tab = Browser::new(&app, "ada");
        other_tab.open("/login").await.expect(200);
        other_tab.plant(SESSION, &ada.cookie(SESSION).unwrap());
        app.advance(hours(20));
        // The page was open all the while; the dead cookie comes with the form.
        other_tab
            .send_login(&[])
            .await
            .expect_redirect("/dashboard");
        assert_ne!(other_tab.cookie(SESSION), ada.cookie(SESSION));
        other_tab.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn a_login_gets_a_new_id_and_ends_the_one_before_it_in_this_browser() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        // A thief who plants their own session gains nothing from the login that follows.
        let thief = Browser::new(&app, "bob").log_in().await;
        let planted = thief.cookie(SESSION).unwrap();
        let ada = Browser::new(&app, "ada");
        ada.open("/login").await.expect(200);
        ada.plant(SESSION, &planted);
        ada.send_login(&[]).await.expect(303);
        assert_ne!(ada.cookie(SESSION).unwrap(), planted);
        let page = ada.open("/dashboard").await.expect(200);
        assert!(page.body.contains(">ada<"), "{}", page.body);
        thief.poll().await.expect_over("logged_out");

        // And a login that this browser was only remembered by ends with the next one, too.
        let bob = Browser::new(&app, "bob").log_in_remembered().await;
        let copy = bob.copied();
        bob.restart();
        bob.drop_cookie("gapura_form");
        let form = Browser::new(&app, "ada");
        form.open("/login").await;
        form.plant(REMEMBER, &bob.cookie(REMEMBER).unwrap());
        let answer = form.send_login(&[]).await.expect(303);
        assert!(answer.clears(REMEMBER));
        copy.poll().await.expect_over("logged_out");
    }
}

#[actix_web::test]
async fn a_cookie_that_is_not_ours_never_signs_anybody_in() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let genuine = ada.cookie(SESSION).unwrap();
        let id = session_id(&app, &genuine);
        let (login, _) = id.split_once('.').unwrap();
        let stored = app.app.secrets.session_id_hash(&id);
        let stored = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, stored);
        let mut bent = genuine.clone().into_bytes();
        let last = bent.len() - 6;
        bent[last] = if bent[last] == b'A' { b'B' } else { b'A' };
        let bent = String::from_utf8(bent).unwrap();
        for value in [
            "",
            "x",
            login,
            id.as_str(),
            stored.as_str(),
            bent.as_str(),
            "null",
            "{}",
        ] {
            let planted = Browser::new(&app, "ada");
            planted.plant(SESSION, value);
            planted.poll().await.expect(401);
            planted
                .open("/dashboard")
                .await
                .expect_redirect("/login?next=%2Fdashboard");
        }
        // Even one with a genuine seal, for a session that never was.
        for id in [
            format!("{login}.{}", "A".repeat(43)),
            format!("{login}."),
            stored.clone(),
            format!("{}.{}", gapura::id::new(app.now()), "A".repeat(43)),
            "x.y".to_owned(),
            format!("gapura:session:{stored}"),
        ] {
            let planted = Browser::new(&app, "ada");
            planted.plant(SESSION, &encrypted(&app, &id));
            let answer = planted.poll().await;
            assert!([401, 419].contains(&answer.status), "{id}: {answer:?}");
        }
        // Guessing did not harm the one whose login's id was used.
        ada.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn of_two_session_cookies_a_planted_one_never_wins() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let eve = Browser::new(&app, "bob").log_in_remembered().await;
        let who = async |cookies: String| {
            let request = app.http.get(format!("{}/api/v1/me", app.url));
            let answer = Answer::of(request.header("cookie", cookies)).await;
            match answer.status {
                200 => answer.json()["data"]["username"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
                status => status.to_string(),
            }
        };
        let (own, planted) = (ada.cookie(SESSION).unwrap(), eve.cookie(SESSION).unwrap());
        let pair = |a: &str, b: &str| format!("{SESSION}={a}; {SESSION}={b}");
        assert_eq!(who(pair(&own, "x")).await, "ada", "rubbish does not count");
        assert_eq!(who(pair("x", &own)).await, "ada");
        assert_eq!(who(pair(&own, &own)).await, "ada");
        // Nobody can tell which of the two this browser was given: neither counts.
        assert_eq!(who(pair(&own, &planted)).await, "401");
        assert_eq!(who(pair(&planted, &own)).await, "401");

        let (own, planted) = (ada.cookie(REMEMBER).unwrap(), eve.cookie(REMEMBER).unwrap());
        for (a, b) in [(&own, &planted), (&planted, &own)] {
            let request = app.http.get(format!("{}/dashboard", app.url));
            let cookies = format!("{REMEMBER}={a}; {REMEMBER}={b}");
            let answer = Answer::of(request.header("cookie", cookies)).await;
            answer.expect_redirect("/login?next=%2Fdashboard");
        }
    }
}

#[actix_web::test]
async fn what_is_stored_cannot_be_used() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        ada.restart();
        let restored = ada.open("/dashboard").await.expect(200);
        let pair = app.log_in("ada").await;
        let next = app.refresh(&pair).await;
        let dump_before_use = dump(&app).await;
        ada.ping(0).await.expect(200);
        let dump = dump_before_use + &dump(&app).await;
        let (session, remember) = (ada.cookie(SESSION).unwrap(), ada.cookie(REMEMBER).unwrap());
        let id = session_id(&app, &session);
        assert!(dump.contains(&login_id(&ada)), "the dump is one");
        let secrets = [
            session.as_str(),
            id.as_str(),
            id.split_once('.').unwrap().1,
            remember.as_str(),
            // The MAC alone, in case the id before it stood apart.
            &remember[MAC_AT..],
            &restored.form_token().unwrap(),
            TestApp::PASSWORD,
            &pair.refresh,
            &pair.refresh[MAC_AT..],
            &pair.access,
            pair.access.rsplit_once('.').unwrap().1,
            &next.refresh,
            &next.refresh[MAC_AT..],
            &next.access,
        ];
        for (index, secret) in secrets.iter().enumerate() {
            assert!(!dump.contains(secret), "secret {index} is stored");
        }
        for (index, (secret, from)) in [
            (id.split_once('.').unwrap().1, 0),
            (&remember, ID_BYTES),
            (&pair.refresh, ID_BYTES),
            (&next.refresh, ID_BYTES),
        ]
        .into_iter()
        .enumerate()
        {
            let hex = hex(&BASE64_URL_SAFE_NO_PAD.decode(secret).unwrap()[from..]);
            assert!(!dump.contains(&hex), "secret {index} is stored as bytes");
        }
        // Whatever text is stored, presented as either cookie or as a token, is nobody.
        let words = dump.split(|c: char| !c.is_ascii_alphanumeric() && !"-_.=".contains(c));
        let mut words: Vec<&str> = words
            .filter(|word| (20..=4096).contains(&word.len()))
            .collect();
        words.sort_unstable();
        words.dedup();
        for chunk in words.chunks(64) {
            let tries = chunk.iter().map(async |word| {
                let request = app.http.get(format!("{}/dashboard", app.url));
                let cookies = format!("{SESSION}={word}; {REMEMBER}={word}");
                let answer = Answer::of(request.header("cookie", cookies)).await;
                answer.expect(303);
                assert_eq!(app.me(word).await.status(), 401, "{word}");
                assert_eq!(app.present(word).await.status(), 401, "{word}");
            });
            join_all(tries).await;
        }
        ada.open("/dashboard").await.expect(200);
    }
}

/// The bytes of a rotating token's id, which is stored; a MAC, which is not, follows.
const ID_BYTES: usize = 22;
/// From here on the text of such a token is of the MAC alone.
const MAC_AT: usize = 30;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every bit of them is sometimes set and sometimes not.
fn vary(samples: &[Vec<u8>]) {
    let (first, others) = samples.split_first().expect("samples");
    for (index, byte) in first.iter().enumerate() {
        let varied = others.iter().fold(0, |seen, it| seen | (it[index] ^ byte));
        assert_eq!(varied, 0xff, "byte {index}");
    }
}

#[actix_web::test]
async fn ids_and_tokens_are_as_random_as_they_are_long() {
    let app = TestApp::start_with(Backend::Embedded, &[("GAPURA_RATE_LIMITS", "off")]).await;
    let ada = Browser::new(&app, "ada").log_in_remembered().await;
    let (mut sessions, mut remembered, mut refreshed) = (Vec::new(), Vec::new(), Vec::new());
    // By chance a bit is the same in all of them once in 2^47.
    for _ in 0..48 {
        ada.restart();
        ada.open("/dashboard").await.expect(200);
        ada.open("/dashboard").await.expect(200);
        let id = session_id(&app, &ada.cookie(SESSION).unwrap());
        sessions.push(id.split_once('.').unwrap().1.to_owned());
        remembered.push(ada.cookie(REMEMBER).unwrap());
        refreshed.push(app.begin_login("ada").await.refresh);
    }
    for (texts, bytes, time) in [
        (sessions, 32, 0),
        (remembered, ID_BYTES + 32, 6),
        (refreshed, ID_BYTES + 32, 6),
    ] {
        let decoded = texts
            .iter()
            .map(|text| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap());
        let random: Vec<Vec<u8>> = decoded
            .inspect(|it| assert_eq!(it.len(), bytes))
            .map(|it| it[time..].to_vec())
            .collect();
        vary(&random);
    }
}

/// Everything that an installation has stored, as text, and the bytes of files in hexadecimal besides.
pub async fn dump(app: &TestApp) -> String {
    let mut text = String::new();
    if let Some(mut redis) = redis(app).await {
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut redis)
            .await
            .unwrap();
        assert!(keys.iter().any(|key| key.starts_with("gapura:session:")));
        for key in keys {
            let value: String = redis::cmd("GET")
                .arg(&key)
                .query_async(&mut redis)
                .await
                .unwrap();
            text.push_str(&format!("{key} {value}\n"));
        }
        let bin = std::env::var("GAPURA_TEST_POSTGRES_BIN").unwrap();
        let dump = std::process::Command::new(format!("{bin}/pg_dump"))
            .arg("--data-only")
            .arg(app.installation.database_url())
            .output()
            .unwrap();
        assert!(dump.status.success(), "{dump:?}");
        text.push_str(&String::from_utf8_lossy(&dump.stdout));
    } else {
        let Keystore::Embedded(store) = &app.app.keystore else {
            panic!("no Redis, no embedded store");
        };
        store.flush().await.unwrap();
        for file in std::fs::read_dir(app.installation.dir().join("data")).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().is_some_and(|name| name != "app.key") {
                let bytes = std::fs::read(path).unwrap();
                text.push_str(&String::from_utf8_lossy(&bytes));
                text.push_str(&format!("\n{}\n", hex(&bytes)));
            }
        }
    }
    text
}

#[actix_web::test]
async fn pages_are_not_kept_and_run_nothing_of_others() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada");
        let login = ada.open("/login").await.expect(200);
        let refused = ada
            .send_login(&[("password", "not this one")])
            .await
            .expect(401);
        let missing = ada.open("/nowhere").await.expect(404);
        let ada = ada.log_in().await;
        let dashboard = ada.open("/dashboard").await.expect(200);
        let stranger = Answer::of(app.call(Method::GET, "/api/v1/me")).await;
        let data = [
            stranger.expect(401),
            ada.poll().await.expect(200),
            ada.open("/healthz").await.expect(200),
        ];
        for answer in [&login, &refused, &missing, &dashboard]
            .into_iter()
            .chain(&data)
        {
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "same-origin"),
                ("cross-origin-resource-policy", "same-origin"),
            ] {
                assert_eq!(answer.header(name), value);
            }
        }
        for page in [login, refused, missing, dashboard] {
            assert_eq!(page.header("cross-origin-opener-policy"), "same-origin");
            assert_eq!(page.header("x-permitted-cross-domain-policies"), "none");
            assert!(page.header("permissions-policy").contains("camera=()"));
            assert_eq!(page.header("cache-control"), "no-store");
            assert!(
                page.header("strict-transport-security").is_empty(),
                "not under http"
            );
            let policy = page.header("content-security-policy");
            for part in [
                "default-src 'none'",
                "frame-ancestors 'none'",
                "base-uri 'none'",
                "form-action 'self'",
            ] {
                assert!(policy.contains(part), "{policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            let body = page.body.replace("<style>", "style=");
            for inline in [
                " style=",
                " onclick=",
                " onload=",
                "<script>",
                "javascript:",
            ] {
                assert!(!body.contains(inline), "{inline} would not run: {body}");
            }
        }
    }
}

#[actix_web::test]
async fn pages_speak_the_language_of_the_person() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada");
        for (accepts, speaks) in [
            ("id", "id"),
            ("id-ID,id;q=0.9,en;q=0.8", "id"),
            ("en;q=0.3,id;q=0.7", "id"),
            ("fr,de", "en"),
            ("en-GB,id;q=0.9", "en"),
            ("id;q=0", "en"),
            ("", "en"),
        ] {
            let request = ada
                .bare(Method::GET, "/login")
                .header("accept-language", accepts);
            let page = Answer::of(request).await.expect(200);
            let lang = format!("<html lang=\"{speaks}\"");
            assert!(page.body.contains(&lang), "{accepts}");
        }
        let page = ada.open("/login?lang=id").await.expect(200);
        assert!(page.body.contains("<html lang=\"id\""));
        // Remembered, also for the refusal and beyond the login.
        let refused = ada
            .send_login(&[("password", "not this one")])
            .await
            .expect(401);
        assert!(refused.body.contains("<html lang=\"id\""));
        let ada = ada.log_in().await;
        let page = ada.open("/dashboard").await;
        assert!(page.body.contains("<html lang=\"id\""));
        let page = ada.open("/dashboard?lang=en").await;
        assert!(page.body.contains("<html lang=\"en\""));
        let page = ada.open("/dashboard?lang=xx").await;
        assert!(page.body.contains("<html lang=\"en\""));
    }
}

#[actix_web::test]
async fn a_last_activity_outlives_its_key() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        app.advance(hours(3));
        ada.ping(0).await.expect(200);
        let id = login_id(&ada);
        let at = gapura::clock::Timestamp::from_seconds(app.now().seconds());
        soon("the database knows of the ping", || {
            let (db, id) = (app.app.db.clone(), id.clone());
            async move {
                let login = db.read(move |conn| gapura::login::by_id(conn, &id)).await;
                login.unwrap().unwrap().last_activity_at == at
            }
        })
        .await;
    }
}

#[actix_web::test]
async fn a_login_under_way_does_not_outlive_the_disabling_of_its_user() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let mut signed_in = 0;
        for round in 0..40 {
            let name = format!("eve{round}");
            let eve = app.add_user(&name, gapura::account::Role::User).await;
            let browser = Browser::new(&app, &name);
            browser.open("/login").await.expect(200);
            let (answer, ()) = join(browser.send_login(&[("remember", "1")]), async {
                // Somewhere in the middle of the login, wherever this machine is by then.
                tokio::time::sleep(Duration::from_millis(round * 2)).await;
                let (id, now) = (eve.id.clone(), app.now());
                let disable = app.app.db.write(move |conn| {
                    gapura::account::set_disabled(conn, &id, Some(now))?;
                    gapura::login::end_all_of(
                        conn,
                        &id,
                        gapura::login::Cause::Revoked,
                        None,
                        None,
                        now,
                    )
                });
                disable.await.unwrap();
            })
            .await;
            signed_in += usize::from(answer.status == 303);
            assert!([303, 401, 403].contains(&answer.status), "{answer:?}");
            let id = eve.id.clone();
            let now = app.now();
            let living = app.app.db.write(move |conn| {
                gapura::login::end_all_of(conn, &id, gapura::login::Cause::Revoked, None, None, now)
            });
            assert!(living.await.unwrap().is_empty(), "round {round}");
        }
        assert!(signed_in < 40, "no login was under way");
    }
}

#[actix_web::test]
async fn a_session_that_cannot_be_written_is_an_outage() {
    use diesel::connection::SimpleConnection;
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada");
    ada.open("/login").await.expect(200);
    let full =
        "CREATE TRIGGER full BEFORE INSERT ON keystore BEGIN SELECT RAISE(ABORT, 'full'); END";
    let fill = app.app.db.write(move |conn| conn.batch_execute(full));
    fill.await.unwrap();
    let answer = ada.send_login(&[]).await.expect(503);
    assert!(answer.set_cookies(SESSION).is_empty());
    assert!(!answer.header("retry-after").is_empty());
    assert!(!answer.header("x-request-id").is_empty());
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(!answer.body.contains("full"), "nothing internal is told");
    let empty = app
        .app
        .db
        .write(|conn| conn.batch_execute("DROP TRIGGER full"));
    empty.await.unwrap();
    ada.open("/login").await.expect(200);
    ada.send_login(&[]).await.expect(303);
    ada.open("/dashboard").await.expect(200);
}
