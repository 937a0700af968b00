//! What a person meets in a real browser. Each test ends with `close`, which fails when Chromium has
//! complained of anything on the way.

use std::time::Duration;

use fantoccini::key::Key;
use serde_json::json;
use tokio::time::Instant;

use crate::chromium::{Chromium, Setup, serve};
use crate::harness::TestApp;

#[actix_web::test]
async fn a_person_logs_in_and_out_again() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.go("/").await;
    ada.arrive("/login").await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    assert_eq!(ada.text("h1").await, "Hello, ada");

    ada.click("form[action='/logout'] button").await;
    ada.arrive("/login?reason=logged_out").await;
    assert_eq!(
        ada.text("[role=status]").await,
        "You’re logged out. See you soon."
    );
    ada.client.back().await.expect("a page before");
    ada.arrive("/login?next=%2Fdashboard").await;
    ada.close().await;
}

#[actix_web::test]
async fn after_a_wrong_password_the_name_is_still_there() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.go("/login?next=%2Fdashboard%3Fpart%3D2").await;
    ada.click("#remember").await;
    ada.fill_in("ada@example.org", "not the password").await;
    ada.until("document.querySelector('[role=alert]') !== null")
        .await;
    let form = "[login.value, password.value, remember.checked, document.activeElement.id]";
    let left = ada.evaluate(form).await;
    assert_eq!(left, json!(["ada@example.org", "", true, "password"]));

    ada.write("#password", TestApp::PASSWORD).await;
    ada.click("button[type=submit]").await;
    ada.arrive("/dashboard?part=2").await;
    ada.close().await;
}

#[actix_web::test]
async fn a_password_can_be_looked_at() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.go("/login").await;
    ada.write("#password", "cannot be seen").await;
    for shown in ["text", "password"] {
        ada.click("[data-reveal]").await;
        assert_eq!(ada.evaluate("password.type").await, shown);
    }
    ada.close().await;
}

#[actix_web::test]
async fn a_ping_follows_input_and_says_how_long_ago_it_was() {
    let app = serve(&[("GAPURA_ACTIVITY_PING_INTERVAL", "2s")]).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    app.advance(Duration::from_secs(3600));
    ada.touch_a_key().await;
    ada.pings_when_there_are(1).await;
    // The next is not due before the interval is over, and is then about this key.
    let touched = Instant::now();
    ada.touch_a_key().await;
    let pings = ada.pings_when_there_are(2).await;
    let idle = pings[1]["idle_seconds"].as_u64().expect("a number");
    let most = touched.elapsed().as_secs() + 1;
    assert!((1..=most).contains(&idle), "{idle} s, {most} s at most");

    // The page shows what the server made of it: another 20 hours, from then on.
    let now = app.now().millis();
    let idle_end = "Date.parse(document.querySelector('[data-clock=idle]').dateTime)";
    let expected = now + 20 * 3_600_000;
    ada.until(&format!("Math.abs({idle_end} - {expected}) <= 5000"))
        .await;
    ada.close().await;
}

#[actix_web::test]
async fn a_page_left_alone_sends_no_ping() {
    let app = serve(&[("GAPURA_ACTIVITY_PING_INTERVAL", "1s")]).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    // What a script does is not a person's input.
    ada.evaluate("void document.dispatchEvent(new KeyboardEvent('keydown', {key: 'a'}))")
        .await;
    ada.until("performance.now() > 4000").await;
    assert_eq!(ada.pings().await, Vec::<serde_json::Value>::new());
    ada.close().await;
}

#[actix_web::test]
async fn two_tabs_send_one_ping_between_them() {
    let app = serve(&[("GAPURA_ACTIVITY_PING_INTERVAL", "10s")]).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    let first = ada.client.window().await.expect("a tab");
    let second = ada
        .client
        .new_window(true)
        .await
        .expect("a second tab")
        .handle;
    ada.client
        .switch_to_window(second)
        .await
        .expect("to the second");
    ada.go("/dashboard").await;
    ada.touch_a_key().await;
    ada.client
        .switch_to_window(first)
        .await
        .expect("to the first");
    ada.touch_a_key().await;
    let pressed = ada.evaluate("performance.now()").await.as_f64();
    assert!(
        pressed.is_some_and(|at| at < 10_000.0),
        "too slow to tell: {pressed:?}"
    );

    ada.pings_when_there_are(1).await;
    // Both intervals are over by then, so each has had its turn.
    ada.until("performance.now() > 24000").await;
    assert_eq!(ada.pings().await.len(), 1);
    ada.close().await;
}

#[actix_web::test]
async fn a_page_left_open_sees_its_session_end_and_keeps_what_was_typed() {
    let settings = [
        ("GAPURA_SESSION_IDLE_TIMEOUT", "5s"),
        ("GAPURA_ACTIVITY_PING_INTERVAL", "1s"),
    ];
    let app = serve(&settings).await;
    let ada = Chromium::open(&app).await;
    // The overview has no form to type in, so it gets one: there when the page's own scripts start.
    let form = "document.addEventListener('readystatechange', () => {
        if (document.readyState !== 'interactive' || location.pathname !== '/dashboard') return;
        document.body.insertAdjacentHTML('beforeend',
            '<form id=letter><textarea name=text></textarea><input name=new_password></form>');
    });";
    ada.devtools(
        "Page.addScriptToEvaluateOnNewDocument",
        json!({"source": form}),
    )
    .await;
    ada.go("/dashboard?part=2").await;
    ada.arrive("/login?next=%2Fdashboard%3Fpart%3D2").await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard?part=2").await;
    ada.write("#letter textarea", "Dear Charles").await;
    ada.write("#letter input", "nobody's business").await;

    app.advance(Duration::from_secs(6));
    ada.arrive("/login?reason=idle&next=%2Fdashboard%3Fpart%3D2")
        .await;
    let told = ada.text("[role=status]").await;
    assert!(told.starts_with("You were away for a while"), "{told}");
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard?part=2").await;
    let kept = "[...document.querySelectorAll('#letter [name]')].map((field) => field.value)";
    assert_eq!(ada.evaluate(kept).await, json!(["Dear Charles", ""]));
    ada.close().await;
}

#[actix_web::test]
async fn two_tabs_of_a_session_that_ended_both_go_to_the_login_page_and_say_why() {
    let settings = [
        ("GAPURA_SESSION_IDLE_TIMEOUT", "5s"),
        ("GAPURA_ACTIVITY_PING_INTERVAL", "1s"),
    ];
    let app = serve(&settings).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    let first = ada.client.window().await.expect("a tab");
    let second = ada.client.new_window(true).await.expect("another tab");
    let to = |tab| ada.client.switch_to_window(tab);
    to(second.handle.clone()).await.expect("to the second");
    ada.go("/dashboard/sessions").await;
    app.advance(Duration::from_secs(6));
    ada.arrive("/login?reason=idle&next=%2Fdashboard%2Fsessions")
        .await;
    to(first).await.expect("to the first");
    ada.arrive("/login?reason=idle&next=%2Fdashboard").await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    // The other tab's login page lets it in by itself.
    to(second.handle).await.expect("to the second");
    ada.client.refresh().await.expect("the page again");
    ada.arrive("/dashboard/sessions").await;
    ada.close().await;
}

/// What stands in the form for tokens.
const TOKEN_FORM: &str = "[document.querySelector('#name').value,
    document.querySelector('#expires_in_days').value,
    ...[...document.querySelectorAll('[name=scopes]:checked')].map((scope) => scope.value)]";

async fn fill_in_token_form(ada: &Chromium) {
    ada.go("/dashboard/tokens").await;
    ada.write("#name", "Nightly backup").await;
    ada.click("input[value='audit:read']").await;
    ada.evaluate("void (document.querySelector('#expires_in_days').value = '7')")
        .await;
}

#[actix_web::test]
async fn a_half_filled_form_is_still_there_after_an_idle_end_and_a_login() {
    let settings = [
        ("GAPURA_SESSION_IDLE_TIMEOUT", "8s"),
        ("GAPURA_ACTIVITY_PING_INTERVAL", "1s"),
    ];
    let app = serve(&settings).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    fill_in_token_form(&ada).await;
    app.advance(Duration::from_secs(9));
    ada.arrive("/login?reason=idle&next=%2Fdashboard%2Ftokens")
        .await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard/tokens").await;
    let filled = json!(["Nightly backup", "7", "audit:read"]);
    assert_eq!(ada.evaluate(TOKEN_FORM).await, filled);

    ada.go("/dashboard/profile").await;
    ada.write("#name", "Ada King").await;
    ada.click("#theme-dark").await;
    app.advance(Duration::from_secs(9));
    ada.arrive("/login?reason=idle&next=%2Fdashboard%2Fprofile")
        .await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard/profile").await;
    let form = "[document.querySelector('#name').value,
        document.querySelector('[name=theme]:checked').value]";
    assert_eq!(ada.evaluate(form).await, json!(["Ada King", "dark"]));
    ada.close().await;
}

#[actix_web::test]
async fn a_form_sent_to_a_login_that_has_ended_is_filled_in_again_after_the_next() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    let filled = json!(["Nightly backup", "7", "audit:read"]);
    fill_in_token_form(&ada).await;
    // Ended before the page has heard of it.
    app.advance(Duration::from_secs(21 * 3600));
    ada.click(".token-form .button").await;
    ada.arrive("/login?reason=idle&next=%2Fdashboard%2Ftokens")
        .await;
    ada.fill_in("ada", "not the password").await;
    ada.until("document.querySelector('[role=alert]') !== null")
        .await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard/tokens").await;
    assert_eq!(ada.evaluate(TOKEN_FORM).await, filled);

    // The same while the password is asked for in between.
    app.advance(Duration::from_secs(11 * 60));
    ada.click(".token-form .button").await;
    ada.until("document.querySelector('#current_password') !== null")
        .await;
    app.advance(Duration::from_secs(21 * 3600));
    ada.write("#current_password", TestApp::PASSWORD).await;
    ada.click("main button[type=submit]").await;
    ada.arrive("/login?reason=idle&next=%2Fdashboard%2Ftokens")
        .await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard/tokens").await;
    assert_eq!(ada.evaluate(TOKEN_FORM).await, filled);

    // What has arrived does not come back.
    ada.click(".token-form .button").await;
    ada.until("document.querySelector('#new-token') !== null")
        .await;
    let empty = json!(["", "90"]);
    assert_eq!(ada.evaluate(TOKEN_FORM).await, empty);
    ada.go("/dashboard/tokens").await;
    assert_eq!(ada.evaluate(TOKEN_FORM).await, empty);
    // A change of language does not lose what another form holds.
    ada.write("#name", "Label printer").await;
    ada.click(".language [value=id]").await;
    ada.until("document.documentElement.lang === 'id' && document.readyState === 'complete'")
        .await;
    let kept = ada.evaluate(TOKEN_FORM).await;
    assert_eq!(kept, json!(["Label printer", "90"]));
    ada.close().await;
}

#[actix_web::test]
async fn a_person_is_warned_before_the_hard_end_which_nothing_moves() {
    for (languages, title, button) in [
        ("en", "Time to save your work", "Got it"),
        ("id", "Saatnya menyimpan pekerjaan", "Mengerti"),
    ] {
        let settings = [
            ("GAPURA_SESSION_LIFETIME", "24s"),
            ("GAPURA_SESSION_IDLE_TIMEOUT", "24s"),
            ("GAPURA_REMEMBER_LIFETIME", "24s"),
            ("GAPURA_ACTIVITY_PING_INTERVAL", "1s"),
        ];
        let app = serve(&settings).await;
        let setup = Setup {
            languages,
            ..Setup::default()
        };
        let ada = Chromium::open_as(&app, setup).await;
        ada.log_in("ada").await;
        ada.touch_a_key().await;
        ada.until("document.querySelector('.warning') !== null")
            .await;
        assert_eq!(ada.text(".warning h2").await, title);
        assert_eq!(ada.text(".warning button").await, button);
        let stay = "document.querySelector('[data-stay]') === null";
        assert_eq!(ada.evaluate(stay).await, true, "nobody can stay");
        ada.click("[data-dismiss]").await;
        assert_eq!(
            ada.evaluate("document.querySelector('.warning')").await,
            json!(null)
        );
        app.advance(Duration::from_secs(25));
        ada.arrive("/login?reason=lifetime&next=%2Fdashboard").await;
        ada.close().await;
    }
}

#[actix_web::test]
async fn a_person_is_warned_before_they_are_logged_out_and_can_stay() {
    let settings = [
        ("GAPURA_SESSION_IDLE_TIMEOUT", "24s"),
        ("GAPURA_ACTIVITY_PING_INTERVAL", "2s"),
    ];
    let app = serve(&settings).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    ada.until("document.querySelector('[data-stay]') !== null")
        .await;
    assert_eq!(ada.text(".warning h2").await, "Still there?");
    assert_ne!(ada.text("[data-remaining]").await, "0 seconds", "in time");
    assert_eq!(ada.pings().await.len(), 0);
    app.advance(Duration::from_secs(6));
    ada.press(&char::from(Key::Enter).to_string()).await;
    ada.until("document.querySelector('[data-stay]') === null")
        .await;
    ada.close().await;
}

/// A page whose clock the test puts on by `skip` milliseconds.
const SKIPPING: &str = "(() => {
    window.skip = 0;
    const now = performance.now.bind(performance);
    performance.now = () => now() + skip;
})()";

#[actix_web::test]
async fn a_forgotten_tab_does_not_come_back_by_remember_me_and_its_person_does() {
    let settings = [
        ("GAPURA_SESSION_IDLE_TIMEOUT", "5s"),
        ("GAPURA_ACTIVITY_PING_INTERVAL", "1s"),
    ];
    let app = serve(&settings).await;
    let ada = Chromium::open(&app).await;
    ada.go("/login").await;
    ada.click("#remember").await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    app.advance(Duration::from_secs(6));
    ada.arrive("/login?reason=idle&next=%2Fdashboard").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ada.place().await, "/login?reason=idle&next=%2Fdashboard");
    ada.until("document.querySelector('#password') !== null")
        .await;
    ada.go("/dashboard").await;
    ada.arrive("/dashboard").await;
    ada.close().await;
}

#[actix_web::test]
async fn a_page_that_a_script_has_opened_is_no_input() {
    let settings = [("GAPURA_SESSION_IDLE_TIMEOUT", "2h")];
    let app = serve(&settings).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    app.advance(Duration::from_secs(3600));
    ada.devtools(
        "Page.addScriptToEvaluateOnNewDocument",
        json!({"source": SKIPPING}),
    )
    .await;
    ada.evaluate("void setTimeout(() => location.assign('/dashboard/sessions'))")
        .await;
    ada.arrive("/dashboard/sessions").await;
    // Its end has come by its own clock: it asks.
    ada.evaluate("skip = 3700000; document.dispatchEvent(new Event('visibilitychange')); true")
        .await;
    let pings = ada.pings_when_there_are(1).await;
    let idle = pings[0]["idle_seconds"].as_u64();
    assert!(idle.is_some_and(|idle| idle >= 7200), "{pings:?}");
    ada.close().await;
}

#[actix_web::test]
async fn both_warnings_come_ten_minutes_ahead() {
    for (session, which) in [("24h", "data-stay"), ("2h", "data-dismiss")] {
        let settings = [
            ("GAPURA_SESSION_IDLE_TIMEOUT", "2h"),
            ("GAPURA_SESSION_LIFETIME", session),
            ("GAPURA_REMEMBER_LIFETIME", "2h"),
        ];
        let app = serve(&settings).await;
        let ada = Chromium::open(&app).await;
        let script = json!({"source": SKIPPING});
        ada.devtools("Page.addScriptToEvaluateOnNewDocument", script)
            .await;
        ada.log_in("ada").await;
        // The page was made a few seconds ago, and looks at its clock every half a minute.
        let at = |minutes: f64| {
            let skip = minutes * 60_000.0;
            format!("skip = {skip}; document.dispatchEvent(new Event('visibilitychange')); true")
        };
        ada.evaluate(&at(108.0)).await;
        let shown = format!("document.querySelector('.warning [{which}]') !== null");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(ada.evaluate(&shown).await, false, "{which}");
        ada.evaluate(&at(110.5)).await;
        ada.until(&shown).await;
        ada.close().await;
    }
}

#[actix_web::test]
async fn remember_me_brings_a_person_back_after_the_browser_was_closed() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.go("/login").await;
    ada.click("#remember").await;
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    let cookie = |name| ada.client.get_named_cookie(name);
    let session = cookie("gapura_session").await.expect("a session cookie");
    assert_eq!(session.expires(), None, "goes when the browser closes");
    cookie("gapura_remember").await.expect("a remember cookie");

    // As closing the browser does: no page of ours is open that would ask for anything meanwhile.
    ada.go("/healthz").await;
    ada.client
        .delete_cookie("gapura_session")
        .await
        .expect("gone");
    app.advance(Duration::from_secs(11 * 3600));
    ada.go("/dashboard").await;
    assert_eq!(ada.place().await, "/dashboard");
    let latest = ada.text(".events li:first-child .event-text").await;
    assert_eq!(
        latest,
        "Came back without a password, thanks to “Remember me”"
    );

    ada.go("/healthz").await;
    ada.client
        .delete_cookie("gapura_session")
        .await
        .expect("gone");
    app.advance(Duration::from_secs(3601));
    ada.go("/dashboard").await;
    assert!(ada.place().await.starts_with("/login"), "12 hours are over");
    ada.close().await;
}

#[actix_web::test]
async fn everything_needed_works_without_javascript() {
    let app = serve(&[]).await;
    let setup = Setup {
        javascript: false,
        ..Setup::default()
    };
    let ada = Chromium::open_as(&app, setup).await;
    ada.go("/login").await;
    assert_eq!(
        ada.evaluate("document.querySelector('[data-reveal]').hidden")
            .await,
        true
    );
    ada.fill_in("ada", "not the password").await;
    assert!(ada.text("[role=alert]").await.contains("don’t match"));
    ada.fill_in("ada", TestApp::PASSWORD).await;
    ada.arrive("/dashboard").await;
    assert_eq!(ada.text("[data-clock=session]").await, "in 24 hours");
    ada.click(".language [lang=id]").await;
    ada.reads("h1", "Halo, ada").await;
    ada.click("form[action='/logout'] button").await;
    ada.arrive("/login?reason=logged_out").await;
    ada.close().await;
}

#[actix_web::test]
async fn what_a_person_changes_is_changed_without_javascript() {
    let app = serve(&[]).await;
    let setup = Setup {
        javascript: false,
        ..Setup::default()
    };
    let root = Chromium::open_as(&app, setup).await;
    root.log_in("root").await;
    root.go("/dashboard/profile").await;
    root.write("#name", "Grace Hopper").await;
    root.click("main button[type=submit]").await;
    root.until("document.querySelector('main [role=status]') !== null")
        .await;
    assert_eq!(
        root.text("main [role=status]").await,
        "Your profile is saved."
    );

    root.go("/dashboard/tokens").await;
    root.write("#name", "Label printer").await;
    root.click("input[value='profile:read']").await;
    root.click(".token-form .button").await;
    root.until("document.querySelector('#new-token') !== null")
        .await;
    let token = "document.querySelector('#new-token').value";
    let token = root.evaluate(token).await;
    assert!(token.as_str().is_some_and(|token| token.contains("|gpr_")));
    root.click(".token .button").await;
    root.until("document.querySelector('.empty-title') !== null")
        .await;
    assert_eq!(root.text(".empty-title").await, "No tokens yet");

    let body = json!({"username": "root", "password": TestApp::PASSWORD, "device_name": "Phone"});
    app.post_json("/api/v1/auth/token", &body).await;
    root.go("/dashboard/sessions").await;
    root.click(".device form .button").await;
    root.until("document.querySelectorAll('.device').length === 1")
        .await;

    // What needs the password asks for it in between, and goes on.
    app.advance(Duration::from_secs(11 * 60));
    root.go("/admin/users").await;
    root.click(".people li:first-child a").await;
    root.until("document.querySelector('.acts') !== null").await;
    root.click("form:has([value=disable]) button").await;
    root.until("document.querySelector('#current_password') !== null")
        .await;
    root.write("#current_password", TestApp::PASSWORD).await;
    root.click("main button[type=submit]").await;
    root.until("document.querySelector('main [role=status]') !== null")
        .await;
    assert!(
        root.text("main [role=status]")
            .await
            .contains("is disabled")
    );
    root.go("/admin/activity?show=changes").await;
    root.write("#person", "ada").await;
    root.click(".search .button").await;
    root.arrive("/admin/activity?show=changes&period=all&person=ada")
        .await;
    let told = root.text(".event-text").await;
    assert_eq!(told, "The account was disabled, by root");
    root.go("/admin/activity").await;
    root.click(".chart-figures summary").await;
    root.until("document.querySelector('.chart-figures').open")
        .await;
    root.close().await;
}

#[actix_web::test]
async fn the_keyboard_is_enough() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    let (tab, enter) = (
        char::from(Key::Tab).to_string(),
        char::from(Key::Enter).to_string(),
    );
    ada.go("/login").await;
    ada.press(&format!("ada{tab}")).await;
    ada.press(TestApp::PASSWORD).await;
    // The button that shows the password, then the box, then the button.
    ada.press(&tab).await;
    ada.press(&tab).await;
    ada.press(" ").await;
    assert_eq!(ada.evaluate("remember.checked").await, true);
    ada.press(&tab).await;
    ada.press(&enter).await;
    ada.arrive("/dashboard").await;

    ada.press(&tab).await;
    assert_eq!(
        ada.evaluate("document.activeElement.className").await,
        "skip"
    );
    let visible = "document.activeElement.getBoundingClientRect().top >= 0";
    ada.until(visible).await;
    ada.press(&enter).await;
    ada.until("document.activeElement.id === 'main'").await;
    ada.go("/dashboard").await;
    for _ in 0..12 {
        ada.press(&tab).await;
        if ada
            .evaluate("document.activeElement.form?.action.endsWith('/logout') ?? false")
            .await
            == true
        {
            break;
        }
    }
    ada.press(&enter).await;
    ada.arrive("/login?reason=logged_out").await;
    ada.close().await;
}

#[actix_web::test]
async fn a_browser_that_speaks_indonesian_gets_indonesian() {
    let app = serve(&[]).await;
    let setup = Setup {
        languages: "id",
        ..Setup::default()
    };
    let ada = Chromium::open_as(&app, setup).await;
    ada.log_in("ada").await;
    assert_eq!(ada.evaluate("document.documentElement.lang").await, "id");
    assert_eq!(ada.text("h1").await, "Halo, ada");
    // Words that the page's scripts write are in the page's language as well.
    app.advance(Duration::from_secs(3 * 3600));
    ada.go("/dashboard").await;
    assert_eq!(ada.text(".facts time").await, "3 jam yang lalu");
    let title = ada
        .evaluate("document.querySelector('.facts time').title")
        .await;
    let days = [
        "Senin", "Selasa", "Rabu", "Kamis", "Jumat", "Sabtu", "Minggu",
    ];
    let told = days
        .iter()
        .any(|day| title.as_str().is_some_and(|title| title.starts_with(day)));
    assert!(told, "{title}");
    ada.click(".language [lang=en]").await;
    ada.reads(".facts time", "3 hours ago").await;
    ada.close().await;
}
