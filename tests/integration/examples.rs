//! The scripts of the README, as they stand there, run by the languages they are written in.

use std::process::{Command, Output};

use crate::harness::{Backend, TestApp};
use crate::readme::block;

/// Runs a script, whose server goes on meanwhile.
async fn run(app: &TestApp, language: [&str; 2], first_line: &str, password: &str) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let [program, ending] = language;
    let file = dir.path().join(format!("example.{ending}"));
    std::fs::write(&file, block(first_line)).expect("written");
    let mut command = Command::new(program);
    command
        .arg(file)
        .env("LOGIN_URL", &app.url)
        .env("LOGIN_USER", "ada")
        .env("LOGIN_PASSWORD", password);
    let ran = actix_web::rt::task::spawn_blocking(move || command.output());
    let ran = ran.await.expect("it ends");
    ran.unwrap_or_else(|error| panic!("{program}: {error}: run tests/run"))
}

async fn logs_in_calls_refreshes_and_logs_out(language: [&str; 2], first_line: &str) {
    for backend in Backend::ALL {
        let app = TestApp::start(backend).await;
        let said = run(&app, language, first_line, TestApp::PASSWORD).await;
        // What comes last is the call after the logout.
        assert_eq!(
            String::from_utf8_lossy(&said.stdout),
            "logged in as ada\ncalled: ada <ada@example.org>\nrefreshed: 1 login\nlogged out\ntoken_revoked\n",
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
        assert_eq!(String::from_utf8_lossy(&said.stderr), "");
        assert_eq!(said.status.code(), Some(1));
        let count = async |query: &str| app.count(query.to_owned()).await;
        // One rotation, though the script in Node asks for two at once, and one login, ended.
        let rotations = "SELECT MAX(counter) AS number FROM rotating_tokens";
        assert_eq!(count(rotations).await, 1);
        let ended = "SELECT COUNT(*) AS number FROM logins WHERE ended_cause = 'logged_out'";
        assert_eq!(count(ended).await, 1);

        let said = run(&app, language, first_line, "not the password").await;
        assert_eq!(
            String::from_utf8_lossy(&said.stdout),
            "invalid_credentials\n"
        );
        assert_eq!(said.status.code(), Some(1));
    }
}

#[actix_web::test]
async fn the_script_in_node_logs_in_calls_refreshes_and_logs_out() {
    logs_in_calls_refreshes_and_logs_out(["node", "mjs"], "// example.mjs").await;
}

#[actix_web::test]
async fn the_script_in_python_logs_in_calls_refreshes_and_logs_out() {
    logs_in_calls_refreshes_and_logs_out(["python3", "py"], "# example.py").await;
}
