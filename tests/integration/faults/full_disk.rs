//! A disk with no room left.

use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::killed::{browser, form_token_at, is_in, sign_in};
use super::{TOKEN_STATUS, unavailable};
use crate::program::{PASSWORD, Place, until};

/// A file system of its own, unmounted when dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount() -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs"])
            .arg(dir.path());
        let status = mount.stderr(Stdio::null()).status();
        status
            .is_ok_and(|status| status.success())
            .then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[actix_web::test]
async fn on_a_full_disk_logins_wait_and_tokens_stay_good() {
    let Some(disk) = Tmpfs::mount() else {
        println!("skipped: a small disk can be mounted only by root");
        return;
    };
    let place = Place::new().with("GAPURA_ADMIN_PASSWORD", PASSWORD);
    let place = place.with("GAPURA_DATA_DIR", &disk.0.path().display().to_string());
    let server = place.serve();
    let (access, refresh) = server.pair("admin", PASSWORD).await;
    let [staying, leaving] = [browser(), browser()];
    for person in [&staying, &leaving] {
        let answer = sign_in(&server, person).await.send().await;
        assert_eq!(answer.unwrap().status(), 303);
        assert!(is_in(&server, person).await);
    }
    let csrf = form_token_at(&leaving, &format!("{}/dashboard", server.url)).await;
    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(7), &mut file);
    assert!(full.is_err());
    let limit = Duration::from_secs(2);
    // Room that is left in the last page of the log may still take a few.
    until(Duration::from_secs(10), || async {
        server.token("admin", PASSWORD).await.status() == 503
    })
    .await;
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
    std::fs::remove_file(&filler).unwrap();
    drop(file);
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
