//! Every page in both languages, light and dark, on wide and narrow screens: nothing may stick out,
//! axe-core may find nothing, and a picture of each is kept for a person to look at.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gapura::account::{self, Role, User};
use gapura::audit::{self, Event, Kind};
use gapura::figures::{Figure, Figures};
use gapura::login::{self, Cause, Client};
use serde_json::json;

use crate::chromium::{Chromium, Setup, serve};
use crate::harness::{TestApp, npm};

const AXE: &str = "axe-core@4.14.1";
const HOUR: u64 = 3600;

#[actix_web::test]
async fn every_page_in_english() {
    every_page("en", "Grace Hopper").await;
}

#[actix_web::test]
async fn every_page_in_indonesian() {
    every_page("id", "Ni Luh Made Ayu Kusumawardhani").await;
}

async fn every_page(language: &'static str, name: &str) {
    let app = serve(&[]).await;
    add_person(&app, name).await;
    let setup = Setup {
        languages: language,
        ..Setup::default()
    };
    let ada = Chromium::open_as(&app, setup).await;
    let gallery = Gallery {
        browser: &ada,
        language,
        axe: axe(),
    };
    ada.go("/login").await;
    gallery.hang("login").await;
    ada.go("/login?reason=idle&next=%2Fdashboard").await;
    gallery.hang("login-reason").await;
    ada.fill_in("person", "not the password").await;
    ada.until("document.querySelector('[role=alert]') !== null")
        .await;
    gallery.hang("login-failed").await;
    ada.go("/docs").await;
    gallery.hang("docs").await;
    ada.click("#post-auth-token summary").await;
    gallery.hang("docs-open").await;
    ada.go("/nowhere").await;
    gallery.hang("error-404").await;

    ada.go("/login").await;
    ada.fill_in("person", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    gallery.hang("dashboard-fresh").await;
    ada.go("/dashboard/activity?show=changes").await;
    gallery.hang("activity-empty").await;
    have_a_past(&app).await;
    ada.go("/dashboard/activity").await;
    gallery.hang("activity").await;
    ada.click(".chart-figures summary").await;
    gallery.hang("activity-figures").await;
    ada.go("/dashboard").await;
    // Five hours later, of which the last three were spent elsewhere.
    app.advance(Duration::from_secs(2 * HOUR));
    ada.go("/dashboard").await;
    app.advance(Duration::from_secs(3 * HOUR));
    gallery.hang_unvisited("dashboard-idle").await;
    // Half an hour before the end.
    app.advance(Duration::from_secs(9 * HOUR));
    ada.go("/dashboard").await;
    app.advance(Duration::from_secs(9 * HOUR + HOUR / 2));
    ada.go("/dashboard").await;
    gallery.hang("dashboard-end").await;

    ada.click("form[action='/logout'] button").await;
    ada.arrive("/login?reason=logged_out").await;
    ada.click("#remember").await;
    ada.fill_in("person", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    app.advance(Duration::from_secs(4 * HOUR));
    ada.go("/dashboard").await;
    gallery.hang("dashboard-remembered").await;

    // A second node that cannot reach its Redis; cookies do not know ports.
    let dead = [
        ("GAPURA_PUBLIC_URL", ""),
        ("REDIS_URL", "redis://127.0.0.1:1/0"),
    ];
    let blind = TestApp::join(Arc::clone(&app.installation), Arc::clone(&app.clock), &dead).await;
    ada.client
        .goto(&format!("{}/dashboard", blind.url))
        .await
        .expect("an answer");
    let again = ada
        .evaluate("document.querySelector('main .button').pathname")
        .await;
    assert_eq!(again, "/dashboard", "the same page once more");
    gallery.hang("error-503").await;
    ada.close().await;
}

#[actix_web::test]
async fn the_pages_of_an_account_in_english() {
    account_pages("en", "Grace Hopper").await;
}

#[actix_web::test]
async fn the_pages_of_an_account_in_indonesian() {
    account_pages("id", "Ni Luh Made Ayu Kusumawardhani").await;
}

async fn account_pages(language: &'static str, name: &str) {
    let app = serve(&[("GAPURA_REGISTRATION", "open")]).await;
    add_person(&app, name).await;
    let setup = Setup {
        languages: language,
        ..Setup::default()
    };
    let ada = Chromium::open_as(&app, setup).await;
    let gallery = Gallery {
        browser: &ada,
        language,
        axe: axe(),
    };
    let judged = "document.querySelector('.strength').dataset.verdict === 'good'";
    ada.go("/register").await;
    gallery.hang("register").await;
    ada.write("#name", name).await;
    ada.write("#username", "person").await;
    ada.write("#email", "other@example.org").await;
    ada.write("#password", "velvet otters paint the harbour")
        .await;
    ada.until(judged).await;
    gallery.hang("register-filled").await;
    ada.click("main button[type=submit]").await;
    ada.until("document.querySelector('.bad') !== null").await;
    gallery.hang("register-taken").await;

    ada.log_in("person").await;
    ada.go("/dashboard/sessions").await;
    gallery.hang("sessions-alone").await;
    for device in [
        "Label printer",
        "<b>Phone of my cousin</b>, the one with areallylongname",
    ] {
        let body =
            json!({"username": "person", "password": TestApp::PASSWORD, "device_name": device});
        app.post_json("/api/v1/auth/token", &body).await;
        app.advance(Duration::from_secs(HOUR));
    }
    ada.go("/dashboard/sessions").await;
    gallery.hang("sessions").await;
    ada.go("/dashboard/profile").await;
    gallery.hang("profile").await;
    ada.click("main button[type=submit]").await;
    ada.until("document.querySelector('main [role=status]') !== null")
        .await;
    gallery.hang("profile-saved").await;
    ada.go("/dashboard/password").await;
    gallery.hang("password").await;
    ada.write("#password", "password1234").await;
    ada.until("document.querySelector('.strength').dataset.verdict === 'bad'")
        .await;
    gallery.hang("password-weak").await;
    ada.write("#current_password", "not it at all").await;
    ada.write("#password_confirmation", "password1234").await;
    ada.click("main button[type=submit]").await;
    ada.until("document.querySelector('.bad') !== null").await;
    gallery.hang("password-wrong").await;
    ada.close().await;
}

#[actix_web::test]
async fn the_page_that_asks_for_the_password() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    let gallery = Gallery {
        browser: &ada,
        language: "en",
        axe: axe(),
    };
    ada.log_in("ada").await;
    app.advance(Duration::from_secs(11 * 60));
    let send = "(() => {
        const form = document.querySelector(\"form[action='/logout']\");
        form.action = '/dashboard/tokens';
        form.insertAdjacentHTML('beforeend', '<input name=\"id\" value=\"01890000-0000-7000-8000-000000000000\"><input name=\"name\" value=\"backup\">');
        form.submit();
        return true;
    })()";
    ada.evaluate(send).await;
    ada.until("document.querySelector('#current_password') !== null")
        .await;
    gallery.hang("confirm").await;
    ada.write("#current_password", "not it at all").await;
    ada.click("main button[type=submit]").await;
    ada.until("document.querySelector('.bad') !== null").await;
    gallery.hang("confirm-wrong").await;
    ada.close().await;
}

#[actix_web::test]
async fn every_page_of_administration_in_english() {
    every_page_of_administration("en").await;
}

#[actix_web::test]
async fn every_page_of_administration_in_indonesian() {
    every_page_of_administration("id").await;
}

async fn every_page_of_administration(language: &'static str) {
    let app = serve(&[]).await;
    add_person(&app, "Ni Luh Made Ayu Kusumawardhani").await;
    let setup = Setup {
        languages: language,
        ..Setup::default()
    };
    let root = Chromium::open_as(&app, setup).await;
    let gallery = Gallery {
        browser: &root,
        language,
        axe: axe(),
    };
    root.log_in("root").await;
    root.go("/admin").await;
    gallery.hang("admin-fresh").await;
    let figures = Figures::default();
    figures.add(Figure::Refreshed, 40);
    figures.add(Figure::RefreshAge, 40 * 25 * 60_000);
    figures.add(Figure::RefreshExpired, 2);
    let flushed = figures.flush(&app.app.db, app.now());
    flushed.await.expect("figures");
    root.go("/admin").await;
    gallery.hang("admin-first-day").await;
    a_month_of_work(&app).await;
    root.go("/admin").await;
    gallery.hang("admin").await;
    root.go("/admin/activity").await;
    gallery.hang("everybody").await;
    root.go("/admin/activity?show=changes&period=week&person=nobody")
        .await;
    gallery.hang("everybody-none").await;
    root.go("/admin/users").await;
    gallery.hang("people").await;
    root.go("/admin/users?q=nobody+of+this+name").await;
    gallery.hang("people-none").await;
    root.go("/admin/users?limit=2").await;
    root.click("[rel=next]").await;
    gallery.hang("people-further").await;
    root.go("/admin/users/new").await;
    gallery.hang("person-new").await;
    root.write("#username", "x").await;
    root.write("#email", "somebody@example.org").await;
    root.click("main button[type=submit]").await;
    root.until("document.querySelector('[aria-invalid]') !== null")
        .await;
    gallery.hang("person-new-wrong").await;
    let id = async |name: &'static str| {
        let found = app
            .app
            .db
            .read(move |conn| account::by_login_name(conn, name));
        found.await.expect("a database").expect("a person").id
    };
    let ada = format!("/admin/users/{}", id("ada").await);
    let body = json!({"email": "ada", "password": TestApp::PASSWORD});
    assert_eq!(app.post_json("/api/auth/login", &body).await.status(), 200);
    root.go(&ada).await;
    gallery.hang("person").await;
    root.click("form:has([value=reset_password]) button").await;
    root.until("document.querySelector('.secret-text') !== null")
        .await;
    gallery.hang("person-password").await;
    root.go(&ada).await;
    root.click("form:has([value=disable]) button").await;
    root.arrive(&format!("{ada}?done=disable")).await;
    gallery.hang("person-disabled").await;
    root.go(&format!("/admin/users/{}", id("root").await)).await;
    gallery.hang("person-myself").await;
    root.close().await;
}

/// What happens in a month, some of it on every day.
async fn a_month_of_work(app: &TestApp) {
    let (hour, day) = (Duration::from_secs(HOUR), Duration::from_secs(24 * HOUR));
    for ago in 0..30_u32 {
        let now = app.now();
        let at = now - day * ago;
        let busy = i64::from((ago * 7 + ago * ago) % 11) + 2;
        let (figures, n) = (Figures::default(), busy * 40);
        figures.add(Figure::Refreshed, n);
        figures.add(Figure::RefreshAge, n * (20 + busy) * 60_000);
        figures.add(Figure::RefreshExpired, busy % 7);
        figures.add(Figure::RefreshInvalid, busy % 3);
        figures.add(Figure::RefreshReused, i64::from(ago % 9 == 4));
        figures.flush(&app.app.db, at).await.expect("figures");
        let happened = app.app.db.write(move |conn| {
            let ada = account::by_login_name(conn, "ada")?.expect("ada");
            for number in 0..busy {
                let kind = [login::Kind::Browser, login::Kind::Api][number as usize % 2];
                let device = ["Firefox on Linux", "Backup script"][number as usize % 2];
                let client = Client {
                    device: device.to_owned(),
                    ip: format!("203.0.113.{ago}"),
                };
                let began = at - hour * (number as u32);
                let begun = login::begin(conn, &ada, kind, &client, 5 * day, began)?;
                let begun = begun.expect("a login");
                if ago > 0 || number > 3 {
                    let end = began + hour * ((number * number) as u32 % 37);
                    let end = end.min(now);
                    login::end(conn, &begun, Cause::LoggedOut, None, end)?;
                }
            }
            Ok(())
        });
        happened.await.expect("a day of work");
    }
}

#[actix_web::test]
async fn a_short_session_has_its_clocks_drawn_too() {
    let settings = [
        ("GAPURA_SESSION_LIFETIME", "90s"),
        ("GAPURA_SESSION_IDLE_TIMEOUT", "60s"),
        ("GAPURA_REMEMBER_LIFETIME", "75s"),
        ("GAPURA_ACTIVITY_PING_INTERVAL", "10s"),
    ];
    let app = serve(&settings).await;
    let ada = Chromium::open(&app).await;
    let gallery = Gallery {
        browser: &ada,
        language: "en",
        axe: axe(),
    };
    ada.go("/login").await;
    ada.click("#remember").await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    app.advance(Duration::from_secs(20));
    ada.go("/dashboard").await;
    gallery.hang("dashboard-seconds").await;
    ada.close().await;
}

#[actix_web::test]
async fn personal_tokens_from_the_first_on() {
    for language in ["en", "id"] {
        let app = serve(&[]).await;
        add_person(&app, "Ni Luh Made Ayu Kusumawardhani").await;
        let setup = Setup {
            languages: language,
            ..Setup::default()
        };
        let ada = Chromium::open_as(&app, setup).await;
        let gallery = Gallery {
            browser: &ada,
            language,
            axe: axe(),
        };
        ada.log_in("person").await;
        ada.go("/dashboard/tokens").await;
        gallery.hang("tokens-empty").await;
        let make = async |name: &str, scopes: &[&str], days: u64| {
            ada.go("/dashboard/tokens").await;
            ada.write("#name", name).await;
            for scope in scopes {
                ada.click(&format!("input[value='{scope}']")).await;
            }
            let choose = format!("document.querySelector('#expires_in_days').value = '{days}'");
            ada.evaluate(&choose).await;
            ada.click(".token-form .button").await;
            ada.until("document.querySelector('#new-token') !== null")
                .await;
        };
        make("CI of the website", &["verify", "profile:read"], 7).await;
        make("Label printer", &["profile:read"], 30).await;
        app.advance(Duration::from_secs(24 * 24 * HOUR));
        ada.log_in("person").await;
        make("Nightly backup", &["*"], 90).await;
        let token = "document.querySelector('#new-token').value";
        let token = ada.evaluate(token).await;
        let me = app.http.get(format!("{}/api/v1/me", app.url));
        let me = me.bearer_auth(token.as_str().expect("a token")).send();
        me.await.expect("an answer");
        app.advance(Duration::from_secs(300));
        let some = [
            "sessions:read",
            "sessions:write",
            "tokens:read",
            "audit:read",
        ];
        let long = "Phone of my cousin, the one with the reallylongnamethatdoesnotbreakanywhere";
        make(long, &some, 7).await;
        gallery.hang("tokens-made").await;
        ada.go("/dashboard/tokens").await;
        gallery.hang("tokens").await;
        app.advance(Duration::from_secs(HOUR));
        ada.go("/dashboard/tokens").await;
        ada.write("#name", "x").await;
        ada.click("input[value='*']").await;
        ada.click(".token-form .button").await;
        ada.until("document.querySelector('#current_password') !== null")
            .await;
        gallery.hang("confirm").await;
        ada.close().await;
    }
}

/// Somebody whose name is not their username.
async fn add_person(app: &TestApp, name: &str) {
    let ada = app.app.db.read(|conn| account::by_login_name(conn, "ada"));
    let hash = ada.await.expect("a database").expect("ada").password_hash;
    let (username, email) = ("person".to_owned(), "person@example.org".to_owned());
    let person = User::new(
        username,
        email,
        name.to_owned(),
        Role::User,
        hash,
        app.now(),
    );
    let added = app.app.db.write(move |conn| account::insert(conn, &person));
    added.await.expect("a person");
}

/// A month of somebody's life: they come and go, mistype now and then, and lose a telephone.
async fn have_a_past(app: &TestApp) {
    let now = app.now();
    let past = app.app.db.write(move |conn| {
        let person = account::by_login_name(conn, "person")?.expect("a person");
        let client = |device: &str, ip: &str| Client {
            device: device.to_owned(),
            ip: ip.to_owned(),
        };
        let places = [
            client("Chrome on Linux", "192.0.2.17"),
            client("Safari on iPhone", "2001:db8:85a3:8d3:1319:8a2e:370:7348"),
            client("Backup on Sunday", "198.51.100.4"),
        ];
        for hours in (1..28 * 24).rev().step_by(7) {
            let at = now - Duration::from_secs(hours * HOUR);
            let place = &places[hours as usize % 3];
            let event = match hours % 5 {
                0 => Event::new(Kind::LoginFailed, &person.id, at).seen_from(place),
                1 => Event::new(Kind::LoginEnded, &person.id, at)
                    .by(&person.id, &places[0])
                    .because(Cause::Revoked.name())
                    .about(&places[1].device),
                _ => Event::new(Kind::Login, &person.id, at).by(&person.id, place),
            };
            audit::record(conn, &event)?;
        }
        Ok(())
    });
    past.await.expect("a past");
}

struct Gallery<'a> {
    browser: &'a Chromium,
    language: &'static str,
    axe: Option<String>,
}

impl Gallery<'_> {
    /// The page as it is, in every size and light.
    async fn hang(&self, name: &str) {
        let (browser, language) = (self.browser, self.language);
        for scheme in ["light", "dark"] {
            for width in [1280, 390, 320] {
                browser.look(width, scheme).await;
                let wide = browser
                    .evaluate("document.documentElement.scrollWidth")
                    .await;
                assert_eq!(wide, width, "{name} sticks out in {language}");
                browser
                    .picture(&format!("{name}-{language}-{scheme}-{width}"))
                    .await;
                // What else it finds does not depend on the size.
                if width != 390 {
                    self.examine(&format!("{name}-{language}-{scheme}-{width}"))
                        .await;
                }
            }
        }
        browser.look(1280, "light").await;
    }

    /// As [`Gallery::hang`], for a page that nobody came to: a script fetched it.
    async fn hang_unvisited(&self, name: &str) {
        let fetch = "fetch('/dashboard').then((answer) => answer.text()).then((html) => {
            const page = new DOMParser().parseFromString(html, 'text/html');
            document.querySelector('main').replaceWith(page.querySelector('main'));
            return true;
        })";
        self.browser.until(fetch).await;
        self.hang(name).await;
    }

    async fn examine(&self, name: &str) {
        let Some(axe) = &self.axe else { return };
        if self.browser.evaluate("typeof axe").await == "undefined" {
            self.browser.evaluate(&format!("{axe};0")).await;
        }
        let run = "axe.run().then(({violations}) => violations.map(({id, nodes}) =>
            [id, ...nodes.map(({html, failureSummary}) => `${html} ${failureSummary}`)]))";
        let violations = self.browser.evaluate(run).await;
        assert_eq!(violations, json!([]), "{name}: {violations:#}");
    }
}

/// The text of axe-core, from npm; without npm, or the registry, the pages go unexamined, and the
/// output says so.
fn axe() -> Option<String> {
    static AXE_TEXT: OnceLock<Option<String>> = OnceLock::new();
    AXE_TEXT.get_or_init(install_axe).clone()
}

fn install_axe() -> Option<String> {
    let Some(folder) = npm(AXE) else {
        skipped("npm could not install it");
        return None;
    };
    let text = std::fs::read_to_string(folder.join("axe-core/axe.min.js")).ok();
    if text.is_none() {
        skipped("npm installed something else");
    }
    text
}

/// Past the test's own capture, which shows the output of failed tests alone.
fn skipped(why: &str) {
    use std::io::Write;
    let line = format!("\nNOT EXAMINED with {AXE}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}
