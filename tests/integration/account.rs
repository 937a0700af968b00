//! What a person does to their own account: the password, and the list of their logins.

use std::time::Duration;

use gapura::account::{self, Role, User};
use serde_json::json;

use crate::actors::Browser;
use crate::harness::{Backend, TestApp};

const NEW: &str = "velvet otters paint the harbour";

fn change<'a>(current: &'a str, new: &'a str, again: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("current_password", current),
        ("password", new),
        ("password_confirmation", again),
    ]
}

#[actix_web::test]
async fn a_changed_password_ends_every_other_login_and_this_one_goes_on_under_a_new_id() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let other = Browser::new(&app, "ada").log_in().await;
        let ada = Browser::new(&app, "ada").log_in_remembered().await;
        let before = ada.copied();
        ada.open("/dashboard/password").await.expect(200);
        let answer = ada
            .post("/dashboard/password", &change(TestApp::PASSWORD, NEW, NEW))
            .await;
        answer.expect_redirect("/dashboard/profile");
        ada.open("/dashboard").await.expect(200);
        assert_eq!(
            before.open("/dashboard").await.status,
            303,
            "the old id is dead"
        );
        other
            .open("/dashboard")
            .await
            .expect_redirect("/login?reason=password_changed&next=%2Fdashboard");
        // The cookie from before opens nothing any more; the new one does.
        before.restart();
        assert_eq!(before.open("/dashboard").await.status, 303);
        ada.restart();
        ada.open("/dashboard").await.expect(200);
        for (password, status) in [(TestApp::PASSWORD, 401), (NEW, 200)] {
            let asked = json!({"username": "ada", "password": password});
            let answer = app.post_json("/api/v1/auth/token", &asked).await;
            assert_eq!(answer.status(), status);
        }
    }
}

#[actix_web::test]
async fn a_new_password_is_refused_with_the_field_that_is_wrong() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    ada.open("/dashboard/password").await.expect(200);
    for (form, told) in [
        (
            change("not it at all", NEW, NEW),
            "not your current password",
        ),
        (change(TestApp::PASSWORD, "short", "short"), "at least 12"),
        (
            change(TestApp::PASSWORD, "password1234", "password1234"),
            "easy to guess",
        ),
        (
            change(TestApp::PASSWORD, TestApp::PASSWORD, TestApp::PASSWORD),
            "choose another",
        ),
        (change(TestApp::PASSWORD, NEW, "velvet"), "do not match"),
    ] {
        let answer = ada.post("/dashboard/password", &form).await.expect(422);
        assert!(answer.body.contains(told), "{told}: {}", answer.body);
        assert!(!answer.body.contains(NEW), "no password comes back");
    }
}

#[actix_web::test]
async fn a_generated_password_is_changed_before_anything_else() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = app.app.db.read(|conn| account::by_login_name(conn, "ada"));
    let hash = ada.await.unwrap().unwrap().password_hash;
    let new = User::new(
        "eve".into(),
        "eve@example.org".into(),
        "Eve".into(),
        Role::User,
        hash,
        app.now(),
    );
    let new = User {
        must_change_password: true,
        ..new
    };
    app.app
        .db
        .write(move |conn| account::insert(conn, &new))
        .await
        .unwrap();
    let eve = Browser::new(&app, "eve");
    eve.sign_in(&[]).await.expect_redirect("/dashboard");
    eve.open("/dashboard")
        .await
        .expect_redirect("/dashboard/password");
    eve.open("/dashboard/sessions")
        .await
        .expect_redirect("/dashboard/password");
    eve.open("/dashboard/password").await.expect(200);
    // No form either, except the way out and the language.
    eve.post("/dashboard/sessions/revoke-others", &[])
        .await
        .expect_redirect("/dashboard/password");
    eve.post(
        "/dashboard/language",
        &[("locale", "id"), ("next", "/dashboard/password")],
    )
    .await
    .expect_redirect("/dashboard/password");
    eve.post("/dashboard/password", &change(TestApp::PASSWORD, NEW, NEW))
        .await
        .expect_redirect("/dashboard/profile");
    eve.open("/dashboard").await.expect(200);
}

#[actix_web::test]
async fn a_login_that_is_ended_elsewhere_is_out_and_told_why() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let lost = Browser::new(&app, "ada").log_in().await;
        let bob = Browser::new(&app, "bob").log_in().await;
        let hostile = json!({"username": "ada", "password": TestApp::PASSWORD, "device_name": "<script>alert(1)</script>"});
        let api = app.post_json("/api/v1/auth/token", &hostile).await;
        let api: serde_json::Value = api.json().await.unwrap();
        let ada = Browser::new(&app, "ada").log_in().await;
        let page = ada.open("/dashboard/sessions").await.expect(200);
        assert!(page.body.contains("This device") && !page.body.contains("<script>alert"));
        let list = ada
            .send(ada.script(reqwest::Method::GET, "/api/v1/sessions"))
            .await;
        let list = list.expect(200).json();
        let sessions = list["data"].as_array().unwrap();
        assert_eq!(sessions.len(), 3, "{list}");
        let ids = |kind: &str| {
            let others = sessions
                .iter()
                .filter(|session| session["current"] == false && session["kind"] == kind);
            others
                .map(|session| session["id"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let path = format!("/dashboard/sessions/{}/revoke", ids("browser")[0]);
        bob.open("/dashboard/sessions").await.expect(200);
        bob.post(&path, &[])
            .await
            .expect_redirect("/dashboard/sessions");
        lost.open("/dashboard").await.expect(200);
        ada.post(&path, &[])
            .await
            .expect_redirect("/dashboard/sessions");
        lost.open("/dashboard")
            .await
            .expect_redirect("/login?reason=revoked&next=%2Fdashboard");
        ada.post("/dashboard/sessions/revoke-others", &[])
            .await
            .expect_redirect("/dashboard/sessions");
        let token = api["data"]["access_token"].as_str().unwrap();
        let me = app
            .http
            .get(format!("{}/api/v1/me", app.url))
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        assert_eq!(me.status(), 401);
        ada.open("/dashboard").await.expect(200);
    }
}

#[actix_web::test]
async fn every_login_says_what_ends_it_and_when_and_never_that_it_has_ended() {
    for backend in Backend::ALL {
        let settings = [("GAPURA_SESSION_IDLE_TIMEOUT", "1h")];
        let app = TestApp::start_with(backend, &settings).await;
        Browser::new(&app, "ada").log_in_remembered().await;
        let body = json!({"username": "ada", "password": TestApp::PASSWORD});
        let answer = app.post_json("/api/v1/auth/token", &body).await;
        assert_eq!(answer.status(), 200);
        app.advance(Duration::from_secs(3 * 3600));
        let ada = Browser::new(&app, "ada").log_in().await;
        let page = ada.open("/dashboard/sessions").await.expect(200).body;
        let ends: Vec<_> = page
            .split("<dt>Ends")
            .skip(1)
            .map(|rest| {
                let (label, rest) = rest.split_once("</dt>").unwrap();
                let (_, rest) = rest.split_once("data-relative>").unwrap();
                (label.trim(), rest.split('<').next().unwrap())
            })
            .collect();
        assert_eq!(
            ends,
            [
                ("if you are away", "in 60 minutes"),
                ("if not used", "in 7 days"),
                // Nobody was there for three hours, but it is remembered for twelve.
                ("if you are away", "in 9 hours"),
            ]
        );
    }
}

#[actix_web::test]
async fn the_login_that_opens_the_list_was_active_just_now() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        app.advance(Duration::from_secs(2 * 3600));
        let page = ada.open("/dashboard/sessions").await.expect(200).body;
        let times: Vec<_> = page
            .split("data-relative>")
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap())
            .collect();
        assert_eq!(times, ["just now", "2 hours ago", "in 20 hours"]);
    }
}
