//! A disk with no room left.

use std::process::Command;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use tempfile::TempDir;

use super::killed::{browser, form_token_at, is_in, sign_in};
use super::postgres::Postgres;
use super::{TOKEN_STATUS, shared, unavailable};
use crate::operations::doctor;
use crate::program::{PASSWORD, Place, Server, until};

/// A file system of its own, unmounted when dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={size},mode=0700"))
            .arg("tmpfs")
            .arg(dir.path());
        let output = mount.output().expect("a command called mount");
        assert!(
            output.status.success(),
            "a small disk can be mounted only by root: run tests/run as root ({})",
            String::from_utf8_lossy(&output.stderr)
        );
        Self(dir)
    }
}

/// What leaves no room, until it is gone.
struct Filler(std::path::PathBuf);

impl Filler {
    fn of(disk: &Tmpfs) -> Self {
        let path = disk.0.path().join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        assert!(std::io::copy(&mut std::io::repeat(7), &mut file).is_err());
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[actix_web::test]
async fn on_a_full_disk_logins_wait_and_tokens_stay_good() {
    let disk = Tmpfs::mount("4m");
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let place = place.with("GAPURA_DATA_DIR", &disk.0.path().display().to_string());
    let place = place.with("GAPURA_METRICS_BIND", "127.0.0.1:0");
    let server = place.serve();
    let (access, refresh) = server.pair("admin", PASSWORD).await;
    let [staying, leaving] = [browser(), browser()];
    for person in [&staying, &leaving] {
        let answer = sign_in(&server, person).await.send().await;
        assert_eq!(answer.unwrap().status(), 303);
        assert!(is_in(&server, person).await);
    }
    let csrf = form_token_at(&leaving, &format!("{}/dashboard", server.url)).await;
    let filler = Filler::of(&disk);
    let limit = Duration::from_secs(2);
    // Room that is left in the last page of the log may still take a few.
    until(Duration::from_secs(10), || async {
        server.token("admin", PASSWORD).await.status() == 503
    })
    .await;
    let let_in = logins(&server, "api", "ok").await;
    for _ in 0..3 {
        unavailable("login", limit, server.token("admin", PASSWORD)).await;
        unavailable("refresh", limit, server.refresh(&refresh)).await;
        unavailable("form", limit, server.sign_in("admin", PASSWORD)).await;
        assert_eq!(server.get_as(TOKEN_STATUS, &access).await.status(), 200);
        // Sessions go on in memory.
        assert!(is_in(&server, &staying).await);
        let form = leaving.post(format!("{}/logout", server.url));
        let form = form.form(&[("csrf_token", &csrf)]).send();
        unavailable("logout", limit, async { form.await.unwrap() }).await;
        assert!(is_in(&server, &leaving).await, "not told, not done");
    }
    assert_eq!(logins(&server, "api", "ok").await, let_in);
    for kind in ["api", "browser"] {
        assert!(logins(&server, kind, "unavailable").await >= 3.0, "{kind}");
    }
    drop(filler);
    until(Duration::from_secs(5), || async {
        server.token("admin", PASSWORD).await.status() == 200
    })
    .await;
    assert_eq!(server.refresh(&refresh).await.status(), 200);
    assert_eq!(server.sign_in("admin", PASSWORD).await.status(), 303);
    assert_eq!(server.get("/dashboard").await.status(), 200);
    assert!(is_in(&server, &staying).await);
    let form = leaving.post(format!("{}/logout", server.url));
    let form = form.form(&[("csrf_token", &csrf)]).send().await;
    assert_eq!(form.unwrap().status(), 303);
    assert!(!is_in(&server, &leaving).await);
}

/// Passwords given for a login of this kind with this outcome, as the metrics tell.
async fn logins(server: &Server, kind: &str, outcome: &str) -> f64 {
    let series = format!("gapura_logins_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} ");
    let metrics = server.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0.0, |number| number.parse().expect("a number"))
}

#[actix_web::test]
async fn of_a_full_disk_of_postgresql_metrics_and_doctor_tell() {
    let disk = Tmpfs::mount("32m");
    let postgres = Postgres::start().await;
    let path = disk.0.path();
    let owned = Command::new("chown").arg("postgres:").arg(path).status();
    assert!(owned.expect("it runs").success());
    let mut conn = PgConnection::establish(&postgres.url()).expect("it answers");
    let mut tell = |statement: &str| conn.batch_execute(statement).expect("it is done");
    tell(&format!(
        "CREATE TABLESPACE small LOCATION '{}'",
        path.display()
    ));
    tell("CREATE DATABASE gate TABLESPACE small");
    let url = postgres.url();
    let (address, _) = url.rsplit_once('/').expect("a database");
    let place = shared()
        .with("DATABASE_URL", &format!("{address}/gate"))
        .with("GAPURA_RATE_LIMITS", "off")
        .with("GAPURA_METRICS_BIND", "127.0.0.1:0");
    let server = place.serve();
    let (access, refresh) = server.pair("admin", PASSWORD).await;
    let (good, out) = doctor(&place);
    assert!(good, "{out}");
    let filler = Filler::of(&disk);
    // What room is left inside the files takes a few.
    until(Duration::from_secs(30), || async {
        server.token("admin", PASSWORD).await.status() == 503
    })
    .await;
    let let_in = logins(&server, "api", "ok").await;
    let limit = Duration::from_secs(2);
    unavailable("login", limit, server.token("admin", PASSWORD)).await;
    assert_eq!(server.get_as(TOKEN_STATUS, &access).await.status(), 200);
    assert_eq!(logins(&server, "api", "ok").await, let_in);
    assert!(logins(&server, "api", "unavailable").await >= 2.0);
    server.logs("No space left on device").await;
    let (good, out) = doctor(&place);
    let full = out.lines().find(|line| line.contains("No space left"));
    let full = full.unwrap_or_else(|| panic!("{out}"));
    assert!(!good && full.starts_with("FAIL") && full.contains("make room"));
    drop(filler);
    until(Duration::from_secs(5), || async {
        server.token("admin", PASSWORD).await.status() == 200
    })
    .await;
    assert_eq!(server.refresh(&refresh).await.status(), 200);
    let (good, out) = doctor(&place);
    assert!(good, "{out}");
}
