use std::time::Duration;

use gapura::command::settings;
use gapura::config::{Config, SETTINGS};
use gapura::metrics::Seen;
use gapura::metrics::http::count_ends;

use crate::actors::Browser;
use crate::harness::{Backend, TestApp};
use crate::program::{APP_KEY, PASSWORD, Place, Told, until};

const README: &str = include_str!("../../README.md");

/// What the README says after the first `from` and before the `to` that follows.
pub fn between(from: &str, to: &str) -> &'static str {
    let (_, rest) = README.split_once(from).expect("the README has it");
    let (text, _) = rest.split_once(to).expect("it ends");
    text
}

/// What follows this in its block of the README.
pub fn block(from: &str) -> &'static str {
    between(from, "\n```")
}

#[test]
fn the_readme_lists_every_setting() {
    assert_eq!(
        between("<!-- settings -->\n", "<!-- /settings -->"),
        settings::reference(),
        "run `gapura config --reference`"
    );
}

#[test]
fn the_settings_file_of_the_readme_is_understood() {
    let file = block("# /etc/gapura/gapura.toml, owned by gapura, mode 0600\n");
    let file = file.replace("app_key = \"…\"", &format!("app_key = \"{APP_KEY}\""));
    let file = file.replace("password = \"…\"", &format!("password = \"{PASSWORD}\""));
    let config = Config::from_sources(&file, []).expect("settings that can be right");
    assert!(config.is_https() && config.trusted_proxies.len() == 1);
    let unit = block("# /etc/systemd/system/gapura.service\n");
    assert!(unit.contains("--config /etc/gapura/gapura.toml"));
    assert!(unit.contains("StateDirectory=gapura"));
    assert_eq!(config.data_dir.to_str(), Some("/var/lib/gapura"));
}

/// Without one of these `systemd-analyze security` says that more can be reached than is needed.
#[test]
fn the_unit_of_the_readme_is_hardened() {
    let unit = block("# /etc/systemd/system/gapura.service\n");
    for line in [
        "User=gapura",
        "UMask=0077",
        "StateDirectoryMode=0700",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateMounts=yes",
        "PrivateDevices=yes",
        "PrivateUsers=yes",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        "ProcSubset=pid",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "LockPersonality=yes",
        "MemoryDenyWriteExecute=yes",
        "RemoveIPC=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources",
        "SystemCallFilter=setpriority",
    ] {
        assert!(unit.lines().any(|known| known == line), "{line}");
    }
    let stop = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let seconds: u32 = stop.expect("a limit").parse().expect("seconds");
    // It lingers for 2 s and drains for 25 (`src/command/server.rs`), and writes down what it has not yet.
    assert!(seconds > 30, "{seconds}");
}

#[test]
fn what_the_container_file_copies_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = block("# Containerfile, beside the sources");
    let copies = file.lines().filter_map(|line| line.strip_prefix("COPY "));
    let sources = copies
        .filter(|rest| !rest.starts_with("--from"))
        .flat_map(|rest| {
            let words: Vec<_> = rest.split(' ').collect();
            words[..words.len() - 1].to_vec()
        });
    let sources: Vec<_> = sources.collect();
    assert!(
        sources.contains(&"src") && sources.contains(&"migrations"),
        "{sources:?}"
    );
    for source in sources {
        assert!(root.join(source).exists(), "{source}");
    }
    // The volume's own mode is the engine's business, and some let others look into it.
    assert!(file.contains("VOLUME /data\n"));
    assert!(file.contains("GAPURA_DATA_DIR=/data/gapura "));
}

/// Whoever exports what an example asks for would stop every command by an unknown setting.
#[test]
fn the_readme_names_no_setting_that_there_is_not() {
    let words = README.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("GAPURA_")) {
        let is_known = SETTINGS.iter().any(|setting| setting.name == word);
        assert!(is_known || word == "GAPURA_", "{word} is no setting");
    }
}

#[test]
fn what_the_readme_shows_of_people_is_what_the_program_says() {
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    drop(place.serve());
    let shown = block("### People\n\n```console\n");
    let mut commands = shown.split("$ gapura ").skip(1).peekable();
    assert!(commands.peek().is_some());
    for command in commands {
        let (words, answer) = command.split_once('\n').expect("an answer");
        let program = env!("CARGO_BIN_EXE_gapura");
        let line = format!("echo '{PASSWORD}' | '{program}' {words}");
        let mut shell = place.command_by("sh", &["-c", &line]);
        let said = Told::of(shell.output().expect("it ends")).done();
        let prompts = ["Password:", "Once more:"];
        let shown = answer.lines().filter(|line| !prompts.contains(line));
        let said = said.lines().map(str::trim_end);
        assert_eq!(
            said.collect::<Vec<_>>(),
            shown.collect::<Vec<_>>(),
            "{words}"
        );
    }
}

/// What the alert `GapuraLoggedOutAtOnce` counts, of one node.
fn lost(app: &TestApp) -> Option<f64> {
    let rule = block("- alert: GapuraLoggedOutAtOnce");
    let (_, rest) = rule.split_once("sum((").expect("a sum");
    let (series, _) = rest.split_once(" unless ").expect("a series");
    let (name, labels) = series.split_once('{').expect("labels");
    let labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
    let seen = Seen::default();
    let text = app.app.metrics.text(&seen).expect("text");
    let line = text.lines().find(|line| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    })?;
    let (_, value) = line.rsplit_once(' ').expect("a value");
    Some(value.parse().expect("a number"))
}

#[actix_web::test]
async fn the_alert_of_the_readme_counts_sessions_that_were_lost_and_none_that_ended_by_themselves()
{
    let app = TestApp::start(Backend::Shared).await;
    actix_web::rt::spawn(count_ends(app.app.clone()));
    let count = |cause: &'static str| {
        let sql = format!("SELECT COUNT(*) AS number FROM logins WHERE ended_cause = '{cause}'");
        app.count(sql)
    };
    let counted = || async {
        let left = "SELECT COUNT(*) AS number FROM uncounted_ends".to_owned();
        app.count(left).await == 0
    };
    // Away for too long, and long enough.
    let ada = Browser::new(&app, "ada").log_in().await;
    app.advance(Duration::from_secs(20 * 3600 + 60));
    ada.open("/dashboard").await.expect(303);
    let bob = Browser::new(&app, "bob").log_in().await;
    bob.log_out().await;
    assert_eq!((count("idle").await, count("logged_out").await), (1, 1));
    until(Duration::from_secs(10), counted).await;
    until(Duration::from_secs(10), || async { lost(&app).is_some() }).await;
    assert_eq!(lost(&app), Some(0.0));

    let mut browsers = Vec::new();
    for who in ["ada", "bob", "root"] {
        browsers.push(Browser::new(&app, who).log_in().await);
    }
    app.advance(Duration::from_secs(3600));
    let redis = app.app.config.redis_url.as_ref().expect("Redis");
    let client = redis::Client::open(redis.expose().as_str()).unwrap();
    let mut conn = client.get_connection().unwrap();
    redis::cmd("FLUSHDB").exec(&mut conn).unwrap();
    for browser in browsers {
        browser.open("/dashboard").await.expect(303);
    }
    until(Duration::from_secs(10), || async {
        lost(&app) == Some(3.0)
    })
    .await;
}
