//! A password asked for in between, before something that would last. Told of the form and the route
//! that make a personal token.

use std::time::Duration;

use gapura::account;
use gapura::audit;
use reqwest::Method;
use serde_json::{Value, json};

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};

const TOKENS: &str = "/dashboard/tokens";
const LATER: Duration = Duration::from_secs(11 * 60);

/// The form as it comes from its page, with `more` in it.
async fn make(browser: &Browser<'_>, more: &[(&str, &str)]) -> Answer {
    let request = browser
        .bare(Method::POST, TOKENS)
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-user", "?1")
        .header("sec-fetch-site", "same-origin")
        .header("origin", browser.origin())
        .header("referer", format!("{}{TOKENS}", browser.origin()));
    let id = gapura::id::new(browser.app.now()).to_string();
    let mut fields = vec![
        ("id", id.as_str()),
        ("name", "nightly \"backup\" <b>"),
        ("scopes", "profile:read"),
        ("scopes", "sessions:read"),
        ("expires_in_days", "30"),
    ];
    fields.extend_from_slice(more);
    browser.send(browser.form(request, &fields)).await
}

/// The names of the tokens that there are.
async fn made(browser: &Browser<'_>) -> Vec<String> {
    let list = browser
        .send(browser.script(Method::GET, "/api/v1/tokens"))
        .await;
    let list = list.expect(200).json();
    let names = list["data"].as_array().unwrap().iter();
    names
        .map(|token| token["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn failures(app: &TestApp) -> usize {
    let read = app.app.db.read(|conn| {
        let user = account::by_login_name(conn, "ada")?.expect("ada");
        audit::page(conn, &audit::Filter::of_user(&user.id), None, 100)
    });
    let events = read.await.unwrap();
    events
        .iter()
        .filter(|event| event.kind == "login_failed")
        .count()
}

#[actix_web::test]
async fn shortly_after_the_login_nobody_is_asked() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    app.advance(Duration::from_secs(9 * 60 + 59));
    assert_ne!(make(&ada, &[]).await.status, 403);
    assert_eq!(made(&ada).await.len(), 1);
    app.advance(Duration::from_secs(2));
    make(&ada, &[]).await.expect(403);
}

#[actix_web::test]
async fn later_the_password_is_asked_for_and_the_form_goes_on() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        app.advance(LATER);
        let page = make(&ada, &[("password", "typed by mistake")])
            .await
            .expect(403);
        assert!(page.body.contains("Please confirm") && page.header("cache-control") == "no-store");
        for echoed in [
            "name=\"name\" value=\"nightly &#34;backup&#34; &#60;b&#62;\"",
            "name=\"scopes\" value=\"profile:read\"",
            "name=\"scopes\" value=\"sessions:read\"",
            "name=\"expires_in_days\" value=\"30\"",
            "action=\"/dashboard/tokens\"",
            "autocomplete=\"current-password\"",
            "href=\"/dashboard/tokens\"",
        ] {
            assert!(page.body.contains(echoed), "{echoed}: {}", page.body);
        }
        assert!(
            !page.body.contains("typed by mistake"),
            "no secret comes back"
        );
        assert_eq!(page.body.matches("name=\"csrf_token\"").count(), 3);
        assert!(made(&ada).await.is_empty(), "nothing is done before");

        // Wrong, and so a failed login; the way back is still the page it came from.
        let wrong = [
            ("current_password", "not it at all"),
            ("confirm_back", "/dashboard/tokens?x=1"),
        ];
        let page = make(&ada, &wrong).await.expect(403);
        assert!(page.body.contains("not your current password"));
        assert!(
            page.body.contains("href=\"/dashboard/tokens?x=1\"")
                && !page.body.contains("not it at all")
        );
        assert_eq!(failures(&app).await, 1);
        let astray = [("confirm_back", "https://evil.example")];
        let page = make(&ada, &astray).await.expect(403);
        assert!(!page.body.contains("evil.example"));
        assert!(made(&ada).await.is_empty());

        // Right: done, under a new session id, and the forms of other tabs go on.
        let (before, token) = (ada.copied(), ada.form_token());
        let answer = make(&ada, &[("current_password", TestApp::PASSWORD)]).await;
        assert_ne!(answer.status, 403, "{}", answer.body);
        assert_eq!(made(&ada).await.len(), 1);
        assert_eq!(before.poll().await.status, 419, "the old id is dead");
        ada.open("/dashboard").await.expect(200);
        assert_eq!(ada.form_token(), token);
        assert_ne!(make(&ada, &[]).await.status, 403, "fresh now");
        // Another browser of the same person is not.
        let phone = Browser::new(&app, "ada").log_in().await;
        app.advance(LATER);
        make(&phone, &[]).await.expect(403);
    }
}

#[actix_web::test]
async fn too_many_wrong_passwords_are_told_calmly_and_the_form_is_kept() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    app.advance(LATER);
    for _ in 0..5 {
        make(&ada, &[("current_password", "not it at all")])
            .await
            .expect(403);
    }
    let page = make(&ada, &[("current_password", TestApp::PASSWORD)])
        .await
        .expect(429);
    assert!(page.body.contains("Too many attempts. Try again in"));
    assert!(page.body.contains("name=\"expires_in_days\" value=\"30\""));
    assert!(page.header("retry-after").parse::<u64>().unwrap() > 0);
    assert!(made(&ada).await.is_empty());
    // An empty one is none, and costs nothing.
    make(&ada, &[("current_password", "")]).await.expect(403);
    app.advance(Duration::from_secs(61));
    assert_ne!(
        make(&ada, &[("current_password", TestApp::PASSWORD)])
            .await
            .status,
        403
    );
}

#[actix_web::test]
async fn a_clock_set_back_makes_no_old_password_fresh() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    let then = app.now();
    app.clock.set(then - Duration::from_secs(3600));
    make(&ada, &[]).await.expect(403);
}

#[actix_web::test]
async fn a_form_of_another_site_is_refused_before_a_password_is_asked_for() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    app.advance(LATER);
    let page = make(&ada, &[("csrf_token", "forged")]).await.expect(403);
    assert!(!page.body.contains("current_password"));
}

#[actix_web::test]
async fn the_api_asks_for_the_password_in_the_body() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let body = json!({"username": "ada", "password": TestApp::PASSWORD});
        let pair: Value = app
            .post_json("/api/v1/auth/token", &body)
            .await
            .json()
            .await
            .unwrap();
        let access = pair["data"]["access_token"].as_str().unwrap();
        app.advance(LATER);
        let url = format!("{}/api/v1/tokens", app.url);
        let ask = async |password: Option<&str>| {
            let mut body = json!({"name": "backup"});
            if let Some(password) = password {
                body["current_password"] = json!(password);
            }
            let by_session = ada.script(Method::POST, "/api/v1/tokens").json(&body);
            let by_bearer = app.http.post(&url).bearer_auth(access).json(&body);
            [ada.send(by_session).await, Answer::of(by_bearer).await]
        };
        for answer in ask(None).await {
            assert_eq!(
                answer.expect(403).json()["code"],
                "reauthentication_required"
            );
        }
        for answer in ask(Some("not it at all")).await {
            assert!(answer.expect(422).json()["errors"]["current_password"].is_array());
        }
        assert_eq!(failures(&app).await, 2);
        for answer in ask(Some(TestApp::PASSWORD)).await {
            answer.expect(201);
        }
        // The session is fresh from then on; the access token is as old as it was.
        let [by_session, by_bearer] = ask(None).await;
        by_session.expect(201);
        by_bearer.expect(403);
    }
}
