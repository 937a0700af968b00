//! Signing keys: rotated and revoked beside servers that run, and those that stop a start.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use gapura::account;
use gapura::app::App;
use gapura::command::cleanup;
use gapura::config::JwtAlgorithm;
use gapura::keys;
use gapura::login;
use gapura::vault::AppKeys;
use reqwest::Method;
use serde_json::Value;

use crate::harness::{Backend, TestApp};
use crate::program::{APP_KEY, OTHER_APP_KEY, PASSWORD, Place, Server, pair, until};
use crate::realtime::{Heard, Wire};
use crate::token_api::{Pair, good, login_of, refused};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// Within which a running server has surely read the keys.
const SOON: Duration = Duration::from_secs(10);

fn kid(access: &str) -> String {
    let header = jsonwebtoken::decode_header(access).expect("a header");
    header.kid.expect("kid")
}

fn alg(access: &str) -> String {
    let header = jsonwebtoken::decode_header(access).expect("a header");
    format!("{:?}", header.alg)
}

impl TestApp {
    fn app_keys(&self) -> Arc<AppKeys> {
        Arc::new(AppKeys::load(&self.app.config).expect("app keys"))
    }

    async fn rotate(&self, algorithm: JwtAlgorithm) -> String {
        let rotated = keys::rotate(&self.app.db, &self.app_keys(), algorithm, self.now()).await;
        rotated.expect("a new key").0
    }

    async fn revoke(&self, id: &str) -> Result<Option<String>, String> {
        let algorithm = self.app.config.jwt_algorithm;
        keys::revoke(&self.app.db, &self.app_keys(), algorithm, id, self.now()).await
    }

    /// As it happens every two seconds.
    async fn read_keys(&self) -> Result<(), String> {
        let (app, lifetime) = (&self.app, self.app.config.clocks.login_lifetime);
        let app_keys = self.app_keys();
        let read = app.jwt.read_keys(&app.db, &app_keys, lifetime, self.now());
        read.await
    }

    async fn published(&self) -> Vec<String> {
        let answer = self
            .call(Method::GET, "/.well-known/jwks.json")
            .send()
            .await;
        ids(good(answer.expect("an answer")).await)
    }

    /// A fresh access token of this node for that login.
    async fn fresh(&self, pair: &Pair) -> String {
        let id = login_of(pair);
        let found = self.app.db.read(move |conn| {
            let login = login::by_id(conn, &id)?.expect("a login");
            let user = account::by_login_name(conn, "ada")?.expect("a person");
            Ok((user, login))
        });
        let (user, login) = found.await.expect("the database answers");
        self.app
            .jwt
            .sign(&user, &login, self.now())
            .expect("a token")
            .0
    }

    async fn execute(&self, statement: &'static str) {
        use diesel::connection::SimpleConnection;
        let done = self.app.db.write(move |conn| conn.batch_execute(statement));
        done.await.expect("the database obeys");
    }

    async fn signing_keys(&self) -> i64 {
        let query = "SELECT COUNT(*) AS number FROM keys WHERE purpose = 'jwt'";
        self.count(query.to_owned()).await
    }
}

fn ids(set: Value) -> Vec<String> {
    let keys = set["keys"].as_array().expect("keys").iter();
    keys.map(|key| key["kid"].as_str().expect("kid").to_owned())
        .collect()
}

#[actix_web::test]
async fn a_rotation_under_load_costs_nobody_a_401_on_any_node() {
    for (backend, of) in [
        (Backend::Shared, JwtAlgorithm::EdDsa),
        (Backend::Embedded, JwtAlgorithm::Es256),
    ] {
        let settings = [("GAPURA_JWT_ALGORITHM", of.name())];
        let one = TestApp::start_with(backend, &settings).await;
        let (installation, clock) = (Arc::clone(&one.installation), Arc::clone(&one.clock));
        let two = TestApp::join(installation, clock, &settings).await;
        let pair = one.log_in("ada").await;
        let old = kid(&pair.access);
        let (over, asked) = (Cell::new(false), Cell::new(0));
        let load = |from: &'static str| {
            let (signing, pair, over, asked) = (
                if from == "one" { &one } else { &two },
                pair.clone(),
                &over,
                &asked,
            );
            let nodes = [&one, &two];
            async move {
                while !over.get() {
                    let fresh = signing.fresh(&pair).await;
                    for node in nodes {
                        let answer = node.me(&fresh).await;
                        assert_eq!(answer.status(), 200, "of {from}, by {}", kid(&fresh));
                        asked.set(asked.get() + 1);
                    }
                }
            }
        };
        let rotation = async {
            let answered = async |more: u32| {
                let enough = asked.get() + more;
                until(SOON, || async { asked.get() >= enough }).await;
            };
            answered(20).await;
            let new = one.rotate(of).await;
            // For two seconds at most, the other does not know it.
            one.read_keys().await.expect("keys");
            answered(20).await;
            until(SOON, || async {
                one.published().await.contains(&new) && two.published().await.contains(&new)
            })
            .await;
            // Known to all, and signs nothing yet.
            assert_eq!(kid(&one.fresh(&pair).await), old);
            for _ in 0..31 {
                one.advance(10 * SECOND);
                answered(10).await;
            }
            for node in [&one, &two] {
                assert_eq!(kid(&node.fresh(&pair).await), new);
                assert_eq!(node.published().await, [new.clone(), old.clone()]);
                good(node.me(&pair.access).await).await;
            }
            over.set(true);
        };
        futures_util::join!(load("one"), load("two"), rotation);
    }
}

#[actix_web::test]
async fn what_an_old_key_signed_is_recognised_for_the_longest_life_of_a_login() {
    for backend in Backend::ALL {
        let app = TestApp::start_with(backend, &[("GAPURA_JWT_ALGORITHM", "EdDSA")]).await;
        let pair = app.log_in("ada").await;
        let new = app.rotate(JwtAlgorithm::EdDsa).await;
        app.advance(keys::SIGNS_AFTER);
        app.read_keys().await.expect("keys");
        good(app.me(&pair.access).await).await;
        // Published for as long as something that it signed can be alive.
        app.advance(Duration::from_secs(1800));
        assert_eq!(app.published().await.len(), 2);
        app.advance(61 * SECOND);
        assert_eq!(app.published().await, std::slice::from_ref(&new));
        refused(app.me(&pair.access).await, 401, "token_expired").await;
        app.advance(30 * DAY - Duration::from_secs(1862));
        app.read_keys().await.expect("keys");
        refused(app.me(&pair.access).await, 401, "token_expired").await;
        let config = &app.app.config;
        let sweep = async || {
            let swept = cleanup::sweep(&app.app.db, config, app.now()).await;
            swept.expect("swept");
        };
        sweep().await;
        assert_eq!(app.signing_keys().await, 2);
        app.advance(SECOND);
        app.read_keys().await.expect("keys");
        refused(app.me(&pair.access).await, 401, "token_invalid").await;
        sweep().await;
        assert_eq!(app.signing_keys().await, 1);
        let again = app.log_in("ada").await;
        assert_eq!(kid(&again.access), new);
        good(app.me(&again.access).await).await;
    }
}

#[actix_web::test]
async fn another_algorithm_takes_over_and_the_older_keys_go_on_recognising() {
    let app = TestApp::start(Backend::Shared).await;
    let mut tokens = vec![app.log_in("ada").await.access];
    for of in ["RS256", "ES256", "EdDSA", "HS256"] {
        let (installation, clock) = (Arc::clone(&app.installation), Arc::clone(&app.clock));
        let settings = [("GAPURA_JWT_ALGORITHM", of)];
        // Two nodes restarted at the same moment make one key.
        let (one, two) = futures_util::join!(
            TestApp::join(Arc::clone(&installation), Arc::clone(&clock), &settings),
            TestApp::join(installation, clock, &settings),
        );
        let before = one.log_in("ada").await.access;
        assert_ne!(alg(&before), of);
        assert_eq!(app.signing_keys().await, tokens.len() as i64 + 1);
        // Also the one that was not restarted.
        app.read_keys().await.expect("keys");
        app.advance(keys::SIGNS_AFTER);
        for node in [&one, &two, &app] {
            let fresh = node.log_in("ada").await.access;
            assert_eq!(alg(&fresh), of);
            tokens.push(fresh);
            tokens.dedup_by_key(|token| kid(token));
        }
        for node in [&one, &two, &app] {
            for token in &tokens {
                good(node.me(token).await).await;
            }
        }
    }
    app.advance(Duration::from_secs(1800));
    for token in &tokens {
        refused(app.me(token).await, 401, "token_expired").await;
    }
}

#[actix_web::test]
async fn what_a_revoked_key_signed_is_refused_though_it_was_remembered() {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let pair = app.log_in("ada").await;
        good(app.me(&pair.access).await).await;
        let mut wire = Wire::with_token(&app.url, &pair.access).await;
        let first = kid(&pair.access);
        for unknown in ["root", "", "x"] {
            let problem = app.revoke(unknown).await.unwrap_err();
            assert!(problem.contains("there is no signing key"), "{problem}");
        }
        let second = app
            .revoke(&first)
            .await
            .expect("revoked")
            .expect("a successor");
        app.read_keys().await.expect("keys");
        refused(app.me(&pair.access).await, 401, "token_invalid").await;
        assert_eq!(
            wire.hear_of_itself().await,
            Heard::Closed(4401, "token_invalid".to_owned())
        );
        let pair = app.refresh(&pair).await;
        assert_eq!(kid(&pair.access), second);
        good(app.me(&pair.access).await).await;

        // A key that waits is brought forward; the one before it does not come back.
        let third = app.rotate(JwtAlgorithm::Hs256).await;
        app.advance(keys::SIGNS_AFTER);
        let fourth = app.rotate(JwtAlgorithm::Hs256).await;
        app.read_keys().await.expect("keys");
        assert_eq!(kid(&app.fresh(&pair).await), third);
        assert_eq!(app.revoke(&third).await, Ok(Some(fourth.clone())));
        app.read_keys().await.expect("keys");
        assert_eq!(kid(&app.fresh(&pair).await), fourth);
        good(app.me(&pair.access).await).await;
        // One that does not sign just goes.
        assert_eq!(app.revoke(&second).await, Ok(None));
        app.read_keys().await.expect("keys");
        refused(app.me(&pair.access).await, 401, "token_invalid").await;
        assert_eq!(app.signing_keys().await, 1);
        for (kind, number) in [("signing_key_made", 4), ("signing_key_revoked", 3)] {
            let events =
                format!("SELECT COUNT(*) AS number FROM audit_events WHERE kind = '{kind}'");
            assert_eq!(app.count(events).await, number, "{kind}");
        }
    }
}

#[actix_web::test]
async fn a_node_without_news_of_keys_does_not_call_a_token_invalid_whose_key_it_may_lack() {
    let app = TestApp::start(Backend::Embedded).await;
    let known = app.log_in("ada").await;
    app.rotate(JwtAlgorithm::Hs256).await;
    app.read_keys().await.expect("keys");
    app.advance(keys::SIGNS_AFTER);
    let unknown = app.fresh(&known).await;
    app.revoke(&kid(&unknown)).await.expect("revoked");
    app.read_keys().await.expect("keys");
    app.execute("ALTER TABLE keys RENAME TO elsewhere").await;
    app.advance(60 * SECOND);
    refused(app.me(&unknown).await, 401, "token_invalid").await;
    app.advance(SECOND);
    refused(app.me(&unknown).await, 503, "unavailable").await;
    good(app.me(&known.access).await).await;
    app.execute("ALTER TABLE elsewhere RENAME TO keys").await;
    app.read_keys().await.expect("keys");
    refused(app.me(&unknown).await, 401, "token_invalid").await;
}

#[actix_web::test]
async fn a_weak_or_doubled_signing_key_stops_the_start() {
    let app = TestApp::start(Backend::Embedded).await;
    let config = app.installation.config(&[]);
    let first = app.log_in("ada").await.access;
    app.execute(
        "INSERT INTO keys SELECT 'copy', purpose, algorithm, sealed, created_at, signs_from - 1 \
         FROM keys WHERE purpose = 'jwt'",
    )
    .await;
    let start = App::start(config.clone(), app.clock.clone()).await;
    let problem = start.err().expect("refused");
    assert!(problem.contains("twice"), "{problem}");
    app.revoke("copy").await.expect("the way out that was told");
    for weak in [
        &[0; 32][..],
        b"short",
        b"a-string-secret-at-least-256-bits-long",
    ] {
        let sealed = app.app_keys().seal("jwt", weak);
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        let update = format!("UPDATE keys SET sealed = X'{hex}' WHERE purpose = 'jwt'");
        app.execute(update.leak()).await;
        let start = App::start(config.clone(), app.clock.clone()).await;
        let problem = start.err().expect("refused");
        assert!(problem.contains("`gapura keys revoke"), "{problem}");
    }
    app.revoke(&kid(&first))
        .await
        .expect("the way out that was told");
    App::start(config, app.clock.clone())
        .await
        .map(drop)
        .expect("it starts");
}

impl Server {
    async fn key_ids(&self) -> Vec<String> {
        let answer = self.get("/.well-known/jwks.json").await;
        ids(answer.json().await.expect("JSON"))
    }
}

#[actix_web::test]
async fn keys_are_listed_rotated_and_revoked_beside_a_running_server() {
    for algorithm in ["ES256", "RS256"] {
        let place = Place::new()
            .with("GAPURA_ADMIN_PASSWORD", PASSWORD)
            .with("GAPURA_APP_KEY", APP_KEY)
            .with("GAPURA_JWT_ALGORITHM", algorithm);
        let server = place.serve();
        let (access, refresh) = server.pair("admin", PASSWORD).await;
        let old = kid(&access);
        let listed = place.run(&["keys", "list"]).done();
        assert!(
            listed.starts_with(&format!("{old}  {algorithm}")),
            "{listed}"
        );
        assert!(listed.contains("signs since"), "{listed}");

        let told = place.run(&["keys", "rotate"]).done();
        assert!(
            told.contains(algorithm) && told.contains("it signs from"),
            "{told}"
        );
        let new = told.split(' ').nth(1).expect("an id").to_owned();
        until(SOON, || async {
            server.key_ids().await == [new.clone(), old.clone()]
        })
        .await;
        let listed = place.run(&["keys", "list"]).done();
        let lines: Vec<_> = listed.lines().collect();
        assert!(
            lines[0].starts_with(&new) && lines[0].contains("signs from"),
            "{listed}"
        );
        assert!(
            lines[1].starts_with(&old) && lines[1].contains("signs since"),
            "{listed}"
        );
        assert_eq!(server.get_as("/api/v1/me", &access).await.status(), 200);
        let answer = server.refresh(&refresh).await;
        assert_eq!(answer.status(), 200);
        let (fresh, refresh) = pair(answer).await;
        assert_eq!(kid(&fresh), old);

        let other = Place::new()
            .with(
                "DATABASE_URL",
                &format!("sqlite://{}", place.path("data/gapura.db").display()),
            )
            .with("GAPURA_APP_KEY", OTHER_APP_KEY);
        for words in [&["keys", "rotate"][..], &["keys", "revoke", &old]] {
            let sentence = other.run(words).refused();
            assert!(sentence.contains("does not open the keys"), "{sentence}");
        }
        let sentence = place.run(&["keys", "revoke", "nothing"]).refused();
        assert!(
            sentence.contains("there is no signing key nothing"),
            "{sentence}"
        );

        let told = place.run(&["keys", "revoke", &old]).done();
        assert!(told.contains(&format!("{new} signs from now on")), "{told}");
        until(SOON, || async {
            server.get_as("/api/v1/me", &access).await.status() == 401
        })
        .await;
        let answer = server.refresh(&refresh).await;
        assert_eq!(answer.status(), 200);
        let (fresh, _) = pair(answer).await;
        assert_eq!(kid(&fresh), new);
        assert_eq!(server.get_as("/api/v1/me", &fresh).await.status(), 200);
        assert_eq!(server.key_ids().await, [new]);
    }
}

#[test]
fn a_settings_file_with_a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let file = place.path("gapura.toml");
    std::fs::write(&file, format!("app_key = \"{APP_KEY}\"\n")).unwrap();
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
    for open in [0o644, 0o640, 0o602] {
        mode(open).unwrap();
        let sentence = place.run(&["migrate"]);
        assert!(
            !sentence.good && sentence.err.contains("chmod 600"),
            "{sentence:?}"
        );
        assert!(!sentence.err.contains(APP_KEY), "{sentence:?}");
    }
    mode(0o600).unwrap();
    place.run(&["migrate"]).done();
    // Without a key in it, a settings file is nobody's secret.
    std::fs::write(&file, "log = \"info\"\n").unwrap();
    mode(0o644).unwrap();
    place.run(&["migrate"]).done();
}
