//! The profile: name, language, appearance and password, by page and by API, and that every living
//! session of the person knows.

use std::time::Duration;

use gapura::account;
use gapura::audit::{self, Event};
use reqwest::Method;
use serde_json::{Value, json};

use crate::actors::{Answer, Browser};
use crate::chromium::{Chromium, Setup, serve};
use crate::harness::{Backend, TestApp};

const NEW: &str = "velvet otters paint the harbour";
const PROFILE: &str = "/dashboard/profile";
const STRENGTH: &str = "/api/password-strength";

fn profile<'a>(name: &'a str, locale: &'a str, theme: &'a str) -> [(&'a str, &'a str); 3] {
    [("name", name), ("locale", locale), ("theme", theme)]
}

async fn events(app: &TestApp, name: &'static str, kind: &str) -> Vec<Event> {
    let read = app.app.db.read(move |conn| {
        let user = account::by_login_name(conn, name)?.expect("a person");
        audit::page(conn, &audit::Filter::of_user(&user.id), None, 100)
    });
    let mut events = read.await.unwrap();
    events.retain(|event| event.kind == kind);
    events
}

/// Logs in by API; access and refresh token.
async fn api(app: &TestApp, name: &str) -> (String, String) {
    let body = json!({"username": name, "password": TestApp::PASSWORD});
    let answer = app.post_json("/api/v1/auth/token", &body).await;
    let answer: Value = answer.json().await.unwrap();
    let text = |name: &str| answer["data"][name].as_str().unwrap().to_owned();
    (text("access_token"), text("refresh_token"))
}

async fn call(app: &TestApp, method: Method, path: &str, token: &str, body: &Value) -> Answer {
    let request = app.http.request(method, format!("{}{path}", app.url));
    Answer::of(request.bearer_auth(token).json(body)).await
}

async fn refresh(app: &TestApp, token: &str) -> (u16, Value) {
    let answer = app
        .post_json("/api/v1/auth/refresh", &json!({"refresh_token": token}))
        .await;
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[actix_web::test]
async fn a_saved_profile_shows_in_every_browser_of_the_person_at_the_next_page() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let phone = Browser::new(&app, "ada").log_in().await;
        let bob = Browser::new(&app, "bob").log_in().await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let page = ada.open(PROFILE).await.expect(200);
        assert!(page.body.contains("ada@example.org") && page.body.contains("administrator"));
        ada.post(PROFILE, &profile("  Ada Lovelace ", "id", "dark"))
            .await
            .expect_redirect(PROFILE);
        for browser in [&ada, &phone] {
            let page = browser.open("/dashboard").await.expect(200);
            assert!(page.body.contains("Ada Lovelace"));
            assert!(page.body.contains("<html lang=\"id\" data-theme=\"dark\">"));
        }
        let page = bob.open("/dashboard").await.expect(200);
        assert!(page.body.contains("<html lang=\"en\" data-theme=\"auto\">"));
        let changed = events(&app, "ada", "profile_changed").await;
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].detail.as_deref(), Some("name, locale, theme"));
        assert!(changed[0].login_id.is_some() && changed[0].ip.is_some());
        // Saved as it is: nothing happened.
        ada.post(PROFILE, &profile("Ada Lovelace", "id", "dark"))
            .await
            .expect(303);
        assert_eq!(events(&app, "ada", "profile_changed").await.len(), 1);
    }
}

#[actix_web::test]
async fn the_notice_is_told_once() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    ada.post(PROFILE, &profile("Ada", "en", "auto"))
        .await
        .expect(303);
    let page = ada.open(PROFILE).await.expect(200);
    assert!(page.body.contains("Your profile is saved."));
    let page = ada.open(PROFILE).await.expect(200);
    assert!(!page.body.contains("Your profile is saved."));
    ada.plant("gapura_notice", "password_changed.<b>7</b>");
    let page = ada.open(PROFILE).await.expect(200);
    assert!(
        !page.body.contains("class=\"note\""),
        "not one of our sentences"
    );
}

#[actix_web::test]
async fn what_is_wrong_is_told_beside_the_field_and_what_was_typed_is_kept() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    for (form, told) in [
        (profile("   ", "id", "dark"), "1 to 100 characters"),
        (profile("A\u{202e}da", "id", "dark"), "all of them visible"),
        (profile("Ada <3", "tlh", "dark"), "one of the languages"),
        (profile("Ada <3", "id", "neon"), "one of the three"),
    ] {
        let page = ada.post(PROFILE, &form).await.expect(422);
        assert!(page.body.contains(told), "{told}");
        assert!(page.body.contains("aria-invalid") || form[2].1 == "neon");
        if form[0].1 == "Ada <3" {
            assert!(page.body.contains("value=\"Ada &#60;3\""), "{}", page.body);
        }
        if form[1].1 == "id" {
            assert!(page.body.contains("value=\"id\" lang=\"id\" selected"));
        }
    }
    assert_eq!(events(&app, "ada", "profile_changed").await.len(), 0);
}

#[actix_web::test]
async fn a_first_form_after_remember_me_is_not_undone_by_its_own_request() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        ada.restart();
        // The page restores the session; the form is the first request that brings it.
        ada.open(PROFILE).await.expect(200);
        ada.post(PROFILE, &profile("Countess", "en", "dark"))
            .await
            .expect(303);
        let page = ada.open("/dashboard").await.expect(200);
        assert!(page.body.contains("Countess"));
    }
}

#[actix_web::test]
async fn telling_the_sessions_of_a_person_brings_none_back() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let gone = Browser::new(&app, "ada").log_in().await;
        let copy = gone.copied();
        let ada = Browser::new(&app, "ada").log_in().await;
        gone.log_out().await.expect(303);
        ada.post(PROFILE, &profile("Ada", "en", "auto"))
            .await
            .expect(303);
        assert_eq!(copy.poll().await.status, 419);
        assert_eq!(copy.open("/dashboard").await.status, 303);
    }
}

#[actix_web::test]
async fn the_language_switch_of_a_signed_in_page_lasts_in_every_browser() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let phone = Browser::new(&app, "ada").log_in().await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let switch = [
            ("locale", "id"),
            ("next", "/dashboard/sessions?lang=en&limit=5"),
        ];
        ada.post("/dashboard/language", &switch)
            .await
            .expect_redirect("/dashboard/sessions?limit=5");
        for browser in [&ada, &phone] {
            let page = browser.open("/dashboard").await.expect(200);
            assert!(page.body.contains("<html lang=\"id\""));
        }
        let error = ada.post("/dashboard/language", &[("locale", "xx")]).await;
        assert!(
            error.body.contains("<html lang=\"id\""),
            "an error speaks it as well"
        );
        error.expect(422);
        // So does the login page afterwards.
        ada.open("/dashboard").await.expect(200);
        ada.log_out().await.expect(303);
        let page = ada.open("/login").await.expect(200);
        assert!(page.body.contains("<html lang=\"id\""));
        // Automatic again: as the browser asks.
        phone
            .post(PROFILE, &profile("Ada", "", "auto"))
            .await
            .expect(303);
        let page = phone.open("/dashboard").await.expect(200);
        assert!(page.body.contains("<html lang=\"en\""));
        // Another site cannot switch it.
        let foreign = phone
            .bare(Method::POST, "/dashboard/language")
            .header("sec-fetch-site", "cross-site");
        phone.send(phone.form(foreign, &switch)).await.expect(403);
    }
}

#[actix_web::test]
async fn the_api_changes_what_it_is_given_and_leaves_the_rest() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let browser = Browser::new(&app, "ada").log_in().await;
        let (token, _) = api(&app, "ada").await;
        let patch = json!({"name": "Ada Lovelace", "locale": "id"});
        let answer = call(&app, Method::PATCH, "/api/v1/me", &token, &patch)
            .await
            .expect(200);
        let user = &answer.json()["data"];
        assert_eq!(
            (&user["name"], &user["locale"], &user["theme"]),
            (&json!("Ada Lovelace"), &json!("id"), &json!("auto"))
        );
        let page = browser.open("/dashboard").await.expect(200);
        assert!(page.body.contains("Ada Lovelace") && page.body.contains("<html lang=\"id\""));
        let request = browser.script(Method::PATCH, "/api/v1/me");
        let answer = browser
            .send(request.json(&json!({"locale": null, "theme": "dark"})))
            .await;
        let user = &answer.expect(200).json()["data"];
        assert_eq!(
            (&user["name"], &user["locale"], &user["theme"]),
            (&json!("Ada Lovelace"), &Value::Null, &json!("dark"))
        );
        let page = browser.open("/dashboard").await.expect(200);
        assert!(page.body.contains("data-theme=\"dark\""));
    }
}

#[actix_web::test]
async fn the_api_names_the_field_that_is_wrong() {
    let app = TestApp::start(Backend::Embedded).await;
    let (token, _) = api(&app, "ada").await;
    for (patch, field) in [
        (json!({"name": ""}), "name"),
        (json!({"name": null}), "name"),
        (json!({"name": 7}), "name"),
        (json!({"name": "a".repeat(101)}), "name"),
        (json!({"name": "a\u{0}b"}), "name"),
        (json!({"locale": "de"}), "locale"),
        (json!({"locale": ""}), "locale"),
        (json!({"locale": ["id"]}), "locale"),
        (json!({"theme": "neon"}), "theme"),
        (json!({"theme": null}), "theme"),
        (json!({"email": "ada@elsewhere.example"}), "email"),
        (json!({"role": "admin"}), "role"),
    ] {
        let answer = call(&app, Method::PATCH, "/api/v1/me", &token, &patch).await;
        let problem = answer.expect(422).json();
        let fields: Vec<&String> = problem["errors"].as_object().unwrap().keys().collect();
        assert_eq!(fields, [field], "{patch}");
    }
    let answer = call(&app, Method::PATCH, "/api/v1/me", &token, &json!({})).await;
    answer.expect(200);
    assert_eq!(events(&app, "ada", "profile_changed").await.len(), 0);
}

#[actix_web::test]
async fn a_changed_password_tells_how_many_other_logins_it_ended() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        for (name, others, told) in [
            ("ada", 0, "You were logged in nowhere else."),
            ("bob", 1, "your one other login has ended"),
            ("root", 3, "your 3 other logins have ended"),
        ] {
            for _ in 0..others {
                api(&app, name).await;
            }
            let browser = Browser::new(&app, name).log_in().await;
            let form = [
                ("current_password", TestApp::PASSWORD),
                ("password", NEW),
                ("password_confirmation", NEW),
                ("revoke_tokens", "1"),
            ];
            browser
                .post("/dashboard/password", &form)
                .await
                .expect_redirect(PROFILE);
            let page = browser.open(PROFILE).await.expect(200);
            assert!(page.body.contains(told), "{}", page.body);
        }
    }
}

#[actix_web::test]
async fn too_many_wrong_passwords_are_told_calmly_on_the_form() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    let form = [
        ("current_password", "not it at all"),
        ("password", NEW),
        ("password_confirmation", NEW),
    ];
    for _ in 0..5 {
        ada.post("/dashboard/password", &form).await.expect(422);
    }
    let page = ada.post("/dashboard/password", &form).await.expect(429);
    assert!(page.body.contains("Too many attempts. Try again in") && page.body.contains("<form"));
    assert!(page.header("retry-after").parse::<u64>().unwrap() > 0);
    assert_eq!(events(&app, "ada", "login_failed").await.len(), 5);
    app.advance(Duration::from_secs(61));
    let right = [("current_password", TestApp::PASSWORD), form[1], form[2]];
    ada.post("/dashboard/password", &right).await.expect(303);
}

#[actix_web::test]
async fn a_program_that_changes_its_password_goes_on_and_every_other_login_ends() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let browser = Browser::new(&app, "ada").log_in().await;
        let (other, _) = api(&app, "ada").await;
        let (access, old) = api(&app, "ada").await;
        app.advance(Duration::from_secs(20 * 60));
        let body =
            json!({"current_password": TestApp::PASSWORD, "password": NEW, "revoke_tokens": true});
        let answer = call(&app, Method::PUT, "/api/v1/me/password", &access, &body)
            .await
            .expect(200);
        assert_eq!(answer.json()["data"]["username"], "ada");
        assert_eq!(answer.header("x-token-refreshed"), "true");
        assert_eq!(answer.header("cache-control"), "no-store");
        let (new_access, new) = (
            answer.header("x-new-access-token").to_owned(),
            answer.header("x-new-refresh-token").to_owned(),
        );
        call(&app, Method::GET, "/api/v1/me", &other, &json!({}))
            .await
            .expect(401);
        browser
            .open("/dashboard")
            .await
            .expect_redirect("/login?reason=password_changed&next=%2Fdashboard");
        call(&app, Method::GET, "/api/v1/me", &new_access, &json!({}))
            .await
            .expect(200);
        // The new one carries on; then the old one, in a thief's hands, ends the login.
        assert_eq!(refresh(&app, &new).await.0, 200);
        app.advance(Duration::from_secs(11));
        let (status, problem) = refresh(&app, &old).await;
        assert_eq!((status, &problem["code"]), (401, &json!("refresh_reused")));
    }
}

#[actix_web::test]
async fn a_program_that_never_sees_its_new_tokens_goes_on_with_the_old_one() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (access, old) = api(&app, "ada").await;
        let body = json!({"current_password": TestApp::PASSWORD, "password": NEW});
        call(&app, Method::PUT, "/api/v1/me/password", &access, &body)
            .await
            .expect(200);
        app.advance(Duration::from_secs(60));
        let (status, answer) = refresh(&app, &old).await;
        assert_eq!(status, 200, "{answer}");
        let next = answer["data"]["refresh_token"].as_str().unwrap();
        assert_eq!(refresh(&app, next).await.0, 200);
    }
}

#[actix_web::test]
async fn a_browser_that_changes_its_password_by_api_goes_on_under_a_new_id() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let before = ada.copied();
        let body = json!({"current_password": TestApp::PASSWORD, "password": NEW});
        let request = ada.script(Method::PUT, "/api/v1/me/password").json(&body);
        let answer = ada.send(request).await.expect(200);
        assert_eq!(answer.header("x-new-refresh-token"), "");
        ada.open("/dashboard").await.expect(200);
        assert_eq!(before.poll().await.status, 419);
        before.restart();
        assert_eq!(
            before.open("/dashboard").await.status,
            303,
            "nor the old remember cookie"
        );
        ada.restart();
        ada.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn a_new_password_by_api_is_refused_with_the_field_that_is_wrong() {
    let app = TestApp::start(Backend::Embedded).await;
    let (token, _) = api(&app, "ada").await;
    for (body, field) in [
        (
            json!({"current_password": "wrong", "password": NEW}),
            "current_password",
        ),
        (json!({"password": NEW}), "current_password"),
        (json!({"current_password": TestApp::PASSWORD}), "password"),
        (
            json!({"current_password": TestApp::PASSWORD, "password": "short"}),
            "password",
        ),
        (
            json!({"current_password": TestApp::PASSWORD, "password": "password1234"}),
            "password",
        ),
        (
            json!({"current_password": TestApp::PASSWORD, "password": TestApp::PASSWORD}),
            "password",
        ),
        (
            json!({"current_password": TestApp::PASSWORD, "password": NEW, "revoke_tokens": "yes"}),
            "revoke_tokens",
        ),
    ] {
        let answer = call(&app, Method::PUT, "/api/v1/me/password", &token, &body).await;
        let problem = answer.expect(422).json();
        let fields: Vec<&String> = problem["errors"].as_object().unwrap().keys().collect();
        assert_eq!(fields, [field], "{body}");
    }
    assert_eq!(events(&app, "ada", "login_failed").await.len(), 1);
}

/// An id that was replaced while a request of another tab was under way is refused, but its answer
/// does not take the new cookie away.
#[actix_web::test]
async fn a_request_that_overtakes_a_new_id_does_not_log_the_browser_out() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let late = ada.copied();
        let body = json!({"current_password": TestApp::PASSWORD, "password": NEW});
        let request = ada.script(Method::PUT, "/api/v1/me/password").json(&body);
        ada.send(request).await.expect(200);
        let answer = late.ping(0).await.expect(419);
        assert_eq!(answer.set_cookies("gapura_session"), [""; 0]);
        ada.take(&answer);
        ada.open("/dashboard").await.expect(200);
        // Who comes to the login page with nothing better has nothing to lose.
        let page = late.open("/login").await.expect(200);
        assert!(page.clears("gapura_session"));
    }
}

#[actix_web::test]
async fn the_meter_says_what_the_server_will_say() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        for (password, accepted) in [
            (NEW, true),
            ("password1234", false),
            ("short", false),
            ("ada@example.org", false),
        ] {
            let request = ada.script(Method::POST, STRENGTH);
            let answer = ada.send(request.json(&json!({"password": password}))).await;
            let data = answer.expect(200).json()["data"].clone();
            assert_eq!(data["accepted"], accepted, "{password}: {data}");
            assert_eq!(data["score"].as_u64().unwrap() >= 3, accepted);
        }
        let asked = json!({"password": NEW});
        let foreign = ada.bare(Method::POST, STRENGTH).json(&asked);
        ada.send(foreign).await.expect(403);
        // Nobody else has anything to ask here.
        let stranger = Browser::new(&app, "ada");
        stranger
            .send(stranger.script(Method::POST, STRENGTH).json(&asked))
            .await
            .expect(401);
        for _ in 4..120 {
            ada.send(
                ada.script(Method::POST, STRENGTH)
                    .json(&json!({"password": "short"})),
            )
            .await
            .expect(200);
        }
        let answer = ada
            .send(ada.script(Method::POST, STRENGTH).json(&asked))
            .await
            .expect(429);
        assert!(!answer.header("retry-after").is_empty());
    }
}

#[actix_web::test]
async fn a_person_sees_how_strong_a_password_is_while_typing() {
    let app = serve(&[("GAPURA_REGISTRATION", "open")]).await;
    let ada = Chromium::open(&app).await;
    let says = |words: &str| {
        format!("document.querySelector('.strength-text').textContent.includes('{words}')")
    };
    let meter = "document.querySelector('[role=meter]')";
    ada.go("/register").await;
    assert_eq!(ada.evaluate(&format!("{meter}.hidden")).await, true);
    ada.write("#username", "wombatquorum77").await;
    for (typed, told, score) in [
        ("short", "Characters still missing: 7", "0"),
        ("wombatquorum77", "too easy to guess", "0"),
        (NEW, "very hard to guess", "4"),
    ] {
        ada.write("#password", typed).await;
        ada.until(&says(told)).await;
        assert_eq!(
            ada.evaluate(&format!("{meter}.ariaValueNow")).await,
            score,
            "{typed}"
        );
    }
    ada.log_in("ada").await;
    ada.go("/dashboard/password").await;
    ada.write("#password", "password1234").await;
    ada.until(&says("too easy to guess")).await;
    ada.write("#current_password", TestApp::PASSWORD).await;
    ada.write("#password", NEW).await;
    ada.write("#password_confirmation", NEW).await;
    ada.click("main button[type=submit]").await;
    ada.arrive(PROFILE).await;
    assert!(
        ada.text("main [role=status]")
            .await
            .contains("Your password is changed")
    );
    ada.close().await;
}

#[actix_web::test]
async fn a_profile_is_saved_without_javascript() {
    let app = serve(&[("GAPURA_REGISTRATION", "open")]).await;
    let setup = Setup {
        javascript: false,
        ..Setup::default()
    };
    let grace = Chromium::open_as(&app, setup).await;
    grace.go("/register").await;
    for (field, text) in [
        ("#name", "Grace Hopper"),
        ("#username", "grace"),
        ("#email", "grace@example.org"),
        ("#password", NEW),
    ] {
        grace.write(field, text).await;
    }
    grace.click("main button[type=submit]").await;
    grace.arrive("/dashboard").await;
    grace.go(PROFILE).await;
    grace.write("#name", "Rear Admiral Hopper").await;
    grace.click("#theme-dark").await;
    grace.click("main button[type=submit]").await;
    grace.arrive(PROFILE).await;
    assert_eq!(
        grace.text("main [role=status]").await,
        "Your profile is saved."
    );
    let dark = grace
        .evaluate("getComputedStyle(document.body).backgroundColor")
        .await;
    assert_eq!(dark, "rgb(14, 20, 17)");
    grace.click(".language button[value=id]").await;
    grace.arrive(PROFILE).await;
    assert_eq!(grace.text("h1").await, "Profil");
    grace.close().await;
}
