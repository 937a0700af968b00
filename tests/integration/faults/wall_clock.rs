//! The machine's own clock set back and forth by hours while the real process runs (libfaketime).

use std::future::ready;
use std::path::PathBuf;
use std::time::Duration;

use gapura::clock::{Clock, SystemClock, Timestamp};
use reqwest::StatusCode;

use super::killed::{browser, remembered};
use crate::harness::Backend;
use crate::process::place_on;
use crate::program::{PASSWORD, Place, Server, pair, until};

/// Where Debian's `faketime` has put it.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("a folder");
    let folders = folders.map(|entry| entry.expect("an entry").path().join("faketime"));
    let mut files = folders.map(|folder| folder.join("libfaketimeMT.so.1"));
    let found = files.find(|file| file.exists());
    found
        .expect("libfaketime is not installed (Debian: faketime): run tests/run, which installs it")
}

/// A place whose clock [`set_clock`] sets; what only counts time that passes is left alone.
fn place(backend: Backend) -> Place {
    let library = library();
    let place = place_on(backend)
        .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
        .with("GAPURA_PUBLIC_URL", "http://localhost");
    let file = place.path("offset").display().to_string();
    let place = place
        .with("LD_PRELOAD", &library.display().to_string())
        .with("FAKETIME_TIMESTAMP_FILE", &file)
        .with("FAKETIME_NO_CACHE", "1")
        .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .with("DONT_FAKE_MONOTONIC", "1")
        .with("NO_FAKE_STAT", "1");
    set_clock(&place, 0);
    place
}

fn set_clock(place: &Place, hours: i64) {
    // In one step, since the process may be reading it.
    let draft = place.path("offset.new");
    std::fs::write(&draft, format!("{:+}\n", hours * 3600)).unwrap();
    std::fs::rename(draft, place.path("offset")).unwrap();
}

/// Everything that one person may hold.
struct Held {
    access: String,
    refresh: String,
    browser: reqwest::Client,
    /// The remember cookie, as a browser that was opened again sends it.
    remember: String,
}

impl Held {
    async fn gather(server: &Server) -> Self {
        let (access, refresh) = server.pair("admin", PASSWORD).await;
        let browser = browser();
        let remember = remembered(server, &browser).await;
        let held = Self {
            access,
            refresh,
            browser,
            remember,
        };
        assert_eq!(held.session(server).await, 200);
        held
    }

    async fn token(&self, server: &Server) -> StatusCode {
        server.get_as("/api/v1/me", &self.access).await.status()
    }

    async fn session(&self, server: &Server) -> StatusCode {
        let request = self.browser.get(format!("{}/dashboard", server.url));
        request.send().await.unwrap().status()
    }

    async fn restores(&self, server: &Server) -> bool {
        let bare = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let request = bare
            .build()
            .unwrap()
            .get(format!("{}/dashboard", server.url));
        let request = request.header("cookie", &self.remember);
        request.send().await.unwrap().status() == 200
    }

    async fn refreshed(&mut self, server: &Server) {
        let answer = server.refresh(&self.refresh).await;
        assert_eq!(answer.status(), 200);
        (self.access, self.refresh) = pair(answer).await;
    }

    async fn expect_alive(&mut self, when: &str, server: &Server) {
        assert_eq!(self.token(server).await, 200, "{when}");
        assert_eq!(self.session(server).await, 200, "{when}");
        self.refreshed(server).await;
        assert_eq!(self.token(server).await, 200, "{when}");
    }

    async fn expect_dead(&self, when: &str, server: &Server) {
        assert_eq!(self.token(server).await, 401, "{when}");
        assert_eq!(self.session(server).await, 303, "{when}");
        assert!(!self.restores(server).await, "{when}");
        let answer = server.refresh(&self.refresh).await;
        assert_eq!(answer.status(), 401, "{when}");
    }
}

#[actix_web::test]
async fn what_has_expired_stays_so_when_the_clock_is_set_back_also_after_a_restart() {
    for backend in Backend::ALL {
        let place = place(backend)
            .with("GAPURA_SESSION_IDLE_TIMEOUT", "1h")
            .with("GAPURA_SESSION_LIFETIME", "90m")
            .with("GAPURA_REMEMBER_LIFETIME", "1h")
            .with("GAPURA_REFRESH_TOKEN_LIFETIME", "1h");
        let mut server = place.serve();
        let noticed = Held::gather(&server).await;
        let unnoticed = Held::gather(&server).await;
        set_clock(&place, 2);
        noticed.expect_dead("forth", &server).await;
        let mut younger = Held::gather(&server).await;
        set_clock(&place, 0);
        for old in [&noticed, &unnoticed] {
            old.expect_dead("back", &server).await;
        }
        younger.expect_alive("back", &server).await;

        set_clock(&place, 2);
        if backend == Backend::Embedded {
            // What a crash leaves behind.
            let ahead = || {
                let text = std::fs::read_to_string(place.path("data/clock")).unwrap();
                let told = Timestamp::from_millis(text.trim().parse().unwrap());
                told > SystemClock.now() + Duration::from_secs(5400)
            };
            until(Duration::from_secs(10), || ready(ahead())).await;
            server.signal("KILL");
        } else {
            server.signal("TERM");
        }
        server.ended().await;
        set_clock(&place, 0);
        let server = place.serve();
        for old in [&noticed, &unnoticed] {
            old.expect_dead("restarted", &server).await;
        }
        younger.expect_alive("restarted", &server).await;
    }
}

#[actix_web::test]
async fn two_hours_forth_or_back_cost_nobody_more_than_what_has_expired() {
    for backend in Backend::ALL {
        let place = place(backend);
        let mut server = place.serve();
        let mut held = Held::gather(&server).await;
        set_clock(&place, -2);
        held.expect_alive("back", &server).await;
        let mut younger = Held::gather(&server).await;
        set_clock(&place, 0);
        for held in [&mut held, &mut younger] {
            held.expect_alive("right again", &server).await;
        }
        set_clock(&place, 2);
        for held in [&mut held, &mut younger] {
            // Half an hour is what an access token lives.
            assert_eq!(held.token(&server).await, 401);
            held.refreshed(&server).await;
            held.expect_alive("forth", &server).await;
        }
        set_clock(&place, 0);
        let mut youngest = Held::gather(&server).await;
        for held in [&mut held, &mut younger, &mut youngest] {
            held.expect_alive("back after forth", &server).await;
        }
        server.signal("TERM");
        server.ended().await;
        set_clock(&place, -2);
        let server = place.serve();
        for held in [&mut held, &mut younger, &mut youngest] {
            held.expect_alive("restarted", &server).await;
            assert!(held.restores(&server).await);
        }
    }
}

#[actix_web::test]
async fn a_node_whose_time_is_not_that_of_the_others_says_so() {
    let place = place(Backend::Shared).with("GAPURA_METRICS_BIND", "127.0.0.1:0");
    let server = place.serve();
    let apart = async |part| server.metric(&series(part)).await;
    for part in ["database", "redis"] {
        looked(&server, part).await;
        assert!(apart(part).await < 1.0);
    }
    set_clock(&place, 2);
    for part in ["database", "redis"] {
        until(Duration::from_secs(5), || async {
            apart(part).await > 7000.0
        })
        .await;
    }
    let told = || server.err.text().matches("this node's time is not").count();
    until(Duration::from_secs(5), || ready(told() == 2)).await;
    // The time is written down every few seconds.
    let kept = || std::fs::read_to_string(place.path("data/clock")).unwrap_or_default();
    let ahead = || {
        kept()
            .trim()
            .parse::<i64>()
            .is_ok_and(|at| at > SystemClock.now().millis() + 7_000_000)
    };
    until(Duration::from_secs(10), || ready(ahead())).await;
    // Set right again it goes on from there, which the others do not; the operator is told what to do.
    set_clock(&place, 0);
    until(Duration::from_secs(20), || {
        ready(server.err.text().contains("clock was set back"))
    })
    .await;
    let doctor = place.run(&["doctor"]);
    assert!(!doctor.good, "{}", doctor.out);
    for words in ["stop this node, remove data/clock", "start it again"] {
        assert!(doctor.out.contains(words), "{}", doctor.out);
    }
    server.signal("KILL");
    std::fs::remove_file(place.path("data/clock")).unwrap();
    let server = place.serve();
    looked(&server, "database").await;
    assert!(server.metric(&series("database")).await < 1.0);
}

/// How far this node's time is from that one, in seconds.
fn series(part: &str) -> String {
    format!(r#"gapura_clock_apart_seconds{{part="{part}"}}"#)
}

/// Waits until the server has compared its clock with that one.
async fn looked(server: &Server, part: &str) {
    until(Duration::from_secs(5), || async {
        server.metrics().await.contains(&series(part))
    })
    .await;
}
