//! The client module: its guarantees in Node, one interleaving at a time, and in a real browser with
//! two accounts and two tabs; and the examples of the README as they stand there.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use fantoccini::wd::WindowHandle;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chromium::{Chromium, serve};
use crate::faults::proxy::{CUT, HANGING, OPEN, Proxy};
use crate::harness::{Backend, TestApp, npm};
use crate::readme::block;

const TYPESCRIPT: &str = "typescript@5.9.3";
const AXIOS: &str = "axios@1.13.2";
const MODULE: &str = "static/js/gapura-client.js";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out
}

/// Past the test's own capture, which shows the output of failed tests alone.
fn skipped(what: &str) {
    use std::io::Write;
    let line = format!("\nNOT RUN, npm could not install what it needs: {what}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[test]
fn the_client_module_keeps_its_guarantees_in_node() {
    let mut files: Vec<_> = std::fs::read_dir(root().join("tests/client"))
        .expect("a folder")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.to_string_lossy().ends_with(".test.mjs"))
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    let mut node = Command::new("node");
    node.args(["--expose-gc", "--test", "--test-reporter=spec"]);
    succeeded(&node.args(files).output().expect("Node"));
}

#[test]
fn the_client_module_has_no_error_of_types() {
    let Some(modules) = npm(TYPESCRIPT) else {
        return skipped("the check of the client module's types");
    };
    let mut node = Command::new("node");
    node.arg(modules.join("typescript/bin/tsc"));
    node.args(["--noEmit", "--allowJs", "--checkJs", "--strict"]);
    node.args(["--target", "es2022", "--module", "es2022"]);
    node.args(["--lib", "es2022,dom,dom.iterable"]);
    succeeded(&node.arg(root().join(MODULE)).output().expect("Node"));
}

// In a browser.

/// Loads a page that has nothing of its own going on, and the module into it as `gapura`.
async fn arrive(browser: &Chromium, options: &str) {
    browser.go("/login").await;
    let load = format!(
        "import('/static/js/gapura-client.js').then(({{createClient}}) => {{
            window.gapura = createClient({options});
            window.told = [];
            for (const name of ['signed-in', 'signed-out', 'refreshed'])
                gapura.on(name, ({{user, reason}}) => told.push([name, user.username, reason ?? '', performance.timeOrigin + performance.now()]));
            return true;
        }})"
    );
    browser.until(&load).await;
}

async fn sign_in(browser: &Chromium, name: &str) {
    let password = TestApp::PASSWORD;
    let login = format!(
        "gapura.login({{username: '{name}', password: '{password}'}}).then(({{username}}) => username)"
    );
    assert_eq!(browser.evaluate(&login).await, name);
}

/// Two windows of one browser, each with a client; the second is in front.
async fn two_tabs(browser: &Chromium, options: &str) -> [WindowHandle; 2] {
    arrive(browser, options).await;
    let first = browser.client.window().await.expect("a window");
    let second = browser.client.new_window(false).await.expect("another");
    let second = second.handle;
    turn_to(browser, &second).await;
    arrive(browser, options).await;
    [first, second]
}

async fn turn_to(browser: &Chromium, tab: &WindowHandle) {
    let turned = browser.client.switch_to_window(tab.clone()).await;
    turned.expect("a window");
}

/// How many requests for that path the page has made.
async fn asked_for(browser: &Chromium, path: &str) -> u64 {
    let count = format!(
        "performance.getEntriesByType('resource').filter(({{name}}) => name.endsWith('{path}')).length"
    );
    browser.evaluate(&count).await.as_u64().expect("a number")
}

const REFRESH: &str = "/api/v1/auth/refresh";
/// Beside its cookie the server renews an expired token by itself; here it takes a refresh.
const IN_MEMORY: &str = "{refreshToken: 'memory'}";
const ME: &str = "gapura.get('/api/v1/me').then(({username}) => username, ({name}) => name)";

/// When that was told, by the clock that all tabs share.
async fn told_at(browser: &Chromium, name: &str) -> f64 {
    browser
        .until(&format!("told.some(([told]) => told === '{name}')"))
        .await;
    let at = format!("told.findLast(([told]) => told === '{name}')[3]");
    browser.evaluate(&at).await.as_f64().expect("a time")
}

#[actix_web::test]
async fn leaving_in_one_tab_is_leaving_in_every_tab_within_a_second() {
    for keeping in ["cookie", "memory", "localStorage"] {
        let app = serve(&[]).await;
        let ada = Chromium::open(&app).await;
        let options = format!("{{refreshToken: '{keeping}'}}");
        let [first, second] = two_tabs(&ada, &options).await;
        sign_in(&ada, "ada").await;
        let signed_in = told_at(&ada, "signed-in").await;
        let cookie = ada.evaluate("gapura.fetch('/api/v1/me').then(({ok}) => ok)");
        assert_eq!(cookie.await, true);
        turn_to(&ada, &first).await;
        let late = told_at(&ada, "signed-in").await - signed_in;
        assert!(late < 1000.0, "{keeping}: {late} ms");
        assert_eq!(ada.evaluate(ME).await, "ada");
        assert_eq!(asked_for(&ada, REFRESH).await, 0, "it has been told");

        // A request that the server has not answered yet is not answered any more.
        let hang = "window.hanging = gapura.fetch('/api/v1/me').then(() => 'delivered', ({name}) => name); gapura.logout()";
        assert_eq!(ada.evaluate(hang).await, true);
        assert_eq!(ada.evaluate("hanging").await, "GapuraSignedOut");
        let left = told_at(&ada, "signed-out").await;
        turn_to(&ada, &second).await;
        let late = told_at(&ada, "signed-out").await - left;
        assert!(late < 1000.0, "{keeping}: {late} ms");
        assert_eq!(ada.evaluate("gapura.user").await, Value::Null);
        assert_eq!(ada.evaluate("localStorage.length").await, 0);
        assert_eq!(ada.evaluate(ME).await, "GapuraSignedOut");

        // Nor does a page that is loaded now bring anybody back.
        arrive(&ada, &options).await;
        assert_eq!(ada.evaluate("gapura.resume()").await, Value::Null);
        if keeping == "cookie" {
            ada.close().await;
        } else {
            // Chromium says that a request without cookies does not clear the site's data.
            ada.client.close().await.expect("the browser closes");
        }
    }
}

#[actix_web::test]
async fn somebody_else_in_one_tab_never_sees_a_byte_of_the_first_in_the_other() {
    let app = serve(&[]).await;
    let browser = Chromium::open(&app).await;
    let [first, second] = two_tabs(&browser, "{}").await;
    sign_in(&browser, "ada").await;
    turn_to(&browser, &first).await;
    told_at(&browser, "signed-in").await;
    // Whose answer came while who was signed in, without a pause.
    let poll = "(() => {
        window.seen = [];
        const look = (path, name) => gapura.get(path, {maxAge: 20}).then(
            (data) => { seen.push([gapura.user?.username, name(data)]); }, () => {});
        const ask = () => {
            look('/api/v1/me', ({username}) => username);
            look('/api/v1/audit', (events) => gapura.user?.username + (events.length < 1 ? '?' : ''));
            gapura.fetch('/api/v1/me').then((answer) => answer.json()).then(
                ({data}) => { seen.push([gapura.user?.username, data.username]); }, () => {});
        };
        window.polling = setInterval(ask, 7);
        return true;
    })()";
    browser.evaluate(poll).await;
    let enough = |name: &str| {
        format!("seen.length > 20 && seen.slice(-20).every(([, whose]) => whose === '{name}')")
    };
    browser.until(&enough("ada")).await;
    turn_to(&browser, &second).await;
    for name in ["bob", "ada", "bob"] {
        sign_in(&browser, name).await;
        turn_to(&browser, &first).await;
        browser.until(&enough(name)).await;
        turn_to(&browser, &second).await;
    }
    turn_to(&browser, &first).await;
    browser.evaluate("clearInterval(polling)").await;
    let mixed = browser.evaluate("seen.filter(([who, whose]) => who !== whose)");
    assert_eq!(mixed.await, json!([]));
    // In turns, and nobody returns without having signed in.
    let turns = "seen.map(([who]) => who).filter((who, at, all) => who !== all[at - 1])";
    assert_eq!(
        browser.evaluate(turns).await,
        json!(["ada", "bob", "ada", "bob"])
    );
    browser.close().await;
}

#[actix_web::test]
async fn a_page_that_is_loaded_again_knows_who_is_there() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    arrive(&ada, "{}").await;
    assert_eq!(ada.evaluate("gapura.resume()").await, Value::Null);
    sign_in(&ada, "ada").await;
    arrive(&ada, "{}").await;
    let resume = "gapura.resume().then((user) => user.username)";
    assert_eq!(ada.evaluate(resume).await, "ada");
    assert_eq!(ada.evaluate(ME).await, "ada");
    let kept = "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])";
    let kept = ada.evaluate(kept).await;
    assert_eq!(kept, "[\"\",{},{}]", "no script can read any of it");
    ada.close().await;
}

#[actix_web::test]
async fn at_expiry_two_tabs_with_fifty_calls_each_refresh_once() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    let [first, second] = two_tabs(&ada, IN_MEMORY).await;
    sign_in(&ada, "ada").await;
    turn_to(&ada, &first).await;
    told_at(&ada, "signed-in").await;
    // The server's clock alone: to the page the token looks good, and is refused.
    app.advance(Duration::from_secs(1801));
    let storm = "window.storm = Promise.all(Array.from({length: 50}, () => gapura.fetch('/api/v1/sessions').then(({status}) => status))); true";
    for tab in [&second, &first] {
        turn_to(&ada, tab).await;
        ada.evaluate(storm).await;
    }
    let mut refreshes = 0;
    for tab in [&second, &first] {
        turn_to(&ada, tab).await;
        let statuses = ada.evaluate("storm").await;
        assert_eq!(statuses, json!(vec![200; 50]));
        refreshes += asked_for(&ada, REFRESH).await;
    }
    // Where the second tab was refused after the first had renewed, there is one for it to find.
    assert_eq!(refreshes, 1);
    ada.close().await;
}

#[actix_web::test]
async fn a_tab_that_holds_the_lock_and_is_gone_freezes_no_other() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    let [first, second] = two_tabs(&ada, IN_MEMORY).await;
    sign_in(&ada, "ada").await;
    let hold = "new Promise((held) => {
        navigator.locks.request('gapura:', () => new Promise(() => held(true))).catch(() => {});
    })";
    let ask = "(() => {
        const began = performance.now();
        return gapura.fetch('/api/v1/me').then(({status}) => [status, performance.now() - began]);
    })()";
    // It hangs: ten seconds, and the other takes over.
    turn_to(&ada, &first).await;
    told_at(&ada, "signed-in").await;
    assert_eq!(ada.evaluate(hold).await, true);
    turn_to(&ada, &second).await;
    app.advance(Duration::from_secs(1801));
    let waited = ada.evaluate(ask).await;
    let took = waited[1].as_f64().expect("a time");
    assert_eq!(waited[0], 200);
    assert!((9_500.0..15_000.0).contains(&took), "{took} ms");

    // It is closed: the browser lets go of its lock.
    turn_to(&ada, &first).await;
    assert_eq!(ada.evaluate(hold).await, true);
    turn_to(&ada, &second).await;
    app.advance(Duration::from_secs(1801));
    ada.evaluate(&format!("window.asking = {ask}; true")).await;
    turn_to(&ada, &first).await;
    ada.client.close_window().await.expect("a closed tab");
    turn_to(&ada, &second).await;
    let waited = ada.evaluate("asking").await;
    let took = waited[1].as_f64().expect("a time");
    assert!(waited[0] == 200 && took < 9_000.0, "{waited}");
    ada.close().await;
}

#[actix_web::test]
async fn a_device_two_hours_off_refreshes_on_time_and_never_storms() {
    for off in ["-7200000", "7200000"] {
        let settings = [
            ("GAPURA_ACCESS_TOKEN_LIFETIME", "6s"),
            ("GAPURA_AUTO_REFRESH_THRESHOLD", "1s"),
        ];
        let app = serve(&settings).await;
        let ada = Chromium::open(&app).await;
        let wrong = format!(
            "(() => {{
                const now = Date.now, RealDate = Date;
                window.Date = class extends RealDate {{
                    constructor(...given) {{ given.length ? super(...given) : super(now() + {off}); }}
                    static now() {{ return now() + {off}; }}
                }};
            }})()"
        );
        let script = json!({"source": wrong});
        ada.devtools("Page.addScriptToEvaluateOnNewDocument", script)
            .await;
        arrive(&ada, IN_MEMORY).await;
        sign_in(&ada, "ada").await;
        let poll = "(() => {
            window.statuses = [];
            window.began = performance.now();
            setInterval(() => gapura.fetch('/api/v1/me').then(
                ({status}) => statuses.push(status), ({name}) => statuses.push(name)), 50);
            return true;
        })()";
        ada.evaluate(poll).await;
        // The server's clock goes along with the page's.
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            app.advance(Duration::from_secs(1));
        }
        let others = ada.evaluate("statuses.filter((status) => status !== 200)");
        assert_eq!(others.await, json!([]), "{off}");
        let asked = asked_for(&ada, REFRESH).await;
        let passed = ada.evaluate("(performance.now() - began) / 5000").await;
        let passed = passed.as_f64().expect("a time");
        assert!((1.0..=passed.ceil()).contains(&(asked as f64)), "{asked}");
        ada.close().await;
    }
}

#[actix_web::test]
async fn a_network_that_goes_in_the_middle_of_a_refresh_signs_nobody_out() {
    let settings = [
        ("GAPURA_ACCESS_TOKEN_LIFETIME", "3s"),
        ("GAPURA_AUTO_REFRESH_THRESHOLD", "1s"),
    ];
    let app = serve(&settings).await;
    let network = Proxy::before(app.url.replace("http://", "")).await;
    let mut ada = Chromium::open(&app).await;
    ada.url = format!("http://127.0.0.1:{}", network.port);
    arrive(&ada, "{}").await;
    sign_in(&ada, "ada").await;
    let over = "performance.timeOrigin + performance.now() > told[0][3] + 3100";
    ada.until(over).await;
    app.advance(Duration::from_secs(4));
    network.set(HANGING);
    let ask = "window.asking = gapura.fetch('/api/v1/me').then(({status}) => status, ({name}) => name); true";
    ada.evaluate(ask).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    network.set(CUT);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let here = ada.evaluate("[gapura.user.username, told.length]").await;
    assert_eq!(here, json!(["ada", 1]));
    // Longer than the grace in which the server would give the same again.
    app.advance(Duration::from_secs(20));
    network.set(OPEN);
    assert_eq!(ada.evaluate("asking").await, 200);
    assert!(asked_for(&ada, REFRESH).await >= 2);

    // Logging out needs no network; and what the server could not be told it is told later.
    network.set(CUT);
    assert_eq!(ada.evaluate("gapura.logout()").await, false);
    assert_eq!(ada.evaluate("gapura.user").await, Value::Null);
    network.set(OPEN);
    arrive(&ada, "{}").await;
    assert_eq!(ada.evaluate("gapura.resume()").await, Value::Null);
    assert_eq!(asked_for(&ada, REFRESH).await, 0);
    assert_eq!(asked_for(&ada, "/api/v1/auth/logout").await, 1);
    assert_eq!(ada.evaluate("localStorage.length").await, 0);
    // Not `close`: the browser complains of the network, as it should.
    ada.client.close().await.expect("the browser closes");
}

/// A `fetch` whose answers to the paths in `held` wait for `release()`, and which nothing aborts; it
/// counts its requests.
const HELD: &str = "(async (url, {signal, ...init}) => {
    const {pathname} = new URL(url);
    asked[pathname] = (asked[pathname] ?? 0) + 1;
    if (pathname === '/api/v1/tokens') return new Response('', {status: 503});
    const waits = held.has(pathname);
    const answer = await fetch(url, init);
    if (waits) await gate;
    return answer;
})";

#[actix_web::test]
async fn what_is_under_way_at_logout_reaches_nobody_when_it_comes_after_the_next_login() {
    let settings = [
        ("GAPURA_ACCESS_TOKEN_LIFETIME", "60s"),
        ("GAPURA_AUTO_REFRESH_THRESHOLD", "1s"),
    ];
    let app = serve(&settings).await;
    let browser = Chromium::open(&app).await;
    browser.go("/login").await;
    let prepare = "(() => {
        window.asked = {};
        window.held = new Set(['/api/v1/me', '/api/v1/sessions', '/api/v1/auth/refresh']);
        window.gate = new Promise((release) => { window.release = release; });
        window.old = ['token', 'user'];
        for (const store of [localStorage, sessionStorage]) for (const key of old) store.setItem(key, 'of an older client');
        window.rung = [];
        const set = setTimeout;
        window.setTimeout = (work, wait) => set(() => { rung.push(wait); work(); }, wait);
        return true;
    })()";
    browser.evaluate(prepare).await;
    let load = format!(
        "import('/static/js/gapura-client.js').then(({{createClient}}) => {{
            window.gapura = createClient({{refreshToken: 'memory', legacyKeys: old, fetch: {HELD}}});
            window.told = [];
            for (const name of ['signed-in', 'signed-out', 'refreshed', 'expiring'])
                gapura.on(name, ({{user}}) => told.push([name, user.username]));
            return true;
        }})"
    );
    browser.evaluate(&load).await;
    sign_in(&browser, "ada").await;
    let kept = "JSON.stringify([{...localStorage}, {...sessionStorage}])";
    assert_eq!(browser.evaluate(kept).await, "[{},{}]");

    // A request, a shared one, one that is to be tried again, one whose body nobody has read yet.
    let start = "(async () => {
        const read = await gapura.fetch('/healthz');
        window.calls = [gapura.fetch('/api/v1/sessions'), gapura.get('/api/v1/me', {maxAge: 60000}),
            gapura.get('/api/v1/me', {maxAge: 60000}), gapura.get('/api/v1/tokens')];
        window.outcomes = Promise.all(calls.map((call) => call.then(() => 'delivered', ({name}) => name)));
        window.reading = () => read.text().then(() => 'read', ({name}) => name);
        return true;
    })()";
    browser.evaluate(start).await;
    browser
        .until("asked['/api/v1/sessions'] === 1 && asked['/api/v1/me'] === 1 && asked['/api/v1/tokens'] >= 1")
        .await;
    // And a refresh.
    app.advance(Duration::from_secs(61));
    let refresh = "window.refreshing = gapura.fetch('/api/v1/audit').then(() => 'delivered', ({name}) => name); true";
    browser.evaluate(refresh).await;
    browser.until("asked['/api/v1/auth/refresh'] === 1").await;

    // Bob signs in without a logout before, and has answers of his own by then.
    browser.evaluate("held.clear(); true").await;
    sign_in(&browser, "bob").await;
    let signed_out = "GapuraSignedOut";
    let outcomes = json!([signed_out, signed_out, signed_out, signed_out]);
    assert_eq!(browser.evaluate("outcomes").await, outcomes);
    assert_eq!(browser.evaluate("refreshing").await, signed_out);
    assert_eq!(browser.evaluate("reading()").await, signed_out);
    let his = "gapura.get('/api/v1/me', {maxAge: 60000}).then(({username}) => username)";
    assert_eq!(browser.evaluate(his).await, "bob");
    let tries = browser.evaluate("asked['/api/v1/tokens']").await;

    browser.evaluate("release(); rung.length = 0; true").await;
    // As long as the next try of what was refused would have taken at most, and longer.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(browser.evaluate(his).await, "bob");
    assert_eq!(browser.evaluate("asked['/api/v1/tokens']").await, tries);
    assert_eq!(
        browser.evaluate("rung").await,
        json!([]),
        "no timer is left"
    );
    let told = json!([
        ["signed-in", "ada"],
        ["signed-out", "ada"],
        ["signed-in", "bob"]
    ]);
    assert_eq!(browser.evaluate("told").await, told);
    assert_eq!(browser.evaluate("gapura.logout()").await, true);
    browser
        .evaluate("for (const key of old) sessionStorage.setItem(key, 'x'); gapura.logout()")
        .await;
    assert_eq!(browser.evaluate(kept).await, "[{},{}]");
    // Chromium says that a request without cookies does not clear the site's data.
    browser.client.close().await.expect("the browser closes");
}

#[actix_web::test]
async fn a_thousand_turns_leave_nothing_behind_in_a_browser() {
    let app = serve(&[]).await;
    let browser = Chromium::open(&app).await;
    browser.go("/login").await;
    // The server is played, or its password hashing would be what is measured; the rest is the browser's own.
    let load = "import('/static/js/gapura-client.js').then(({createClient}) => {
        const people = ['ada', 'bob'].map((username, id) => ({id: `${id}`, username, email: '', name: '', role: 'user'}));
        let number = 0;
        window.timers = new Set();
        const [set, clear] = [setTimeout, clearTimeout];
        window.setTimeout = (work, wait) => {
            const timer = set(() => { timers.delete(timer); work(); }, wait);
            timers.add(timer);
            return timer;
        };
        window.clearTimeout = (timer) => { timers.delete(timer); clear(timer); };
        window.open = new Set();
        class Socket {
            constructor() { open.add(this); setTimeout(() => { this.readyState = 1; this.onopen?.(); }, 0); }
            send() {}
            close() { open.delete(this); }
        }
        const answer = (data) => new Response(JSON.stringify({data}));
        const play = async (url, {signal}) => {
            if (url.endsWith('/token')) return answer({access_token: `t${number}`, expires_in: 1800, user: people[number % 2]});
            if (url.endsWith('/hangs')) return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
            return answer('x'.repeat(10000));
        };
        const gapura = createClient({fetch: play, WebSocket: Socket});
        window.turns = async (count) => {
            for (; count > 0; count -= 1, number += 1) {
                await gapura.login({username: 'x', password: 'x'});
                gapura.connect();
                const hanging = [gapura.fetch('/hangs'), gapura.get('/hangs')].map((call) => call.then(() => 1, () => 0));
                await gapura.get('/api/v1/me', {maxAge: 60000});
                await gapura.logout();
                if ((await Promise.all(hanging)).some((kept) => kept)) return 'delivered';
            }
            // The browser hears of a lock that was let go a little later.
            await new Promise((over) => set(over, 200));
            return [timers.size, open.size, (await navigator.locks.query()).held.length];
        };
        return true;
    })";
    browser.evaluate(load).await;
    assert_eq!(browser.evaluate("turns(1000)").await, json!([0, 0, 0]));
    let before = in_use(&browser).await;
    assert_eq!(browser.evaluate("turns(1000)").await, json!([0, 0, 0]));
    let after = in_use(&browser).await;
    assert!(
        after[0] - before[0] < 1_000_000.0 && after[1] - before[1] < 5.0,
        "bytes and listeners: {before:?}, {after:?}"
    );
    browser.close().await;
}

/// Bytes of the heap and listeners of the page, once what nobody holds is gone.
async fn in_use(browser: &Chromium) -> [f64; 2] {
    for _ in 0..3 {
        browser
            .devtools("HeapProfiler.collectGarbage", json!({}))
            .await;
    }
    let heap = browser.devtools("Runtime.getHeapUsage", json!({})).await;
    let counters = browser.devtools("Memory.getDOMCounters", json!({})).await;
    [&heap["usedSize"], &counters["jsEventListeners"]]
        .map(|count| count.as_f64().expect("a number"))
}

#[actix_web::test]
async fn a_page_that_is_loaded_while_another_tab_logs_out_brings_nobody_back() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    let [first, second] = two_tabs(&ada, "{}").await;
    sign_in(&ada, "ada").await;
    turn_to(&ada, &first).await;
    // It has no neighbours that it could ask, and its answer from the server is slow.
    let load = "import('/static/js/gapura-client.js').then(({createClient}) => {
        gapura.close();
        window.gate = new Promise((release) => { window.release = release; });
        const slow = async (url, init) => {
            const answer = await fetch(url, init);
            window.answered = true;
            await gate;
            return answer;
        };
        window.channel = new BroadcastChannel('gapura:');
        const deaf = {postMessage: (message) => channel.postMessage(message), removeEventListener() {},
            addEventListener: (type, listener) => channel.addEventListener(type, (event) => {
                if (event.data.type !== 'here') listener(event);
            })};
        window.gapura = createClient({fetch: slow, channel: deaf});
        window.coming = gapura.resume();
        return true;
    })";
    ada.evaluate(load).await;
    ada.until("window.answered === true").await;
    turn_to(&ada, &second).await;
    ada.evaluate("window.leaving = gapura.logout(); true").await;
    turn_to(&ada, &first).await;
    ada.evaluate("release(); true").await;
    assert_eq!(ada.evaluate("coming").await, Value::Null);
    turn_to(&ada, &second).await;
    assert_eq!(ada.evaluate("leaving").await, true);
    assert_eq!(ada.evaluate("gapura.user").await, Value::Null);
    arrive(&ada, "{}").await;
    assert_eq!(ada.evaluate("gapura.resume()").await, Value::Null);
    ada.close().await;
}

/// Keeps the sockets that a client opens, and the tokens that it shows over them.
const LISTENING: &str = "{WebSocket: class extends WebSocket {
    constructor(url) { super(url); (window.opened ??= []).push(this); }
    send(text) { (window.shown ??= []).push(JSON.parse(text).token); super.send(text); }
}}";

/// Connects the client, and waits until it hears that another login of that user has begun.
async fn listen(browser: &Chromium, app: &TestApp, name: &str) {
    let connect = "window.heard = []; gapura.on('event', ({type}) => heard.push(type)); gapura.connect(); true";
    browser.evaluate(connect).await;
    hears(browser, app, name).await;
}

async fn hears(browser: &Chromium, app: &TestApp, name: &str) {
    browser
        .until("window.opened?.at(-1)?.readyState === 1")
        .await;
    browser.evaluate("heard.length = 0; true").await;
    // Whatever was said before the server had read the token was not for this client.
    while browser.evaluate("heard.includes('sessions.changed')").await != true {
        pair_of(app, name).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn pair_of(app: &TestApp, name: &str) -> Value {
    let body = json!({"username": name, "password": TestApp::PASSWORD});
    let answer = app.post_json("/api/v1/auth/token", &body).await;
    let answer: Value = answer.json().await.expect("JSON");
    answer["data"].clone()
}

#[actix_web::test]
async fn a_login_that_is_ended_elsewhere_is_over_in_every_tab_within_a_second() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    let [first, second] = two_tabs(&ada, LISTENING).await;
    sign_in(&ada, "ada").await;
    listen(&ada, &app, "ada").await;
    let pair = pair_of(&app, "ada").await;
    let elsewhere = pair["access_token"].as_str().expect("a token");
    let everywhere = app
        .http
        .post(format!("{}/api/v1/auth/logout-all", app.url))
        .bearer_auth(elsewhere);
    let clock = "performance.timeOrigin + performance.now()";
    let before = ada.evaluate(clock).await.as_f64().expect("a time");
    assert_eq!(everywhere.send().await.expect("an answer").status(), 200);
    let late = told_at(&ada, "signed-out").await - before;
    assert!(late < 1000.0, "{late} ms");
    assert!(heard(&ada, "session.revoked").await);
    assert_eq!(ada.evaluate("gapura.user").await, Value::Null);
    turn_to(&ada, &first).await;
    let late = told_at(&ada, "signed-out").await - before;
    assert!(late < 1000.0, "{late} ms");
    turn_to(&ada, &second).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ada.evaluate("opened.length").await, 1, "nobody comes back");
    // Not `close`: the browser tells of the refused refresh.
    ada.client.close().await.expect("the browser closes");
}

async fn heard(browser: &Chromium, what: &str) -> bool {
    browser.evaluate(&format!("heard.includes('{what}')")).await == true
}

#[actix_web::test]
async fn the_socket_shows_the_token_of_now_and_goes_with_its_user() {
    let app = serve(&[]).await;
    let network = Proxy::before(app.url.replace("http://", "")).await;
    let mut browser = Chromium::open(&app).await;
    browser.url = format!("http://127.0.0.1:{}", network.port);
    arrive(&browser, LISTENING).await;
    sign_in(&browser, "ada").await;
    listen(&browser, &app, "ada").await;
    assert_eq!(browser.evaluate("shown.length").await, 1);

    // The server says that the token is about to expire; another is shown, and the socket stays.
    app.advance(Duration::from_secs(1700));
    browser.until("shown.length === 2").await;
    hears(&browser, &app, "ada").await;
    app.advance(Duration::from_secs(200));
    hears(&browser, &app, "ada").await;
    assert_eq!(browser.evaluate("opened.length").await, 1);

    // The network goes and comes, and by then there is a newer one.
    network.set(CUT);
    browser.until("opened[0].readyState === 3").await;
    app.advance(Duration::from_secs(1700));
    network.set(OPEN);
    hears(&browser, &app, "ada").await;
    let current = "gapura.fetch('/healthz').then(() => true)";
    assert_eq!(browser.evaluate(current).await, true);
    let old = "opened.length > 1 && shown.at(-1) !== shown[0] && shown.at(-1) !== shown[1]";
    browser.until(old).await;

    // It closes at logout, and what the next one has is his.
    let closed = "(() => {
        window.hers = [...shown];
        heard.length = 0;
        window.leaving = gapura.logout();
        return opened.every(({readyState}) => readyState > 1);
    })()";
    assert_eq!(browser.evaluate(closed).await, true);
    assert_eq!(browser.evaluate("leaving").await, true);
    let count = browser.evaluate("opened.length").await;
    pair_of(&app, "ada").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        browser.evaluate("[heard, opened.length]").await,
        json!([[], count])
    );
    sign_in(&browser, "bob").await;
    listen(&browser, &app, "bob").await;
    let his = "shown.slice(hers.length).every((token) => !hers.includes(token))";
    assert_eq!(browser.evaluate(his).await, true);
    browser.evaluate("heard.length = 0; true").await;
    pair_of(&app, "ada").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(
        browser.evaluate("heard").await,
        json!([]),
        "hers is not his"
    );
    // Not `close`: the browser complains of the network, as it should.
    browser.client.close().await.expect("the browser closes");
}

#[actix_web::test]
async fn a_page_of_ours_speaks_for_its_session() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    ada.log_in("ada").await;
    let come = "import('/static/js/gapura-client.js').then(async ({createClient}) => {
        // A network takes its time.
        const slow = (url, init) => new Promise((sent) => setTimeout(() => sent(fetch(url, init)), 100));
        window.gapura = createClient({credential: 'session', fetch: slow});
        const {username} = await gapura.resume();
        const changed = await gapura.fetch('/api/v1/me', {method: 'PATCH', body: '{\"name\": \"Ada L.\"}',
            headers: {'Content-Type': 'application/json'}});
        return [username, changed.status, (await gapura.get('/api/v1/me')).name];
    })";
    assert_eq!(ada.evaluate(come).await, json!(["ada", 200, "Ada L."]));
    // The page itself listens (live.js), and goes to the login page, but not before the server knows.
    ada.evaluate("void gapura.logout()").await;
    ada.until("location.pathname === '/login'").await;
    ada.go("/dashboard").await;
    assert_eq!(ada.place().await, "/login?next=%2Fdashboard");
    ada.close().await;
}

// The README.

/// The block of the README that begins with this line.
fn example(fence: &str, first_line: &str) -> String {
    let rest = block(&format!("```{fence}\n{first_line}"));
    format!("{first_line}{rest}\n")
}

/// Runs a script of the README against this server, beside the module and in a folder that has
/// `modules`; what it prints. Away from this thread, which is the server's.
async fn run(
    app: &TestApp,
    script: &str,
    modules: Option<PathBuf>,
    secret: (&'static str, String),
) -> String {
    let folder = TempDir::new().expect("a temporary directory");
    std::fs::copy(root().join(MODULE), folder.path().join("gapura-client.mjs")).expect("a copy");
    if let Some(modules) = modules {
        let link = folder.path().join("node_modules");
        std::os::unix::fs::symlink(modules, link).expect("a link");
    }
    let file = folder.path().join("script.mjs");
    std::fs::write(&file, script.replace("http://127.0.0.1:8080", &app.url)).expect("a file");
    let mut node = Command::new("node");
    node.arg(file).env(secret.0, secret.1);
    let output = tokio::task::spawn_blocking(move || node.output().expect("Node"));
    succeeded(&output.await.expect("it ends"))
}

#[actix_web::test]
async fn the_readmes_page_knows_who_is_there() {
    let app = serve(&[]).await;
    let ada = Chromium::open(&app).await;
    let bypass = json!({"enabled": true});
    ada.devtools("Page.setBypassCSP", bypass).await;
    ada.go("/login").await;
    let page = example("html", "<p id=\"who\">");
    let (markup, script) = page.split_once("<script type=\"module\">").expect("both");
    let script = script.replace("</script>", "");
    let password = TestApp::PASSWORD;
    let build = format!(
        "(() => {{
            document.body.innerHTML = {};
            window.prompt = () => '{password}';
            const script = document.createElement('script');
            script.type = 'module';
            script.textContent = {};
            document.body.append(script);
            return true;
        }})()",
        json!(markup),
        json!(script)
    );
    ada.evaluate(&build).await;
    ada.until("document.querySelector('#leave').title === '1 logins'")
        .await;
    assert_eq!(ada.text("#who").await, "ada");
    ada.click("#leave").await;
    ada.until("document.querySelector('#who').textContent === 'Nobody'")
        .await;
    ada.close().await;
}

#[actix_web::test]
async fn the_readmes_axios_goes_through_the_module() {
    let Some(modules) = npm(AXIOS) else {
        return skipped("the README's example with axios");
    };
    let app = TestApp::start(Backend::Embedded).await;
    let password = ("PASSWORD", TestApp::PASSWORD.to_owned());
    let out = run(&app, &example("js", "// axios"), Some(modules), password).await;
    assert_eq!(out.trim(), "ada");
}

#[actix_web::test]
async fn the_readmes_script_has_a_personal_token() {
    let app = TestApp::start(Backend::Embedded).await;
    let pair = pair_of(&app, "ada").await;
    let make = app.http.post(format!("{}/api/v1/tokens", app.url));
    let make = make
        .bearer_auth(pair["access_token"].as_str().unwrap())
        .json(&json!({"name": "script", "scopes": ["profile:read"]}));
    let made: Value = make.send().await.unwrap().json().await.unwrap();
    let token = made["data"]["token"].as_str().unwrap().to_owned();
    let script = example("js", "// a script");
    let out = run(&app, &script, None, ("PERSONAL_TOKEN", token)).await;
    assert_eq!(out.trim(), "ada");
}
