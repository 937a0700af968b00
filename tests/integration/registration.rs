//! Signing up, where it is open.

use std::time::Duration;

use futures_util::future::join_all;
use gapura::account;
use gapura::audit;
use reqwest::Method;
use serde_json::{Value, json};

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};

const OPEN: &[(&str, &str)] = &[("GAPURA_REGISTRATION", "open")];
const PASSWORD: &str = "velvet otters paint the harbour";
const API: &str = "/api/v1/auth/register";

fn grace() -> Vec<(&'static str, &'static str)> {
    vec![
        ("username", "grace"),
        ("email", "grace@example.org"),
        ("name", "Grace Hopper"),
        ("password", PASSWORD),
        ("next", "/dashboard/sessions"),
    ]
}

fn with<'a>(field: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut form = grace();
    form.retain(|(name, _)| *name != field);
    form.push((field, value));
    form
}

async fn register(app: &TestApp, body: &Value) -> Answer {
    Answer::of(app.http.post(format!("{}{API}", app.url)).json(body)).await
}

fn body(username: &str, email: &str) -> Value {
    json!({"username": username, "email": email, "name": "Grace Hopper", "password": PASSWORD})
}

#[actix_web::test]
async fn signing_up_signs_in_and_goes_on() {
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, OPEN).await;
        let grace_ = Browser::new(&app, "grace");
        let page = grace_
            .open("/login?next=%2Fdashboard%2Fsessions")
            .await
            .expect(200);
        assert!(
            page.body
                .contains("href=\"/register?next=/dashboard/sessions\"")
                || page
                    .body
                    .contains("href=\"/register?next=%2Fdashboard%2Fsessions\""),
            "{}",
            page.body
        );
        grace_
            .open("/register?next=%2Fdashboard%2Fsessions")
            .await
            .expect(200);
        grace_
            .post("/register", &grace())
            .await
            .expect_redirect("/dashboard/sessions");
        let page = grace_.open("/dashboard").await.expect(200);
        assert!(page.body.contains("Grace Hopper"));
        grace_.open("/register").await.expect_redirect("/dashboard");
        let events = app.app.db.read(|conn| {
            let user = account::by_login_name(conn, "grace@example.org")?.expect("a person");
            assert_eq!((user.role.as_str(), user.email_verified), ("user", false));
            audit::page(conn, &audit::Filter::of_user(&user.id), None, 10)
        });
        let events = events.await.unwrap();
        let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["login", "user_created"]);
        grace_.log_out().await.expect(303);
        grace_.sign_in(&[("password", PASSWORD)]).await.expect(303);
    }
}

#[actix_web::test]
async fn while_closed_there_is_nothing_there() {
    let app = TestApp::start(Backend::Embedded).await;
    let grace_ = Browser::new(&app, "grace");
    let page = grace_.open("/login").await.expect(200);
    assert!(!page.body.contains("/register"));
    grace_.open("/register").await.expect(404);
    grace_.post("/register", &grace()).await.expect(404);
    register(&app, &body("grace", "grace@example.org"))
        .await
        .expect(404);
    register(&app, &json!([])).await.expect(404);
    let strength = grace_.script(Method::POST, "/api/password-strength");
    grace_
        .send(strength.json(&json!({"password": PASSWORD})))
        .await
        .expect(401);
}

#[actix_web::test]
async fn what_is_wrong_is_told_beside_the_field_and_what_was_typed_is_kept_but_the_password() {
    let app = TestApp::start_with(Backend::Embedded, OPEN).await;
    let grace_ = Browser::new(&app, "grace");
    grace_.open("/register").await.expect(200);
    for (field, value, status, told) in [
        ("username", "g", 422, "3 to 64"),
        ("username", "grace@example", 422, "3 to 64"),
        ("username", "ADA", 409, "username already"),
        ("email", "nowhere", 422, "not an email address"),
        (
            "email",
            "Ada@Example.org",
            409,
            "account with this address already",
        ),
        ("name", " ", 422, "1 to 100"),
        ("password", "short", 422, "at least 12"),
        ("password", "gracehopper1", 422, "easy to guess"),
    ] {
        let page = grace_
            .post("/register", &with(field, value))
            .await
            .expect(status);
        assert!(page.body.contains(told), "{told}: {}", page.body);
        assert!(page.body.contains("aria-invalid=\"true\""));
        assert!(
            !page.body.contains(PASSWORD) && page.body.contains("value=\"/dashboard/sessions\"")
        );
        if field != "name" {
            assert!(page.body.contains("value=\"Grace Hopper\""));
        }
    }
    grace_
        .post("/register", &with("csrf_token", "forged"))
        .await
        .expect(403);
    let foreign = grace_
        .bare(Method::POST, "/register")
        .header("sec-fetch-site", "cross-site");
    grace_
        .send(grace_.form(foreign, &grace()))
        .await
        .expect(403);
    let evil = with("next", "//evil.example");
    grace_
        .post("/register", &evil)
        .await
        .expect_redirect("/dashboard");
}

#[actix_web::test]
async fn a_program_signs_up_and_holds_its_tokens() {
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, OPEN).await;
        let answer = register(&app, &body("Grace", "grace@example.org"))
            .await
            .expect(201);
        let answer = answer.json();
        assert_eq!(answer["status"], 201);
        assert_eq!(answer["data"]["user"]["username"], "grace");
        let token = answer["data"]["access_token"].as_str().unwrap();
        let me = app
            .http
            .get(format!("{}/api/v1/me", app.url))
            .bearer_auth(token);
        Answer::of(me).await.expect(200);
        let refresh = json!({"refresh_token": answer["data"]["refresh_token"]});
        assert_eq!(
            app.post_json("/api/v1/auth/refresh", &refresh)
                .await
                .status(),
            200
        );
        for (username, email, fields) in [
            ("grace", "other@example.org", vec!["username"]),
            ("other", "GRACE@example.org", vec!["email"]),
            ("ada", "bob@example.org", vec!["email", "username"]),
        ] {
            let problem = register(&app, &body(username, email))
                .await
                .expect(409)
                .json();
            assert_eq!(problem["code"], "conflict");
            let named: Vec<&String> = problem["errors"].as_object().unwrap().keys().collect();
            assert_eq!(named, fields);
        }
        for (field, value) in [
            ("username", json!("g")),
            ("email", json!("nowhere")),
            ("name", json!("")),
            ("password", json!("grace@example.org")),
            ("password", json!(null)),
            ("device_name", json!("a\u{0}b")),
        ] {
            let mut wrong = body("hopper", "hopper@example.org");
            wrong[field] = value;
            wrong["email"] = match field {
                "password" => json!("grace@example.org"),
                _ => wrong["email"].clone(),
            };
            let problem = register(&app, &wrong).await.expect(422).json();
            let named: Vec<&String> = problem["errors"].as_object().unwrap().keys().collect();
            assert_eq!(named, [field]);
        }
    }
}

#[actix_web::test]
async fn of_several_who_want_a_name_at_once_one_gets_it() {
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, OPEN).await;
        let bodies: Vec<Value> = (0..6)
            .map(|number| body("grace", &format!("grace{number}@example.org")))
            .collect();
        let answers = join_all(bodies.iter().map(|body| register(&app, body))).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        let count = |status| statuses.iter().filter(|known| **known == status).count();
        assert_eq!((count(201), count(409)), (1, 5), "{statuses:?}");
        for answer in answers.iter().filter(|answer| answer.status == 409) {
            assert!(answer.json()["errors"]["username"].is_array());
        }
        let people = app.app.db.read(account::count).await.unwrap();
        assert_eq!(people, 4, "nobody is half made");
    }
}

#[actix_web::test]
async fn an_address_may_try_ten_times_an_hour() {
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, OPEN).await;
        for number in 0..10 {
            let name = format!("grace{number}");
            // What is not even well-formed does not count.
            register(&app, &body("g", "nowhere")).await.expect(422);
            register(&app, &body(&name, &format!("{name}@example.org")))
                .await
                .expect(201);
        }
        let answer = register(&app, &body("grace", "grace@example.org"))
            .await
            .expect(429);
        let seconds: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=3600).contains(&seconds));
        let browser = Browser::new(&app, "grace");
        browser.open("/register").await.expect(200);
        let page = browser.post("/register", &grace()).await.expect(429);
        assert!(page.body.contains("Too many attempts") && page.body.contains("value=\"grace\""));
        assert!(!page.header("retry-after").is_empty());
        if backend == Backend::Embedded {
            app.advance(Duration::from_secs(3601));
            register(&app, &body("grace", "grace@example.org"))
                .await
                .expect(201);
        }
    }
}

#[actix_web::test]
async fn the_meter_knows_the_names_that_somebody_is_about_to_take() {
    let app = TestApp::start_with(Backend::Embedded, OPEN).await;
    let browser = Browser::new(&app, "grace");
    browser.open("/register").await.expect(200);
    for (names, accepted) in [(json!([]), true), (json!(["wombatquorum77"]), false)] {
        let asked = json!({"password": "wombatquorum77", "names": names});
        let request = browser.script(Method::POST, "/api/password-strength");
        let data = browser.send(request.json(&asked)).await.expect(200).json()["data"].clone();
        assert_eq!(data["accepted"], accepted, "{data}");
    }
    browser.drop_cookie("gapura_form");
    let request = browser.script(Method::POST, "/api/password-strength");
    browser
        .send(request.json(&json!({"password": PASSWORD})))
        .await
        .expect(403);
}
