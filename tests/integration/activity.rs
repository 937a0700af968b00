//! The audit log: what is written, who may read it, and how it is shown and taken away.

use std::time::Duration;

use gapura::account;
use gapura::audit::{self, Actor, Event, Filter, Kind};
use gapura::command::cleanup;
use gapura::login::{self, Cause, Client};
use reqwest::Method;
use serde_json::{Value, json};

use crate::actors::{Answer, Browser};
use crate::harness::{Backend, TestApp};

const DAY: Duration = Duration::from_secs(86_400);
const FIREFOX: &str = "Firefox on Linux";

/// What a person reads by API; `query` begins with `?` or is empty.
async fn events(who: &Browser<'_>, query: &str) -> Vec<Value> {
    let answer = ask(who, query).await.expect(200).json();
    answer["data"].as_array().unwrap().clone()
}

async fn ask(who: &Browser<'_>, query: &str) -> Answer {
    let path = format!("/api/v1/audit{query}");
    who.send(who.script(Method::GET, &path)).await
}

async fn id_of(app: &TestApp, name: &'static str) -> String {
    let user = app.app.db.read(|conn| account::by_login_name(conn, name));
    user.await.unwrap().unwrap().id
}

/// Logs in by API under a device name of its own.
async fn api_login(app: &TestApp, name: &str, password: &str, device: &str) -> u16 {
    let body = json!({"username": name, "password": password, "device_name": device});
    let answer = app.post_json("/api/v1/auth/token", &body).await;
    answer.status().as_u16()
}

/// Everything that is in the log.
/// Everything that happened to people or because of them.
async fn all(app: &TestApp) -> Vec<Event> {
    let filter = Filter::default();
    let all = app
        .app
        .db
        .read(move |conn| audit::page(conn, &filter, None, 100_000));
    let mut all = all.await.unwrap();
    all.retain(|event| event.kind != Kind::SigningKeyMade.name());
    all
}

async fn write(app: &TestApp, events: Vec<Event>) {
    let write = app
        .app
        .db
        .write(move |conn| events.iter().try_for_each(|one| audit::record(conn, one)));
    write.await.unwrap();
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().map(|event| event["kind"].as_str().unwrap());
    kinds.collect()
}

#[actix_web::test]
async fn a_person_reads_their_own_events_newest_first_and_in_pieces() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (id, now) = (id_of(&app, "ada").await, app.now());
        Browser::new(&app, "bob").log_in().await;
        let lost = Browser::new(&app, "ada").log_in().await;
        app.advance(Duration::from_secs(1));
        lost.log_out().await.expect(303);
        app.advance(Duration::from_secs(1));
        let ada = Browser::new(&app, "ada").log_in().await;
        let mine = events(&ada, "").await;
        assert_eq!(kinds(&mine), ["login", "login_ended", "login"]);
        let first = &mine[2];
        assert_eq!(
            *first,
            json!({
                "id": first["id"], "at": now.rfc3339(), "kind": "login", "user_id": id,
                "actor_id": id, "login_id": first["login_id"], "device": FIREFOX,
                "ip": "127.0.0.1", "cause": null, "detail": null,
            })
        );
        assert_eq!(mine[1]["cause"], "logged_out");
        assert_eq!(mine[1]["login_id"], first["login_id"]);
        assert_eq!(mine[1]["actor_id"], json!(id));

        let mut cursor = String::new();
        for expected in &mine {
            let piece = ask(&ada, &format!("?limit=1{cursor}"))
                .await
                .expect(200)
                .json();
            assert_eq!(piece["data"], json!([expected]));
            cursor = format!(
                "&cursor={}",
                piece["meta"]["next"].as_str().unwrap_or("none")
            );
        }
        assert_eq!(cursor, "&cursor=none", "the last piece says so");
        assert_eq!(events(&ada, "?kind=login_ended").await.len(), 1);
        assert_eq!(events(&ada, "?kind=login_ended,login").await.len(), 3);
        let refused = ask(&ada, "?kind=nonsense").await.expect(422).json();
        assert!(refused["errors"]["kind"].is_array(), "{refused}");
        assert_eq!(
            app.http
                .get(format!("{}/api/v1/audit", app.url))
                .send()
                .await
                .unwrap()
                .status(),
            401
        );
    }
}

#[actix_web::test]
async fn nobody_but_an_administrator_reads_the_events_of_others() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let bob = Browser::new(&app, "bob").log_in().await;
        let root = Browser::new(&app, "root").log_in().await;
        let (ada_id, bob_id) = (id_of(&app, "ada").await, id_of(&app, "bob").await);
        ask(&bob, &format!("?user={ada_id}")).await.expect(403);
        assert_eq!(events(&bob, &format!("?user={bob_id}")).await.len(), 1);
        let everything = events(&root, "?kind=login").await;
        assert_eq!(everything.len(), 3);
        let of_ada = events(&root, &format!("?user={ada_id}")).await;
        assert_eq!(of_ada, events(&ada, "").await);
        // Who is no administrator any more is none at the next request.
        let demote = app.app.db.write(|conn| {
            use diesel::connection::SimpleConnection;
            conn.batch_execute("UPDATE users SET role = 'user' WHERE username = 'root'")
        });
        demote.await.unwrap();
        assert_eq!(events(&root, "").await.len(), 1);
        ask(&root, &format!("?user={ada_id}")).await.expect(403);
    }
}

#[actix_web::test]
async fn an_end_says_who_did_it_and_from_where() {
    const NEW: &str = "velvet otters paint the harbour";
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let id = id_of(&app, "ada").await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let ended = async |cause: &str| -> Value {
            let ended = events(&ada, "?kind=login_ended").await;
            let ended = ended.into_iter().find(|event| event["cause"] == cause);
            ended.unwrap_or_else(|| panic!("no {cause}"))
        };
        assert_eq!(
            api_login(&app, "ada", TestApp::PASSWORD, "the phone").await,
            200
        );
        ada.open("/dashboard/sessions").await.expect(200);
        ada.post("/dashboard/sessions/revoke-others", &[])
            .await
            .expect(303);
        let revoked = ended("revoked").await;
        assert_eq!(
            api_login(&app, "ada", TestApp::PASSWORD, "the phone").await,
            200
        );
        ada.open("/dashboard/password").await.expect(200);
        let form = [
            ("current_password", TestApp::PASSWORD),
            ("password", NEW),
            ("password_confirmation", NEW),
        ];
        ada.post("/dashboard/password", &form).await.expect(303);
        for event in [revoked, ended("password_changed").await] {
            assert_eq!(event["actor_id"], json!(id), "{event}");
            assert_eq!(
                event["device"], FIREFOX,
                "seen from the device it was done at"
            );
            assert_eq!(
                event["detail"], "the phone",
                "about the device it was done to"
            );
            assert_eq!(event["ip"], "127.0.0.1");
        }
    }
}

#[actix_web::test]
async fn what_an_administrator_did_is_told_but_not_where_they_sat() {
    let app = TestApp::start(Backend::Embedded).await;
    let (ada_id, root_id) = (id_of(&app, "ada").await, id_of(&app, "root").await);
    let ada = Browser::new(&app, "ada").log_in().await;
    let root = Browser::new(&app, "root").log_in().await;
    let (subject, actor, now) = (ada_id.clone(), root_id.clone(), app.now());
    let end = app.app.db.write(move |conn| {
        let client = Client {
            device: "Chrome on Linux".into(),
            ip: "192.0.2.7".into(),
        };
        let by = Some(Actor::person(&actor, &client));
        login::end_all_of(conn, &subject, Cause::Revoked, None, by, now)
    });
    assert_eq!(end.await.unwrap().len(), 1);
    let seen = events(&root, &format!("?user={ada_id}&kind=login_ended")).await;
    assert_eq!(seen[0]["actor_id"], json!(root_id));
    assert_eq!(seen[0]["ip"], "192.0.2.7");
    drop(ada);
    let ada = Browser::new(&app, "ada").log_in().await;
    let seen = events(&ada, "?kind=login_ended").await;
    assert_eq!(seen[0]["actor_id"], json!(root_id));
    assert_eq!(
        (&seen[0]["ip"], &seen[0]["device"]),
        (&Value::Null, &Value::Null)
    );
    for path in ["", ".csv", ".json"] {
        let answer = ada
            .open(&format!("/dashboard/activity{path}"))
            .await
            .expect(200);
        assert!(!answer.body.contains("192.0.2.7"), "{}", answer.body);
    }
    let page = ada.open("/dashboard/activity").await.expect(200).body;
    let told = "The login on Firefox on Linux was ended, by an administrator";
    assert!(page.contains(told), "{page}");
}

#[actix_web::test]
async fn failures_are_recorded_with_their_reason_and_without_what_was_typed() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let eve = app.add_user("eve", gapura::account::Role::User).await;
        let (id, now) = (eve.id.clone(), app.now());
        let disable = app
            .app
            .db
            .write(move |conn| account::set_disabled(conn, &id, Some(now)));
        disable.await.unwrap();
        assert_eq!(api_login(&app, "ada", "hunter2hunter2", "x").await, 401);
        assert_eq!(
            api_login(&app, "hunter3hunter3", "hunter2hunter2", "x").await,
            401
        );
        assert_eq!(api_login(&app, "eve", TestApp::PASSWORD, "x").await, 403);
        let failures = all(&app).await;
        let told: Vec<_> = failures
            .iter()
            .map(|event| (event.user_id.as_deref(), event.cause.as_deref().unwrap()))
            .collect();
        let ada = id_of(&app, "ada").await;
        assert_eq!(
            told,
            [
                (Some(eve.id.as_str()), "account_disabled"),
                (None, "unknown_user"),
                (Some(ada.as_str()), "invalid_credentials"),
            ]
        );
        assert!(failures.iter().all(|event| event.actor_id.is_none()));
        let log = format!("{failures:?}");
        assert!(
            !log.contains("hunter") && !log.contains(TestApp::PASSWORD),
            "{log}"
        );
    }
}

#[actix_web::test]
async fn the_page_tells_my_log_in_words_by_kind_by_time_and_a_page_at_a_time() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let id = id_of(&app, "ada").await;
        let start = app.now() - 40 * DAY;
        let client = Client {
            device: FIREFOX.into(),
            ip: "192.0.2.9".into(),
        };
        // One a day, 1 to 40 days ago; every tenth failed.
        let past = (0..40u32).map(|day| {
            let kind = if day % 10 == 9 {
                Kind::LoginFailed
            } else {
                Kind::Login
            };
            Event::new(kind, &id, start + day * DAY)
                .seen_from(&client)
                .of_login(&format!("day-{day}"))
        });
        write(&app, past.collect()).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let rows = |page: &str| page.matches("class=\"event-text\"").count();
        let link = |page: &str, rel: &str| {
            let (_, rest) = page.split_once(&format!("rel=\"{rel}\" href=\""))?;
            Some(rest.split('"').next()?.replace("&#38;", "&"))
        };
        let first = ada.open("/dashboard/activity").await.expect(200).body;
        assert_eq!(rows(&first), 20);
        assert_eq!(link(&first, "prev"), None);
        assert!(first.contains("<h3>Today</h3>") && first.contains("<h3>Yesterday</h3>"));
        let second = ada
            .open(&link(&first, "next").unwrap())
            .await
            .expect(200)
            .body;
        assert_eq!(rows(&second), 20);
        let third = ada
            .open(&link(&second, "next").unwrap())
            .await
            .expect(200)
            .body;
        assert_eq!((rows(&third), link(&third, "next")), (1, None));
        let main = |page: &str| page.split_once("<ol").unwrap().1.to_owned();
        let back = ada
            .open(&link(&third, "prev").unwrap())
            .await
            .expect(200)
            .body;
        assert_eq!(main(&back), main(&second));
        let back = ada
            .open(&link(&back, "prev").unwrap())
            .await
            .expect(200)
            .body;
        assert_eq!(main(&back), main(&first), "the first page again");

        let failures = ada
            .open("/dashboard/activity?show=failures")
            .await
            .expect(200)
            .body;
        assert_eq!(rows(&failures), 4);
        assert_eq!(failures.matches("class=\"event-bad\"").count(), 4);
        let lately = ada
            .open("/dashboard/activity?show=failures&period=month")
            .await;
        assert_eq!(rows(&lately.expect(200).body), 3);
        let none = ada
            .open("/dashboard/activity?show=changes")
            .await
            .expect(200)
            .body;
        assert!(none.contains("Nothing of this kind") && !none.contains("activity.csv"));
        // A link that makes no sense shows the log all the same.
        let odd = "/dashboard/activity?show=%00&period=never&after=%00&before=x";
        assert_eq!(rows(&ada.open(odd).await.expect(200).body), 20);

        // The chart: 27 logins of the last 29 whole days, the one just now, and three failures.
        assert!(first.contains("Logins: 27, Failed attempts: 3."), "{first}");
        assert!(first.contains(&format!(
            "<th scope=\"row\">{}",
            gapura::i18n::Lang::English.day(app.now())
        )));
    }
}

#[actix_web::test]
async fn the_log_is_taken_away_whole_as_csv_and_as_json() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let formula = "=HYPERLINK(\"http://evil.example\",\"x\")";
        assert_eq!(
            api_login(&app, "ada", TestApp::PASSWORD, formula).await,
            200
        );
        assert_eq!(
            api_login(&app, "bob", TestApp::PASSWORD, "of bob").await,
            200
        );
        let (id, start) = (id_of(&app, "ada").await, app.now() - 2 * DAY);
        let past =
            (0..1200u32).map(|n| Event::new(Kind::Login, &id, start + n * Duration::from_secs(1)));
        write(&app, past.collect()).await;
        let ada = Browser::new(&app, "ada").log_in().await;
        let csv = ada.open("/dashboard/activity.csv").await.expect(200);
        let name = format!("gapura-activity-{}", &app.now().rfc3339()[..10]);
        assert_eq!(
            csv.header("content-disposition"),
            format!("attachment; filename=\"{name}.csv\"")
        );
        assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
        assert_eq!(csv.header("cache-control"), "no-store");
        let mut reader = csv::Reader::from_reader(csv.body.as_bytes());
        let names = reader.headers().unwrap().clone();
        let lines: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(lines.len(), 1202);
        let json = ada.open("/dashboard/activity.json").await.expect(200);
        assert_eq!(
            json.header("content-disposition"),
            format!("attachment; filename=\"{name}.json\"")
        );
        let json = json.json();
        let json = json.as_array().unwrap();
        assert_eq!(json.len(), 1202);
        for (line, event) in lines.iter().zip(json) {
            for (name, field) in names.iter().zip(line) {
                let expected = event[name].as_str().unwrap_or_default();
                assert_eq!(field.strip_prefix('\'').unwrap_or(field), expected);
            }
        }
        assert!(
            csv.body.contains("\"'=HYPERLINK("),
            "no spreadsheet runs it"
        );
        assert!(!csv.body.contains("of bob"));
        let failures = ada.open("/dashboard/activity.json?show=failures").await;
        assert_eq!(failures.expect(200).json(), json!([]));
        let stranger = Browser::new(&app, "bob");
        stranger.open("/dashboard/activity.csv").await.expect(303);
    }
}

#[actix_web::test]
async fn an_administrator_reads_everybodys_log_in_words_by_person_and_as_files() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let (ada, bob) = (id_of(&app, "ada").await, id_of(&app, "bob").await);
        assert_eq!(
            api_login(&app, "ada", TestApp::PASSWORD, "the phone").await,
            200
        );
        assert_eq!(
            api_login(&app, "nobody", TestApp::PASSWORD, "thief").await,
            401
        );
        let root = Browser::new(&app, "root").log_in().await;
        root.open("/admin").await.expect(200);
        let act = format!("/admin/users/{bob}");
        root.post(&act, &[("act", "disable")]).await.expect(303);

        let rows = |page: &str| page.matches("class=\"event-text\"").count();
        let page = root.open("/admin/activity").await.expect(200).body;
        assert_eq!(rows(&page), 5, "{page}");
        let root_id = id_of(&app, "root").await;
        let by =
            format!("The account was disabled, by <a href=\"/admin/users/{root_id}\">root</a>");
        assert!(page.contains(&by), "{page}");
        let link = format!("<a href=\"/admin/users/{bob}\">");
        assert!(page.contains(&link) && page.contains(&format!("/admin/users/{ada}\"")));
        assert!(page.contains("Logins: 2, Failed attempts: 1."), "{page}");

        let of_ada = "/admin/activity?show=logins&person=ada";
        let page = root.open(of_ada).await.expect(200).body;
        assert_eq!(rows(&page), 1);
        assert!(
            page.contains("value=\"ada\"") && page.contains("Logins: 1, Failed attempts: 0."),
            "{page}"
        );
        let export = "/admin/activity.json?show=logins&#38;person=ada";
        assert!(
            page.contains(export),
            "what is shown is what is taken away: {page}"
        );
        let file = root.open(&export.replace("&#38;", "&")).await.expect(200);
        assert_eq!(file.header("cache-control"), "no-store");
        let file = file.json();
        assert_eq!(
            (file.as_array().unwrap().len(), &file[0]["user_id"]),
            (1, &json!(ada))
        );
        let all = root.open("/admin/activity.csv").await.expect(200).body;
        assert_eq!(all.lines().count(), 6);
        assert!(all.contains(&root_id), "{all}");

        let nobody = root
            .open("/admin/activity?person=%3Cb%3E")
            .await
            .expect(200)
            .body;
        assert!(nobody.contains("Nothing of this kind") && !nobody.contains("<b>"));
        // One's own page is one's own, whoever is asked for.
        let own = root
            .open("/dashboard/activity?person=ada")
            .await
            .expect(200)
            .body;
        assert!(rows(&own) == 1 && !own.contains("the phone"), "{own}");
    }
}

#[actix_web::test]
async fn old_events_go_in_small_steps_and_the_rest_stays() {
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, &[("GAPURA_AUDIT_RETENTION", "10d")]).await;
        let id = id_of(&app, "ada").await;
        let old = app.now() - 11 * DAY;
        let event = |n: u32| Event::new(Kind::Login, &id, old + n * Duration::from_millis(1));
        write(&app, (0..700).map(event).collect()).await;
        let border = app.now() - 10 * DAY;
        let kept = Event::new(Kind::Login, &id, border);
        write(&app, vec![kept.clone()]).await;
        let db = &app.app.db;
        let step = db.write(move |conn| audit::delete_before(conn, border, 200));
        assert_eq!(step.await.unwrap(), 200, "no more at a time than asked for");
        let swept = cleanup::sweep(db, &app.app.config, app.now())
            .await
            .unwrap();
        assert_eq!((swept.logins, swept.events), (0, 500));
        let left: Vec<_> = all(&app).await.into_iter().map(|event| event.id).collect();
        assert_eq!(left, [kept.id]);
    }
}

#[actix_web::test]
async fn a_device_is_named_in_the_language_of_the_page_unless_it_named_itself() {
    let app = TestApp::start(Backend::Embedded).await;
    assert_eq!(
        api_login(&app, "ada", TestApp::PASSWORD, "Backup on Sunday").await,
        200
    );
    let ada = Browser::new(&app, "ada").log_in().await;
    for path in ["/dashboard/activity", "/dashboard", "/dashboard/sessions"] {
        let page = ada.open(&format!("{path}?lang=id")).await.expect(200).body;
        assert!(
            page.contains("Firefox di Linux") && page.contains("Backup on Sunday"),
            "{page}"
        );
    }
}
