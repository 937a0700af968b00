//! A person at a real browser: headless Chromium, driven over WebDriver.

use std::sync::Mutex;
use std::time::Duration;

use fantoccini::key::Key;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::harness::{Backend, TestApp, variable};

/// A browser is heavy: on two cores more of them at a time only make each other late.
static SEATS: Semaphore = Semaphore::const_new(2);

/// How long to wait for what a browser does by itself. Reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(40);

/// The harness names a public URL, but browsers come to `127.0.0.1`: empty means unset.
pub async fn serve(settings: &[(&str, &str)]) -> TestApp {
    let settings = [&[("GAPURA_PUBLIC_URL", "")], settings].concat();
    TestApp::start_with(Backend::Embedded, &settings).await
}

/// How a browser is set up.
#[derive(Clone, Copy)]
pub struct Setup {
    /// What it sends as `Accept-Language`.
    pub languages: &'static str,
    pub javascript: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            languages: "en",
            javascript: true,
        }
    }
}

/// A browser at one Gapura, with a profile of its own.
pub struct Chromium {
    pub client: Client,
    pub url: String,
    javascript: bool,
    pings: Mutex<Vec<Value>>,
    _profile: TempDir,
    _seat: SemaphorePermit<'static>,
}

impl Chromium {
    pub async fn open(app: &TestApp) -> Self {
        Self::open_as(app, Setup::default()).await
    }

    pub async fn open_as(app: &TestApp, setup: Setup) -> Self {
        let seat = SEATS.acquire().await.expect("never closed");
        let profile = TempDir::new().expect("a temporary directory");
        let javascript = setup.javascript;
        let capabilities = capabilities(&profile, setup);
        let driver = variable("GAPURA_TEST_WEBDRIVER_URL");
        let client =
            Client::with_capabilities_and_connector(&driver, &capabilities, HttpConnector::new());
        Self {
            client: client.await.expect("a browser"),
            url: app.url.clone(),
            javascript,
            pings: Mutex::default(),
            _profile: profile,
            _seat: seat,
        }
    }

    /// Closes the browser, which by then must not have complained of anything: no violation of the
    /// Content-Security-Policy, no error of a script, no missing file, on any page it has seen.
    pub async fn close(self) {
        let complaints = self.complaints().await;
        self.client.close().await.expect("the browser closes");
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    // What a person does.

    pub async fn go(&self, path: &str) {
        let url = format!("{}{path}", self.url);
        self.mark_as_last().await;
        self.client.goto(&url).await.expect("an address");
        self.until_another_page().await;
    }

    /// From an empty browser to `/dashboard`.
    pub async fn log_in(&self, name: &str) {
        self.go("/login").await;
        self.fill_in(name, TestApp::PASSWORD).await;
        self.arrive("/dashboard").await;
    }

    /// Fills in the login form and sends it.
    pub async fn fill_in(&self, name: &str, password: &str) {
        self.write("#login", name).await;
        self.write("#password", password).await;
        self.click("button[type=submit]").await;
    }

    pub async fn write(&self, css: &str, text: &str) {
        let field = self.find(css).await;
        field.clear().await.expect("an empty field");
        field.send_keys(text).await.expect("a field to write in");
    }

    pub async fn click(&self, css: &str) {
        let element = self.find(css).await;
        // Without scripts a button leads to another page, and what is read must not be of the last.
        let leads_away = !self.javascript && element.tag_name().await.expect("a name") == "button";
        if leads_away {
            self.mark_as_last().await;
        }
        element.click().await.expect("a click");
        if leads_away {
            self.until_another_page().await;
        }
    }

    /// Makes the page here known from the next.
    async fn mark_as_last(&self) {
        self.evaluate("void (window.isLast = true)").await;
    }

    /// Waits until the page that was marked has gone and another is there. ChromeDriver does so by itself where it may
    /// ask the page, and where scripts are blocked it may not.
    async fn until_another_page(&self) {
        self.until("window.isLast !== true && document.readyState === 'complete'")
            .await;
    }

    /// Presses keys where the focus is.
    pub async fn press(&self, keys: &str) {
        let focused = self.client.active_element().await.expect("a focus");
        focused.send_keys(keys).await.expect("keys");
    }

    /// One real event of input and no more: a modifier, which writes and moves nothing.
    pub async fn touch_a_key(&self) {
        let shift = char::from(Key::Shift).to_string();
        let actions = json!([{"type": "key", "id": "keyboard", "actions": [
            {"type": "keyDown", "value": shift}, {"type": "keyUp", "value": shift},
        ]}]);
        self.command("actions", json!({"actions": actions})).await;
    }

    // What a person sees.

    /// Waits for it: on a busy machine a click returns before the next page is there.
    async fn find(&self, css: &str) -> fantoccini::elements::Element {
        let wait = self.client.wait().at_most(PATIENCE);
        let found = wait.for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    /// What is to be read there; waits for it, since what is about to appear has no text yet, and what
    /// was found may be on a page that is just going.
    pub async fn text(&self, css: &str) -> String {
        let began = Instant::now();
        loop {
            let text = self.find(css).await.text().await;
            let is_there = text.as_ref().is_ok_and(|text| !text.is_empty());
            if is_there || began.elapsed() > PATIENCE {
                return text.expect("text");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until that is to be read there.
    pub async fn reads(&self, css: &str, wanted: &str) {
        let began = Instant::now();
        loop {
            let text = self.text(css).await;
            if text == wanted {
                return;
            }
            let in_time = began.elapsed() < PATIENCE;
            assert!(in_time, "{css}: {text:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Path and query of the page.
    pub async fn place(&self) -> String {
        let url = self.client.current_url().await.expect("an address");
        url[url::Position::BeforePath..url::Position::AfterQuery].to_owned()
    }

    /// Waits until the browser has got to that path and query, and has loaded the page.
    pub async fn arrive(&self, place: &str) {
        let began = Instant::now();
        loop {
            let here = self.place().await;
            if here == place && self.evaluate("document.readyState").await == "complete" {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "at {here} and not at {place}");
            pause().await;
        }
    }

    /// The value of an expression in the page.
    pub async fn evaluate(&self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.devtools("Runtime.evaluate", parameters).await;
        assert!(answer.get("exceptionDetails").is_none(), "{answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true. Between two pages there is nothing to ask.
    pub async fn until(&self, expression: &str) {
        let began = Instant::now();
        let asked =
            format!("(() => {{ try {{ return {expression} }} catch {{ return false }} }})()");
        while self.evaluate(&asked).await != true {
            assert!(began.elapsed() < PATIENCE, "never: {expression}");
            pause().await;
        }
    }

    /// The bodies of the activity pings that all tabs have sent so far.
    pub async fn pings(&self) -> Vec<Value> {
        for entry in self.log("performance").await {
            let message = entry["message"].as_str().unwrap_or_default();
            let message: Value = serde_json::from_str(message).expect("JSON in the log");
            let (event, request) = (
                &message["message"],
                &message["message"]["params"]["request"],
            );
            let is_ping = event["method"] == "Network.requestWillBeSent"
                && request["url"] == format!("{}/api/update-activity", self.url);
            if is_ping {
                let body = request["postData"].as_str().unwrap_or("null");
                let body = serde_json::from_str(body).expect("a JSON body");
                self.pings.lock().expect("no panic before").push(body);
            }
        }
        self.pings.lock().expect("no panic before").clone()
    }

    /// Waits until `count` pings have been sent.
    pub async fn pings_when_there_are(&self, count: usize) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let pings = self.pings().await;
            if pings.len() >= count {
                return pings;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{} of {count} pings",
                pings.len()
            );
            pause().await;
        }
    }

    /// How wide the window is, whether the person prefers dark, and as high as the page.
    pub async fn look(&self, width: u32, scheme: &str) {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", media).await;
        let size = |height: u64| json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size(800))
            .await;
        let height = self.evaluate("document.documentElement.scrollHeight").await;
        let height = height.as_u64().expect("a height");
        self.devtools("Emulation.setDeviceMetricsOverride", size(height))
            .await;
    }

    /// A picture of the page into the folder for what tests leave behind.
    pub async fn picture(&self, name: &str) {
        let png = self.client.screenshot().await.expect("a picture");
        let folder = variable("GAPURA_TEST_ARTEFACTS");
        let file = std::path::Path::new(&folder).join(format!("{name}.png"));
        std::fs::write(file, png).expect("a file");
    }

    async fn complaints(&self) -> Vec<Value> {
        let mut log = self.log("browser").await;
        // Chromium logs each answer of 400 and above, which here are meant: all but those to files.
        log.retain(|entry| {
            let text = entry["message"].as_str().unwrap_or_default();
            let told = text.contains("the server responded with a status of");
            let meant = entry["source"] == "network" && told && !text.contains("/static/");
            entry["level"] != "INFO" && !meant
        });
        log
    }

    // Below the page.

    async fn log(&self, kind: &str) -> Vec<Value> {
        let answer = self.command("se/log", json!({"type": kind})).await;
        answer.as_array().cloned().unwrap_or_default()
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, name: &str, parameters: Value) -> Value {
        let body = json!({"cmd": name, "params": parameters});
        self.command("goog/cdp/execute", body).await
    }

    async fn command(&self, path: &'static str, body: Value) -> Value {
        let answer = self.client.issue_cmd(Command { path, body }).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn capabilities(profile: &TempDir, setup: Setup) -> Capabilities {
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
    ];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
    arguments.push(format!("--user-data-dir={}", profile.path().display()));
    arguments.push(format!("--lang={}", setup.languages));
    let options = json!({
        "binary": variable("GAPURA_TEST_CHROMIUM"),
        "args": arguments,
        "prefs": {
            "intl.accept_languages": setup.languages,
            // 2: blocked, as by the person's own setting.
            "profile.managed_default_content_settings.javascript": if setup.javascript { 1 } else { 2 },
        },
    });
    let capabilities = json!({
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    });
    capabilities.as_object().expect("an object").clone()
}

/// Between two looks at what a browser does in its own time.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(60)).await;
}

/// A command that WebDriver itself does not have.
#[derive(Debug)]
struct Command {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Command {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.path
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (reqwest::Method, Option<String>) {
        (reqwest::Method::POST, Some(self.body.to_string()))
    }
}
