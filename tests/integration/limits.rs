//! How often is too often, and who is never locked out by a stranger.

use std::time::Duration;

use gapura::account;
use gapura::metrics::Seen;
use serde_json::{Value, json};

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};

const SECOND: Duration = Duration::from_secs(1);
/// Any address may be claimed: the test's own is a trusted proxy's.
const ANYWHERE: &[(&str, &str)] = &[("GAPURA_TRUSTED_PROXIES", "127.0.0.1/32")];

async fn refresh(app: &TestApp, token: &Value) -> Answer {
    let request = app.http.post(format!("{}/api/v1/auth/refresh", app.url));
    Answer::of(request.json(&json!({ "refresh_token": token }))).await
}

async fn log_in_from(app: &TestApp, address: &str, password: &str) -> Answer {
    let request = app.http.post(format!("{}/api/v1/auth/token", app.url));
    let body = json!({"username": "ada", "password": password});
    Answer::of(request.header("x-forwarded-for", address).json(&body)).await
}

#[actix_web::test]
async fn a_login_is_rotated_thirty_times_a_minute_and_repeats_are_free() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let answer = log_in_from(&app, "192.0.2.1", TestApp::PASSWORD).await;
        let mut token = answer.expect(200).json()["data"]["refresh_token"].clone();
        for _ in 0..30 {
            app.advance(SECOND);
            let answer = refresh(&app, &token).await.expect(200);
            let before =
                std::mem::replace(&mut token, answer.json()["data"]["refresh_token"].clone());
            let again = refresh(&app, &before).await.expect(200);
            assert_eq!(again.json()["data"]["refresh_token"], token, "a repeat");
        }
        let refused = refresh(&app, &token).await.expect(429);
        assert_eq!(refused.json()["code"], "rate_limited");
        // The first of the thirty was 29 seconds ago.
        assert_eq!(refused.header("retry-after"), "31");
        app.advance(30 * SECOND);
        refresh(&app, &token).await.expect(429);
        app.advance(SECOND);
        refresh(&app, &token).await.expect(200);
    }
}

#[actix_web::test]
async fn the_login_page_says_when_to_come_back_as_the_header_does() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada");
    for _ in 0..5 {
        ada.sign_in(&[("password", "not the password")])
            .await
            .expect(401);
        app.advance(4 * SECOND);
    }
    let refused = ada.sign_in(&[]).await.expect(429);
    assert_eq!(refused.header("retry-after"), "40");
    let told = "Too many attempts. Try again in 40 seconds.";
    assert!(refused.body.contains(told), "{}", refused.body);
}

#[actix_web::test]
async fn a_name_and_an_address_of_one_person_are_counted_together() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let email = account_of(&app, "ada").await.email;
        let guess = async |name: &str| {
            let body = json!({"username": name, "password": "not the password at all"});
            app.post_json("/api/v1/auth/token", &body).await.status()
        };
        for name in ["ada", &email, "ADA", &email, "ada"] {
            assert_eq!(guess(name).await, 401, "{name}");
        }
        for name in ["ada", &email] {
            assert_eq!(guess(name).await, 429, "{name}");
        }
    }
}

#[actix_web::test]
async fn whoever_is_in_confirms_their_password_however_many_strangers_failed() {
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, ANYWHERE).await;
        let data = log_in_from(&app, "192.0.2.1", TestApp::PASSWORD).await;
        let data = data.expect(200).json()["data"].take();
        let id = account_of(&app, "ada").await.id;
        let counted = app.app.db.write(move |conn| {
            for _ in 0..100 {
                account::count_failure(conn, &id)?;
            }
            Ok(())
        });
        counted.await.unwrap();
        let abroad = "198.51.100.7";
        log_in_from(&app, abroad, TestApp::PASSWORD)
            .await
            .expect(401);
        let make = |password: &str| {
            let request = app.http.post(format!("{}/api/v1/tokens", app.url));
            let token = data["access_token"].as_str().unwrap();
            let body = json!({"name": "Backup", "current_password": password});
            let request = request.bearer_auth(token).header("x-forwarded-for", abroad);
            Answer::of(request.json(&body))
        };
        make("not the password at all").await.expect(422);
        make(TestApp::PASSWORD).await.expect(201);
    }
}

async fn account_of(app: &TestApp, name: &str) -> account::User {
    let name = name.to_owned();
    let found = app
        .app
        .db
        .read(move |conn| account::by_login_name(conn, &name));
    found.await.unwrap().unwrap()
}

#[actix_web::test]
async fn after_a_hundred_failures_an_account_opens_only_where_it_was_entered_before() {
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, ANYWHERE).await;
        let (home, abroad) = ("2001:db8:1:1::7", "2001:db8:9:9::1");
        log_in_from(&app, home, TestApp::PASSWORD).await.expect(200);
        let find = || app.app.db.read(|conn| account::by_login_name(conn, "ada"));
        let ada = find().await.unwrap().unwrap();
        let id = ada.id.clone();
        let counted = app.app.db.write(move |conn| {
            for _ in 0..99 {
                account::count_failure(conn, &id)?;
            }
            Ok(())
        });
        counted.await.unwrap();
        let wrong = log_in_from(&app, "192.0.2.66", "not the password at all").await;
        assert_eq!(find().await.unwrap().unwrap().failures_in_a_row, 100);
        let metrics = app.app.metrics.text(&Seen::default()).unwrap();
        assert!(metrics.contains("gapura_accounts_closed_total 1\n"));
        let right = log_in_from(&app, abroad, TestApp::PASSWORD).await;
        let said = |answer: Answer| {
            let mut problem = answer.expect(401).json();
            problem["request_id"] = Value::Null;
            problem
        };
        assert_eq!(said(right), said(wrong), "a stranger learns nothing");
        // A new password is nobody's guess.
        let find_again = find().await.unwrap().unwrap();
        let closed = app.app.db.write(move |conn| {
            account::set_temporary_password(conn, &find_again.id, &find_again.password_hash)?;
            let opened = account::by_id(conn, &find_again.id)?;
            for _ in 0..100 {
                account::count_failure(conn, &find_again.id)?;
            }
            Ok(opened)
        });
        let opened = closed.await.unwrap().expect("ada");
        assert_eq!(opened.failures_in_a_row, 0);
        // Another address of the same household.
        log_in_from(&app, "2001:db8:1:1::8", TestApp::PASSWORD)
            .await
            .expect(200);
        assert_eq!(find().await.unwrap().unwrap().failures_in_a_row, 0);
        app.advance(60 * SECOND);
        log_in_from(&app, abroad, TestApp::PASSWORD)
            .await
            .expect(200);
    }
}
