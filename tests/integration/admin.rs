//! Administrators: what they see and change of other people's accounts, and what nobody may.

use std::time::Duration;

use futures_util::future::join;
use gapura::account::{self, Role, User};
use gapura::admin::{self, Changes, Doer, Outcome, Refusal, overview};
use gapura::audit::{self, Event};
use gapura::login::{self, Client};
use gapura::token::personal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};
use crate::program::{PASSWORD, Place, add_user};

const MINUTE: Duration = Duration::from_secs(60);
const NOBODY: &str = "00000000-0000-7000-8000-000000000000";

async fn user(app: &TestApp, name: &str) -> User {
    let name = name.to_owned();
    let found = app
        .app
        .db
        .read(move |conn| account::by_login_name(conn, &name));
    found.await.unwrap().unwrap()
}

async fn events(app: &TestApp, name: &str) -> Vec<Event> {
    let id = user(app, name).await.id;
    let events = app
        .app
        .db
        .read(move |conn| audit::page(conn, &audit::Filter::of_user(&id), None, 50));
    events.await.unwrap()
}

/// A pair by API, as `data`.
async fn api_login(app: &TestApp, name: &str) -> Value {
    let body = json!({"username": name, "password": TestApp::PASSWORD, "device_name": "A script"});
    let answer = app.post_json("/api/v1/auth/token", &body).await;
    assert_eq!(answer.status(), 200);
    let mut answer: Value = answer.json().await.unwrap();
    answer["data"].take()
}

async fn bearer(app: &TestApp, name: &str) -> String {
    let pair = api_login(app, name).await;
    pair["access_token"].as_str().unwrap().to_owned()
}

async fn call(app: &TestApp, token: &str, method: Method, path: &str, body: &Value) -> Answer {
    let request = app.http.request(method, format!("{}{path}", app.url));
    let request = match body {
        Value::Null => request,
        body => request.json(body),
    };
    Answer::of(request.bearer_auth(token)).await
}

async fn get(app: &TestApp, token: &str, path: &str) -> Answer {
    call(app, token, Method::GET, path, &Value::Null).await
}

async fn is_in(app: &TestApp, token: &str) -> bool {
    get(app, token, "/api/v1/me").await.status == 200
}

async fn administrator(app: &TestApp) -> Browser<'_> {
    let root = Browser::new(app, "root").log_in().await;
    root.open("/admin").await.expect(200);
    root
}

async fn do_to(root: &Browser<'_>, name: &str, act: &str) -> Answer {
    let path = format!("/admin/users/{}", user(root.app, name).await.id);
    root.post(&path, &[("act", act)]).await
}

#[actix_web::test]
async fn nobody_else_passes_and_nobody_else_is_asked_for_a_password() {
    let app = TestApp::start(Backend::Embedded).await;
    let ada = Browser::new(&app, "ada").log_in().await;
    let token = bearer(&app, "ada").await;
    let bob = user(&app, "bob").await.id;
    // So long that an administrator would be asked for the password.
    app.advance(11 * MINUTE);
    let one = format!("/admin/users/{bob}");
    for path in [
        "/admin",
        "/admin/activity",
        "/admin/activity.csv",
        "/admin/activity.json",
        "/admin/users",
        "/admin/users/new",
        &one,
    ] {
        let answer = ada.open(path).await.expect(403);
        assert!(!answer.body.contains("bob@"), "{path}");
        let stranger = Browser::new(&app, "ada");
        assert_eq!(stranger.open(path).await.status, 303, "{path}");
    }
    ada.open("/dashboard").await.expect(200);
    for (path, form) in [
        (one.as_str(), &[("act", "disable")][..]),
        (&one, &[("act", "reset_password")]),
        (&one, &[("act", "nothing of the kind")]),
        (
            "/admin/users/new",
            &[("username", "eve"), ("email", "eve@example.org")],
        ),
    ] {
        let answer = ada.post(path, form).await.expect(403);
        assert!(!answer.body.contains("current_password"), "{path}");
    }
    let list = "/api/v1/users".to_owned();
    let single = format!("/api/v1/users/{bob}");
    for (method, path, body) in [
        (Method::GET, &list, Value::Null),
        (
            Method::POST,
            &list,
            json!({"username": "eve", "email": "e@x", "password": PASSWORD}),
        ),
        (Method::GET, &single, Value::Null),
        (Method::PATCH, &single, json!({"disabled": true})),
    ] {
        let answer = call(&app, &token, method.clone(), path, &body)
            .await
            .expect(403);
        assert_eq!(answer.json()["code"], "forbidden", "{method} {path}");
        let request = app.http.request(method, format!("{}{path}", app.url));
        Answer::of(request.json(&body)).await.expect(401);
    }
    assert!(user(&app, "bob").await.disabled_at.is_none());
}

#[actix_web::test]
async fn who_has_just_lost_the_role_or_is_disabled_can_do_nothing_more_with_it() {
    let app = TestApp::start(Backend::Embedded).await;
    let token = bearer(&app, "root").await;
    get(&app, &token, "/api/v1/users").await.expect(200);
    let id = user(&app, "root").await.id;
    let demoted = app
        .app
        .db
        .write(move |conn| account::set_role(conn, &id, Role::User));
    demoted.await.unwrap();
    get(&app, &token, "/api/v1/users").await.expect(403);
}

#[actix_web::test]
async fn an_administrator_gives_the_password_again_and_then_it_is_done() {
    let app = TestApp::start(Backend::Embedded).await;
    let root = administrator(&app).await;
    app.advance(11 * MINUTE);
    root.open("/admin/users").await.expect(200);
    let asked = do_to(&root, "bob", "disable").await.expect(403);
    assert!(asked.body.contains("name=\"current_password\"") && asked.body.contains("disable"));
    assert!(user(&app, "bob").await.disabled_at.is_none());
    let path = format!("/admin/users/{}", user(&app, "bob").await.id);
    let given = [("act", "disable"), ("current_password", TestApp::PASSWORD)];
    root.post(&path, &given).await.expect(303);
    assert!(user(&app, "bob").await.disabled_at.is_some());
}

#[actix_web::test]
async fn a_disabled_person_is_out_everywhere_until_they_are_enabled() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = administrator(&app).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let pair = api_login(&app, "ada").await;
        let token = pair["access_token"].as_str().unwrap();
        let id = user(&app, "ada").await.id;
        do_to(&root, "ada", "disable")
            .await
            .expect_redirect(&format!("/admin/users/{id}?done=disable"));
        ada.open("/dashboard")
            .await
            .expect_redirect("/login?reason=revoked&next=%2Fdashboard");
        assert!(!is_in(&app, token).await);
        let refresh = json!({"refresh_token": pair["refresh_token"]});
        let answer = app.post_json("/api/v1/auth/refresh", &refresh).await;
        assert_eq!(answer.status(), 401);
        Browser::new(&app, "ada").sign_in(&[]).await.expect(403);
        let page = root.open(&format!("/admin/users/{id}?done=disable")).await;
        assert!(
            page.body
                .contains("The account is disabled, and logged out everywhere.")
        );
        // Done twice, it is told once.
        do_to(&root, "ada", "disable").await.expect(303);
        do_to(&root, "ada", "enable").await.expect(303);
        Browser::new(&app, "ada").log_in().await;
        let events = events(&app, "ada").await;
        let by_root = |kind: &str| {
            let events = events.iter().filter(|event| event.kind == kind);
            events
                .map(|event| event.actor_id.clone())
                .collect::<Vec<_>>()
        };
        let root = Some(user(&app, "root").await.id);
        assert_eq!(by_root("user_disabled"), std::slice::from_ref(&root));
        assert_eq!(by_root("user_enabled"), [root]);
        assert_eq!(by_root("login_ended").len(), 2);
    }
}

#[actix_web::test]
async fn a_new_role_holds_at_once_and_a_lost_one_ends_every_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = administrator(&app).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let before = bearer(&app, "ada").await;
        ada.open("/admin").await.expect(403);
        do_to(&root, "ada", "promote").await.expect(303);
        ada.open("/admin").await.expect(200);
        assert!(is_in(&app, &before).await, "a promotion ends nothing");
        do_to(&root, "ada", "demote").await.expect(303);
        ada.open("/admin")
            .await
            .expect_redirect("/login?reason=revoked&next=%2Fadmin");
        assert!(
            !is_in(&app, &before).await,
            "its tokens said more than is true"
        );
        Browser::new(&app, "ada")
            .log_in()
            .await
            .open("/admin")
            .await
            .expect(403);
        let events = events(&app, "ada").await;
        let roles = events.iter().filter(|event| event.kind == "role_changed");
        let roles: Vec<_> = roles
            .map(|event| event.detail.as_deref().unwrap())
            .collect();
        assert_eq!(roles, ["user", "admin"]);
    }
}

#[actix_web::test]
async fn a_login_under_way_while_the_role_is_taken_away_does_not_begin() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        // As they were when their password was checked.
        let checked = user(&app, "root").await;
        let (id, now) = (checked.id.clone(), app.now());
        let begun = app.app.db.write(move |conn| {
            account::set_role(conn, &id, Role::User)?;
            let client = Client {
                device: String::new(),
                ip: String::new(),
            };
            login::begin(conn, &checked, login::Kind::Api, &client, MINUTE, now)
        });
        assert!(begun.await.unwrap().is_none(), "its token would say admin");
    }
}

/// The text between two others.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).expect(before);
    rest.split_once(after).expect(after).0
}

#[actix_web::test]
async fn a_temporary_password_is_shown_once_and_replaced_at_the_first_login() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = administrator(&app).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let page = do_to(&root, "ada", "reset_password").await.expect(200);
        assert_eq!(page.header("cache-control"), "no-store");
        let password = between(&page.body, "class=\"secret-text\">", "<").to_owned();
        assert_eq!(password.len(), 23);
        let id = user(&app, "ada").await.id;
        let again = root.open(&format!("/admin/users/{id}")).await.expect(200);
        assert!(!again.body.contains(&password));
        assert!(again.body.contains("Temporary password</span>"));
        ada.open("/dashboard")
            .await
            .expect_redirect("/login?reason=password_changed&next=%2Fdashboard");
        let ada = Browser::new(&app, "ada");
        ada.sign_in(&[]).await.expect(401);
        ada.sign_in(&[("password", &password)]).await.expect(303);
        ada.open("/dashboard")
            .await
            .expect_redirect("/dashboard/password");
        let other = do_to(&root, "ada", "reset_password").await.expect(200);
        assert!(!other.body.contains(&password), "each is another");
        let events = events(&app, "ada").await;
        assert_eq!(
            events
                .iter()
                .filter(|event| event.kind == "password_reset")
                .count(),
            2
        );
        let told = format!("{events:?}");
        assert!(!told.contains(&password));
    }
}

#[actix_web::test]
async fn an_administrator_with_a_temporary_password_changes_nothing_before_they_change_it() {
    let app = TestApp::start(Backend::Embedded).await;
    let root = administrator(&app).await;
    let id = user(&app, "root").await.id;
    let reset = app.app.db.write(move |conn| {
        let hash = account::by_id(conn, &id)?.unwrap().password_hash;
        account::set_temporary_password(conn, &id, &hash)
    });
    reset.await.unwrap();
    do_to(&root, "bob", "disable")
        .await
        .expect_redirect("/dashboard/password");
    assert!(user(&app, "bob").await.disabled_at.is_none());
}

#[actix_web::test]
async fn a_temporary_password_opens_nothing_by_api_but_the_way_to_change_it() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = administrator(&app).await;
        let page = do_to(&root, "ada", "reset_password").await.expect(200);
        let password = between(&page.body, "class=\"secret-text\">", "<").to_owned();
        let log_in = async |path: &str| {
            let body = json!({"username": "ada", "email": "ada@example.org", "password": password});
            let answer = app.post_json(path, &body).await;
            assert_eq!(answer.status(), 200, "{path}");
            answer.json::<Value>().await.unwrap()["data"].take()
        };
        let pair = log_in("/api/v1/auth/token").await;
        let token = pair["access_token"].as_str().unwrap();
        let older = log_in("/api/auth/login").await;
        let older = older["sanctum_token"].as_str().unwrap();
        let routes = [
            (Method::PATCH, "/api/v1/me", json!({"name": "Eve"})),
            (Method::GET, "/api/v1/sessions", Value::Null),
            (Method::POST, "/api/v1/tokens", json!({"name": "Eve"})),
            (Method::POST, "/api/v1/auth/logout-all", Value::Null),
        ];
        for token in [token, older] {
            get(&app, token, "/api/v1/me").await.expect(200);
            for (method, path, body) in &routes {
                let answer = call(&app, token, method.clone(), path, body).await;
                let told = answer.expect(403).json();
                assert_eq!(told["code"], "forbidden", "{path}");
                let why = told["detail"].as_str().unwrap();
                assert!(why.contains("password"), "{path}: {told}");
            }
            let verified = call(&app, token, Method::GET, "/api/v1/verify", &Value::Null).await;
            verified.expect(401);
        }
        let asked = json!({ "token": token });
        let worth = bearer(&app, "root").await;
        let worth = call(
            &app,
            &worth,
            Method::POST,
            "/api/v1/auth/introspect",
            &asked,
        )
        .await;
        assert_eq!(worth.expect(200).json(), json!({"active": false}));
        let changed =
            json!({"current_password": password, "password": "staple battery horse correct"});
        let path = "/api/v1/me/password";
        let changed = call(&app, token, Method::PUT, path, &changed)
            .await
            .expect(200);
        let fresh = changed.header("x-new-access-token");
        get(&app, fresh, "/api/v1/me").await.expect(200);
        // Of another login, which has ended with the change.
        get(&app, older, "/api/v1/me").await.expect(401);
    }
}

#[actix_web::test]
async fn one_login_of_somebody_ends_or_all_of_them() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = administrator(&app).await;
        let lost = Browser::new(&app, "ada").log_in().await;
        let (one, two) = (bearer(&app, "ada").await, bearer(&app, "ada").await);
        let bobs = bearer(&app, "bob").await;
        let id = user(&app, "ada").await.id;
        let path = format!("/admin/users/{id}");
        let page = root.open(&path).await.expect(200);
        assert_eq!(page.body.matches("value=\"end_login\"").count(), 3);
        let login = lost.cookie("gapura_session");
        assert!(login.is_some());
        let sessions = get(&app, &one, "/api/v1/sessions").await.json();
        let current = sessions["data"].as_array().unwrap().iter();
        let mine = current
            .clone()
            .find(|session| session["current"] == true)
            .unwrap();
        let mine = mine["id"].as_str().unwrap();
        // Under somebody else's name it is nobody's.
        let bob = format!("/admin/users/{}", user(&app, "bob").await.id);
        let end = [("act", "end_login"), ("login", mine)];
        root.post(&bob, &end).await.expect(404);
        root.open(&path).await.expect(200);
        root.post(&path, &[("act", "end_login"), ("login", "x")])
            .await
            .expect(422);
        root.open(&path).await.expect(200);
        assert!(is_in(&app, &one).await);
        root.post(&path, &end).await.expect(303);
        assert!(!is_in(&app, &one).await && is_in(&app, &two).await);
        lost.open("/dashboard").await.expect(200);
        root.post(&path, &[("act", "end_logins")]).await.expect(303);
        assert!(!is_in(&app, &two).await && is_in(&app, &bobs).await);
        lost.open("/dashboard")
            .await
            .expect_redirect("/login?reason=revoked&next=%2Fdashboard");
        let by_root = events(&app, "ada").await;
        let ends = by_root.iter().filter(|event| event.kind == "login_ended");
        let root_id = Some(user(&app, "root").await.id);
        let ends: Vec<_> = ends.map(|event| &event.actor_id).collect();
        assert_eq!(ends, [&root_id; 3], "each end says who did it");
        // One's own present login is spared.
        let own = format!("/admin/users/{}", root_id.clone().unwrap());
        root.post(&own, &[("act", "end_logins")]).await.expect(303);
        root.open("/admin").await.expect(200);
    }
}

#[actix_web::test]
async fn the_personal_tokens_of_somebody_are_counted_and_revoked() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = administrator(&app).await;
        let path = format!("/admin/users/{}", user(&app, "ada").await.id);
        let counted = async || {
            let page = root.open(&path).await.expect(200).body;
            let (_, fact) = page.split_once("<dt>Personal tokens</dt><dd>").unwrap();
            let offered = page.contains("value=\"revoke_tokens\"");
            (fact.split('<').next().unwrap().to_owned(), offered)
        };
        assert_eq!(counted().await, ("None".to_owned(), false));
        let (ada, bob) = (bearer(&app, "ada").await, bearer(&app, "bob").await);
        let make = async |by: &str, days: u64| {
            let body = json!({"name": "A job", "expires_in_days": days});
            let made = call(&app, by, Method::POST, "/api/v1/tokens", &body).await;
            let made = made.expect(201).json();
            made["data"]["token"].as_str().unwrap().to_owned()
        };
        let (short, long, bobs) = (
            make(&ada, 1).await,
            make(&ada, 30).await,
            make(&bob, 30).await,
        );
        let body = json!({"email": "ada", "password": TestApp::PASSWORD});
        let till = app.post_json("/api/auth/login", &body).await;
        let till: Value = till.json().await.unwrap();
        let with_login = till["data"]["sanctum_token"].as_str().unwrap();
        assert_eq!(counted().await, ("3".to_owned(), true));
        let jwt = till["data"]["jwt_token"].as_str().unwrap();
        let out = call(&app, jwt, Method::POST, "/api/auth/logout", &Value::Null).await;
        out.expect(200);
        assert_eq!(
            counted().await,
            ("2".to_owned(), true),
            "ended with its login"
        );
        for token in [&short, &long, &bobs] {
            assert!(is_in(&app, token).await);
        }
        assert!(!is_in(&app, with_login).await);

        app.advance(11 * MINUTE);
        root.open(&path).await.expect(200);
        let asked = do_to(&root, "ada", "revoke_tokens").await.expect(403);
        assert!(asked.body.contains("name=\"current_password\""));
        assert!(is_in(&app, &long).await);
        let given = [
            ("act", "revoke_tokens"),
            ("current_password", TestApp::PASSWORD),
        ];
        let done = format!("{path}?done=revoke_tokens");
        root.post(&path, &given).await.expect_redirect(&done);
        let page = root.open(&done).await.expect(200);
        assert!(page.body.contains("All their personal tokens are revoked."));
        assert!(!is_in(&app, &short).await && !is_in(&app, &long).await);
        assert!(is_in(&app, &bobs).await && is_in(&app, &ada).await);
        assert_eq!(counted().await, ("None".to_owned(), false));
        let root_id = Some(user(&app, "root").await.id);
        let events = events(&app, "ada").await;
        let revoked: Vec<_> = events
            .iter()
            .filter(|event| event.kind == "token_revoked")
            .map(|event| (&event.actor_id, event.detail.as_deref()))
            .collect();
        assert_eq!(revoked, [(&root_id, Some("A job")); 2]);

        let expiring = make(&bearer(&app, "ada").await, 1).await;
        assert_eq!(counted().await.0, "1");
        assert!(is_in(&app, &expiring).await);
        // The administrator's own session does not last until then.
        app.advance(24 * 60 * MINUTE);
        let id = user(&app, "ada").await.id;
        let now = app.now();
        let living = app
            .app
            .db
            .read(move |conn| personal::count_living(conn, &id, now));
        assert_eq!(living.await.unwrap(), 0);
    }
}

#[actix_web::test]
async fn nobody_is_locked_out_by_their_own_hand_and_the_last_administrator_by_nobody() {
    let app = TestApp::start(Backend::Embedded).await;
    let root = administrator(&app).await;
    let token = bearer(&app, "root").await;
    app.add_user("second", Role::Admin).await;
    for act in ["disable", "demote", "reset_password"] {
        let answer = do_to(&root, "root", act).await.expect(409);
        assert!(
            answer
                .body
                .contains("This is your own account; ask another"),
            "{act}"
        );
    }
    let own = format!("/api/v1/users/{}", user(&app, "root").await.id);
    for (body, field) in [
        (json!({"role": "user"}), "role"),
        (json!({"disabled": true}), "disabled"),
        (
            json!({"password": "velvet otters paint the harbour"}),
            "password",
        ),
    ] {
        let answer = call(&app, &token, Method::PATCH, &own, &body)
            .await
            .expect(409);
        let problem = answer.json();
        assert_eq!(problem["code"], "conflict");
        assert!(problem["errors"][field][0].is_string(), "{problem}");
    }
    call(
        &app,
        &token,
        Method::PATCH,
        &own,
        &json!({"name": "Root", "role": "admin"}),
    )
    .await
    .expect(200);
    // A disabled administrator is nobody to rely on.
    do_to(&root, "second", "disable").await.expect(303);
    let id = user(&app, "root").await.id;
    for changes in [
        Changes {
            role: Some(Role::User),
            ..Changes::default()
        },
        Changes {
            disabled: Some(true),
            ..Changes::default()
        },
    ] {
        let (id, now) = (id.clone(), app.now());
        let outcome = app
            .app
            .db
            .write(move |conn| admin::change(conn, &id, &changes, &Doer::operator(), now));
        let outcome = outcome.await.unwrap();
        assert!(matches!(outcome, Outcome::Refused(Refusal::LastAdmin)));
    }
    let root_now = user(&app, "root").await;
    assert!(root_now.role == "admin" && root_now.disabled_at.is_none());
    root.open("/admin").await.expect(200);
    // Somebody who is not let in anyway can be demoted all the same.
    do_to(&root, "second", "demote").await.expect(303);
}

#[actix_web::test]
async fn two_administrators_who_demote_each_other_at_once_leave_one() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (one, two) = (user(&app, "ada").await.id, user(&app, "bob").await.id);
        let root = user(&app, "root").await.id;
        let role = |id: &str, role| {
            let id = id.to_owned();
            app.app
                .db
                .write(move |conn| account::set_role(conn, &id, role))
        };
        role(&root, Role::User).await.unwrap();
        for round in 0..100 {
            role(&one, Role::Admin).await.unwrap();
            role(&two, Role::Admin).await.unwrap();
            let strike = |by: &str, at: &str| {
                let client = Client {
                    device: String::new(),
                    ip: String::new(),
                };
                let doer = Doer {
                    id: Some(by.to_owned()),
                    client,
                };
                let changes = match round % 2 {
                    0 => Changes {
                        role: Some(Role::User),
                        ..Changes::default()
                    },
                    _ => Changes {
                        disabled: Some(true),
                        ..Changes::default()
                    },
                };
                let (at, now) = (at.to_owned(), app.now());
                app.app
                    .db
                    .write(move |conn| admin::change(conn, &at, &changes, &doer, now))
            };
            let (first, second) = join(strike(&one, &two), strike(&two, &one)).await;
            let outcomes = [first.unwrap(), second.unwrap()];
            let done = outcomes
                .iter()
                .filter(|outcome| matches!(outcome, Outcome::Done(_)));
            assert_eq!(done.count(), 1, "{backend:?}, round {round}");
            for id in [&one, &two] {
                let id = id.clone();
                let enabled = app
                    .app
                    .db
                    .write(move |conn| account::set_disabled(conn, &id, None));
                enabled.await.unwrap();
            }
        }
    }
}

#[actix_web::test]
async fn a_person_is_added_on_a_page_with_a_password_of_their_own_to_come() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = administrator(&app).await;
        root.open("/admin/users/new").await.expect(200);
        let form = [
            ("username", "Eve.Online"),
            ("email", "Eve@Example.org"),
            ("name", ""),
            ("role", "user"),
        ];
        let page = root.post("/admin/users/new", &form).await.expect(201);
        let password = between(&page.body, "class=\"secret-text\">", "<").to_owned();
        let eve = user(&app, "eve.online").await;
        assert_eq!(
            (eve.name.as_str(), eve.email.as_str(), eve.role.as_str()),
            ("Eve.Online", "eve@example.org", "user")
        );
        let browser = Browser::new(&app, "eve.online");
        browser
            .sign_in(&[("password", &password)])
            .await
            .expect(303);
        browser
            .open("/dashboard")
            .await
            .expect_redirect("/dashboard/password");
        let created = events(&app, "eve.online").await;
        let created = created
            .iter()
            .find(|event| event.kind == "user_created")
            .unwrap();
        assert_eq!(created.actor_id, Some(user(&app, "root").await.id));
        let again = root.post("/admin/users/new", &form).await.expect(409);
        assert!(again.body.contains("Somebody has this username already."));
        assert!(again.body.contains("Somebody has this address already."));
        assert!(
            again.body.contains("value=\"Eve.Online\""),
            "what was typed comes back"
        );
        let wrong = [
            ("username", "x"),
            ("email", "\"><script>"),
            ("name", "a\u{202e}b"),
            ("role", "user"),
        ];
        let answer = root.post("/admin/users/new", &wrong).await.expect(422);
        assert!(answer.body.contains("A username has 3 to 64"));
        assert!(answer.body.contains("This is not an email address."));
        assert!(answer.body.contains("all of them visible"));
        assert!(!answer.body.contains("<script>"));
        let role = [
            ("username", "mallory"),
            ("email", "m@example.org"),
            ("role", "emperor"),
        ];
        root.post("/admin/users/new", &role).await.expect(422);
    }
}

#[actix_web::test]
async fn a_person_is_added_by_api_once() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let token = bearer(&app, "root").await;
        let body = json!({"username": "Eve", "email": "eve@example.org", "name": "Eve Ning", "password": "velvet otters paint the harbour"});
        let answer = call(&app, &token, Method::POST, "/api/v1/users", &body)
            .await
            .expect(201);
        let out = &answer.json()["data"];
        let id = out["id"].as_str().unwrap();
        assert_eq!(
            out,
            &json!({
                "id": id, "username": "eve", "email": "eve@example.org", "email_verified": false,
                "name": "Eve Ning", "role": "user", "disabled": false, "must_change_password": false,
                "created_at": app.now(), "last_login_at": null,
            })
        );
        assert_eq!(
            get(&app, &token, &format!("/api/v1/users/{id}"))
                .await
                .expect(200)
                .json()["data"],
            *out
        );
        for (more, fields) in [
            (json!({}), &["email", "username"][..]),
            (json!({"email": "other@example.org"}), &["username"]),
            (json!({"username": "other"}), &["email"]),
        ] {
            let mut body = body.clone();
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            let answer = call(&app, &token, Method::POST, "/api/v1/users", &body)
                .await
                .expect(409);
            let problem = answer.json();
            let errors = problem["errors"].as_object().unwrap();
            assert_eq!(errors.keys().collect::<Vec<_>>(), fields, "{problem}");
        }
        for (body, field) in [
            (json!({}), "username"),
            (
                json!({"username": "x", "email": "x@example.org", "password": PASSWORD}),
                "username",
            ),
            (
                json!({"username": "xeno", "email": "x", "password": PASSWORD}),
                "email",
            ),
            (
                json!({"username": "xeno", "email": "x@example.org", "password": "password1234"}),
                "password",
            ),
            (
                json!({"username": "xeno", "email": "x@example.org", "password": PASSWORD, "role": "root"}),
                "role",
            ),
            (
                json!({"username": "xeno", "email": "x@example.org", "password": PASSWORD, "name": null}),
                "name",
            ),
        ] {
            let answer = call(&app, &token, Method::POST, "/api/v1/users", &body)
                .await
                .expect(422);
            let problem = answer.json();
            assert!(
                problem["errors"][field][0].is_string(),
                "{field}: {problem}"
            );
        }
    }
}

#[actix_web::test]
async fn what_would_last_needs_a_password_given_lately() {
    let app = TestApp::start(Backend::Embedded).await;
    let token = bearer(&app, "root").await;
    app.advance(11 * MINUTE);
    let path = format!("/api/v1/users/{}", user(&app, "bob").await.id);
    let patch = async |body: Value| call(&app, &token, Method::PATCH, &path, &body).await;
    patch(json!({"name": "Robert"})).await.expect(200);
    for body in [
        json!({"role": "admin"}),
        json!({"disabled": true}),
        json!({"email": "robert@example.org"}),
        json!({"password": "velvet otters paint the harbour"}),
    ] {
        let answer = patch(body.clone()).await.expect(403);
        assert_eq!(answer.json()["code"], "reauthentication_required", "{body}");
    }
    let new = json!({"username": "eve", "email": "eve@example.org", "password": "velvet otters paint the harbour", "role": "admin"});
    let answer = call(&app, &token, Method::POST, "/api/v1/users", &new)
        .await
        .expect(403);
    assert_eq!(answer.json()["code"], "reauthentication_required");
    let wrong = json!({"disabled": true, "current_password": "not it"});
    assert!(patch(wrong).await.expect(422).json()["errors"]["current_password"][0].is_string());
    let bob = user(&app, "bob").await;
    assert!(bob.disabled_at.is_none() && bob.role == "user" && bob.email == "bob@example.org");
    let given = json!({"disabled": true, "current_password": TestApp::PASSWORD});
    assert_eq!(
        patch(given).await.expect(200).json()["data"]["disabled"],
        true
    );
}

#[actix_web::test]
async fn a_partial_change_leaves_the_rest_and_is_all_or_nothing() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let token = bearer(&app, "root").await;
        let ada = bearer(&app, "ada").await;
        let before = user(&app, "ada").await;
        let path = format!("/api/v1/users/{}", before.id);
        let patch = async |body: Value| call(&app, &token, Method::PATCH, &path, &body).await;
        let out = patch(json!({"name": "Ada Lovelace", "username": "Countess"}))
            .await
            .expect(200)
            .json();
        assert_eq!(out["data"]["name"], "Ada Lovelace");
        assert_eq!(out["data"]["last_login_at"], json!(app.now()));
        let after = user(&app, "countess").await;
        assert_eq!(
            (after.email, after.password_hash),
            (before.email, before.password_hash)
        );
        assert!(is_in(&app, &ada).await, "a name ends no login");
        // The address is taken, so the role stays, too.
        let answer = patch(json!({"role": "admin", "email": "bob@example.org"}))
            .await
            .expect(409);
        assert!(answer.json()["errors"]["email"][0].is_string());
        assert_eq!(user(&app, "countess").await.role, "user");
        let told = events(&app, "countess").await;
        let changed: Vec<_> = told
            .iter()
            .filter(|event| event.kind == "user_changed")
            .collect();
        assert_eq!(changed.len(), 2);
        assert!(told.iter().all(|event| event.kind != "role_changed"));
        patch(json!({"password": "velvet otters paint the harbour"}))
            .await
            .expect(200);
        assert!(!is_in(&app, &ada).await);
        assert!(user(&app, "countess").await.must_change_password);
        for (body, field) in [
            (json!({"disabled": "yes"}), "disabled"),
            (json!({"disabled": null}), "disabled"),
            (json!({"role": ""}), "role"),
            (json!({"name": "\u{0}"}), "name"),
            (json!({"password": ""}), "password"),
            (json!({"password": "countess1234"}), "password"),
        ] {
            let answer = patch(body.clone()).await.expect(422);
            assert!(answer.json()["errors"][field][0].is_string(), "{body}");
        }
        for id in [NOBODY, "x", "%00", "'", "%2e%2e"] {
            let path = format!("/api/v1/users/{id}");
            get(&app, &token, &path).await.expect(404);
            call(&app, &token, Method::PATCH, &path, &json!({"name": "x"}))
                .await
                .expect(404);
        }
    }
}

async fn found(app: &TestApp, token: &str, q: &str) -> Vec<String> {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("q", q)
        .finish();
    let answer = get(app, token, &format!("/api/v1/users?{query}"))
        .await
        .expect(200)
        .json();
    let data = answer["data"].as_array().unwrap().iter();
    data.map(|user| user["username"].as_str().unwrap().to_owned())
        .collect()
}

#[actix_web::test]
async fn people_are_found_by_part_of_a_name_and_wildcards_are_letters() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let token = bearer(&app, "root").await;
        for (username, name) in [("eve_1", "Ève 100% \\ Online"), ("eve21", "Jürgen ÉCOLE")] {
            let added = app.add_user(username, Role::User).await;
            let renamed = User {
                name: name.to_owned(),
                ..added
            };
            let named = app
                .app
                .db
                .write(move |conn| account::set_names(conn, &renamed));
            named.await.unwrap();
        }
        for (q, expected) in [
            ("", &["ada", "bob", "eve21", "eve_1", "root"][..]),
            ("EVE", &["eve21", "eve_1"]),
            ("eve_", &["eve_1"]),
            ("%", &["eve_1"]),
            ("\\", &["eve_1"]),
            ("0% \\ o", &["eve_1"]),
            ("ADA@example", &["ada"]),
            ("ÉCOLE", &["eve21"]),
            ("jürgen", &["eve21"]),
            ("' OR 1=1 --", &[]),
        ] {
            let mut found = found(&app, &token, q).await;
            // `_` sorts before or after digits as the database's language has it.
            found.sort();
            assert_eq!(found, expected, "{backend:?} {q}");
        }
        get(&app, &token, "/api/v1/users?q=%00").await.expect(422);
        let long = "x".repeat(101);
        get(&app, &token, &format!("/api/v1/users?q={long}"))
            .await
            .expect(422);
        let root = administrator(&app).await;
        let page = root
            .open("/admin/users?q=%3Cscript%3Ealert(1)")
            .await
            .expect(200);
        assert!(page.body.contains("Nobody matches that") && !page.body.contains("<script>alert"));
    }
}

#[actix_web::test]
async fn everybody_is_listed_once_in_pieces() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let token = bearer(&app, "root").await;
        for number in 0..57 {
            app.add_user(&format!("user-{number}"), Role::User).await;
        }
        let whole = get(&app, &token, "/api/v1/users?limit=200")
            .await
            .expect(200)
            .json();
        assert_eq!(whole["meta"]["next"], Value::Null);
        let whole = whole["data"].as_array().unwrap().clone();
        assert_eq!(whole.len(), 60);
        let mut pieces = Vec::new();
        let mut path = "/api/v1/users?limit=7&q=".to_owned();
        loop {
            let piece = get(&app, &token, &path).await.expect(200).json();
            pieces.extend(piece["data"].as_array().unwrap().clone());
            let Some(next) = piece["meta"]["next"].as_str() else {
                break;
            };
            path = format!("/api/v1/users?limit=7&cursor={next}");
        }
        assert_eq!(pieces, whole);
        let root = administrator(&app).await;
        let page = root.open("/admin/users?q=user").await.expect(200);
        assert_eq!(page.body.matches("class=\"person-name\"").count(), 50);
        let next = between(&page.body, "rel=\"next\" href=\"", "\"").replace("&#38;", "&");
        let rest = root.open(&next).await.expect(200);
        assert_eq!(rest.body.matches("class=\"person-name\"").count(), 7);
        assert!(!rest.body.contains("rel=\"next\"") && rest.body.contains("To the beginning"));
        for wrong in ["limit=0", "limit=201", "limit=x", "cursor=", "cursor=%00"] {
            get(&app, &token, &format!("/api/v1/users?{wrong}"))
                .await
                .expect(422);
        }
    }
}

#[actix_web::test]
async fn hostile_names_and_devices_are_text() {
    let app = TestApp::start(Backend::Embedded).await;
    let root = administrator(&app).await;
    let hostile = "<script>alert(1)</script>";
    let ada = user(&app, "ada").await;
    let renamed = User {
        name: format!("\"'>{hostile}"),
        ..ada.clone()
    };
    let named = app
        .app
        .db
        .write(move |conn| account::set_names(conn, &renamed));
    named.await.unwrap();
    let body = json!({"username": "ada", "password": TestApp::PASSWORD, "device_name": hostile});
    assert_eq!(
        app.post_json("/api/v1/auth/token", &body).await.status(),
        200
    );
    for path in [
        "/admin/users".to_owned(),
        format!("/admin/users/{}", ada.id),
    ] {
        let page = root.open(&path).await.expect(200);
        assert!(
            !page.body.contains("<script>alert") && page.body.contains("alert(1)"),
            "{path}"
        );
        assert!(!page.body.contains("\"'>"), "{path}");
    }
    for id in [NOBODY, "x", "%00", "%3Cscript%3E"] {
        root.open(&format!("/admin/users/{id}")).await.expect(404);
        root.open("/admin/users").await.expect(200);
        root.post(&format!("/admin/users/{id}"), &[("act", "disable")])
            .await
            .expect(404);
    }
}

#[actix_web::test]
async fn the_figures_are_what_happened() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = administrator(&app).await;
        for name in ["ada", "nobody-at-all"] {
            Browser::new(&app, name)
                .sign_in(&[("password", "not the one")])
                .await
                .expect(401);
        }
        let pair = api_login(&app, "ada").await;
        let refresh = async |token: &Value| {
            let answer = app
                .post_json("/api/v1/auth/refresh", &json!({"refresh_token": token}))
                .await;
            (
                answer.status().as_u16(),
                answer.json::<Value>().await.unwrap(),
            )
        };
        app.advance(20 * MINUTE);
        let (status, next) = refresh(&pair["refresh_token"]).await;
        assert_eq!(status, 200);
        // Within the grace: the same once more.
        assert_eq!(refresh(&pair["refresh_token"]).await.0, 200);
        // Written down twice in a day, it is one figure.
        root.open("/admin").await.expect(200);
        app.advance(40 * MINUTE);
        let (status, last) = refresh(&next["data"]["refresh_token"]).await;
        assert_eq!(status, 200);
        let forged = "A".repeat(64);
        for token in [json!(forged), json!("short"), pair["refresh_token"].clone()] {
            assert_eq!(refresh(&token).await.0, 401);
        }
        assert_eq!(refresh(&last["data"]["refresh_token"]).await.0, 401);
        root.open("/admin").await.expect(200);
        let read = read(&app).await;
        let total = read.total();
        assert_eq!((total.logins, total.failures), (2, 2), "{backend:?}");
        assert_eq!((total.refreshed, total.repeated), (2, 1));
        // The stolen one ended the login, and what came after met the same end.
        assert_eq!((total.invalid, total.reused, total.expired), (2, 2, 0));
        assert_eq!(total.time_between_refreshes(), Some(30 * MINUTE));
        assert_eq!(total.success_rate(), Some(300.0 / 7.0));
        assert_eq!((read.people, read.live_browsers, read.live_api), (3, 1, 0));
        assert_eq!(read.durations, [[0; 6], [1, 0, 0, 0, 0, 0]]);
        assert_eq!(read.days.len(), overview::DAYS);

        // A login is over at its hard end whether or not anybody has come to see it.
        app.advance(Duration::from_secs(23 * 3600 + 60));
        let later = self::read(&app).await;
        assert_eq!((later.live_browsers, later.live_api), (0, 0));
        assert_eq!(later.durations, [[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]);
        app.advance(Duration::from_secs(31 * 86_400));
        let gone = self::read(&app).await.total();
        assert_eq!((gone.logins, gone.refreshed), (0, 0));
    }
}

async fn read(app: &TestApp) -> overview::Overview {
    let (idle, now) = (app.app.config.clocks.session_idle_timeout, app.now());
    let days = std::sync::Arc::clone(&app.app.days);
    let read = app
        .app
        .db
        .read(move |conn| overview::read(conn, &days, idle, now));
    read.await.unwrap()
}

#[actix_web::test]
async fn a_last_login_is_known_long_after_the_login_itself_is_forgotten() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let at = app.now();
        api_login(&app, "ada").await;
        app.advance(Duration::from_secs(40 * 86_400));
        let (config, now) = (&app.app.config, app.now());
        let swept = gapura::login::delete_old;
        let deleted = app
            .app
            .db
            .write(move |conn| swept(conn, now, 100))
            .await
            .unwrap();
        assert_eq!(deleted, (2, 1));
        assert!(config.audit_retention > Duration::from_secs(40 * 86_400));
        let token = bearer(&app, "root").await;
        let path = format!("/api/v1/users/{}", user(&app, "ada").await.id);
        let out = get(&app, &token, &path).await.expect(200).json();
        assert_eq!(out["data"]["last_login_at"], json!(at));
    }
}

#[test]
fn the_command_line_keeps_the_same_rules() {
    let place = Place::new();
    add_user(&place, "ada");
    let told = place.run(&["user", "set-role", "ada", "emperor"]);
    assert!(
        !told.good && told.err.contains("the role must be user or admin"),
        "{told:?}"
    );
    let told = place.run(&["user", "set-role", "ada", "admin"]);
    assert!(
        told.good && told.out.contains("The role of ada is admin now"),
        "{told:?}"
    );
    for wrong in [
        ["user", "set-role", "ada", "user"].as_slice(),
        &["user", "disable", "ada"],
    ] {
        let told = place.run(wrong);
        assert!(
            !told.good && told.err.contains("only administrator who can log in"),
            "{told:?}"
        );
    }
    add_user(&place, "bob");
    assert!(place.run(&["user", "set-role", "bob", "admin"]).good);
    assert!(place.run(&["user", "set-role", "ada", "user"]).good);
    let told = place.run(&["user", "list"]);
    assert!(
        told.out
            .lines()
            .any(|line| line.starts_with("ada") && line.contains(" user ")),
        "{told:?}"
    );
}

#[actix_web::test]
async fn the_api_ends_the_logins_of_others_and_all_of_ones_own_but_one() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let root = bearer(&app, "root").await;
        let (one, two, three) = (
            bearer(&app, "ada").await,
            bearer(&app, "ada").await,
            bearer(&app, "ada").await,
        );
        let path = format!("/api/v1/users/{}/sessions", user(&app, "ada").await.id);
        get(&app, &one, &path).await.expect(403);
        let list = get(&app, &root, &path).await.expect(200).json();
        assert_eq!(list["data"].as_array().unwrap().len(), 3);
        let last = list["data"][0]["id"].as_str().unwrap();
        app.advance(Duration::from_secs(11 * 60));
        let end = format!("{path}/{last}");
        let answer = call(&app, &root, Method::DELETE, &end, &Value::Null).await;
        assert_eq!(
            answer.expect(403).json()["code"],
            "reauthentication_required"
        );
        let password = json!({"current_password": TestApp::PASSWORD});
        call(&app, &root, Method::DELETE, &end, &password)
            .await
            .expect(200);
        call(&app, &root, Method::DELETE, &end, &password)
            .await
            .expect(200);
        assert!(is_in(&app, &one).await && is_in(&app, &two).await && !is_in(&app, &three).await);
        let nobodys = format!("{path}/00000000-0000-7000-8000-000000000000");
        call(&app, &root, Method::DELETE, &nobodys, &password)
            .await
            .expect(404);
        // One's own: every other.
        call(&app, &one, Method::DELETE, "/api/v1/sessions", &Value::Null)
            .await
            .expect(200);
        assert!(is_in(&app, &one).await && !is_in(&app, &two).await);
        call(&app, &root, Method::DELETE, &path, &password)
            .await
            .expect(200);
        assert!(!is_in(&app, &one).await && is_in(&app, &root).await);
    }
}
