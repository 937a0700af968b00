//! Whatever comes in, each parser of ours says yes or no, and never ends the process.

use std::sync::LazyLock;

use actix_web::http::header::{COOKIE, HeaderValue};
use actix_web::test::TestRequest;
use gapura::clock::{Clock, SystemClock};
use gapura::config::{Config, Secret};
use gapura::login::rotation::{Purpose, TokenId};
use gapura::session::cookies;
use gapura::token::personal::Candidate;
use gapura::vault::Secrets;
use gapura::web::origin;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::harness::{Backend, TestApp};

static SECRETS: LazyLock<Secrets> =
    LazyLock::new(|| Secrets::derive(&Secret::new((0..32).rev().map(|n| n * 7).collect())));

/// Text with what parsers trip over: separators, escapes, control and wide characters.
fn awkward() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        "[a-zA-Z0-9_-]{0,40}",
        "[|.,;:=&?#/\\\\%@\"' \t\r\n\0-]{0,4}",
        "%[0-9a-fA-F]{0,2}",
        any::<String>(),
        Just("gpr_".to_owned()),
        Just("//".to_owned()),
        Just("٣é\u{202e}😀".to_owned()),
    ];
    prop::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_made_up_text_is_a_token(text in awkward()) {
        for purpose in [Purpose::Refresh, Purpose::Remember] {
            prop_assert!(TokenId::read(&SECRETS, purpose, &text).is_none());
        }
        prop_assert!(Candidate::read(&SECRETS, &text).is_none());
    }

    #[test]
    fn a_token_with_one_character_changed_is_none(at in 0..200usize, to in any::<char>()) {
        let now = SystemClock.now();
        let id: [u8; 22] = std::array::from_fn(|n| n as u8);
        let Some(token) = TokenId::from_stored(Purpose::Refresh, &id) else {
            return Err(TestCaseError::fail(format!("an id has another length, at {now:?}")));
        };
        let text = token.to_token(&SECRETS).expose().to_owned();
        prop_assert!(TokenId::read(&SECRETS, Purpose::Refresh, &text).is_some());
        // Of one kind is never of the other.
        prop_assert!(TokenId::read(&SECRETS, Purpose::Remember, &text).is_none());
        let mut letters: Vec<char> = text.chars().collect();
        let at = at % letters.len();
        letters[at] = to;
        let changed: String = letters.into_iter().collect();
        let read = TokenId::read(&SECRETS, Purpose::Refresh, &changed);
        prop_assert_eq!(read.is_some(), changed == text);
    }

    #[test]
    fn next_never_leaves_the_site(text in prop_oneof![awkward(), awkward().prop_map(|rest| format!("/{rest}"))]) {
        let path = origin::local_path(&text);
        let base = url::Url::parse("https://ours.example/login").expect("a URL");
        // As a browser resolves it, and as one that is told the decoded path would.
        let target = base.join(path).map(|target| target.origin());
        prop_assert_eq!(target, Ok(base.origin()), "{}", path);
        prop_assert!(path.is_ascii() && !path.contains(['\r', '\n', '\\']), "{}", path);
    }

    #[test]
    fn settings_are_refused_in_words_or_understood(
        name in prop::sample::select(gapura::config::SETTINGS.iter().map(|s| s.name).collect::<Vec<_>>()),
        value in awkward(),
        file in awkward(),
    ) {
        let from = |text: &str| Config::from_sources(text, [(name.to_owned(), value.clone())]);
        for outcome in [from(""), from(&file)] {
            if let Err(problems) = outcome {
                prop_assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.is_empty()));
            }
        }
    }

    #[test]
    fn durations_and_addresses_of_settings_are_what_they_say(number in prop_oneof![0..5000u32, any::<u32>()], unit in "[smhdwy]?") {
        let text = format!("{number}{unit}");
        let set = [("GAPURA_AUDIT_RETENTION".to_owned(), text.clone())];
        let seconds = u64::from(number) * match unit.as_str() { "s" => 1, "m" => 60, "h" => 3600, "d" => 86_400, _ => 0 };
        match Config::from_sources("", set) {
            Ok(config) => prop_assert_eq!(config.audit_retention.as_secs(), seconds),
            Err(_) => prop_assert!(seconds == 0 || seconds > 3650 * 86_400, "{}", text),
        }
    }
}

#[actix_web::test]
async fn made_up_cookies_and_jwts_are_nobody() {
    let app = TestApp::start(Backend::Embedded).await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let names = [
        "gapura_session",
        "gapura_remember",
        "gapura_visitor",
        "other",
        "",
    ];
    let cookie = (
        prop::sample::select(names.to_vec()),
        awkward(),
        prop::bool::ANY,
    );
    let cookies_of = prop::collection::vec(cookie, 0..5);
    for _ in 0..2000 {
        let made = cookies_of.new_tree(&mut runner).expect("a value").current();
        let line: String = made
            .iter()
            .map(|(name, value, bare)| match bare {
                true => format!("{value}; "),
                false => format!("{name}={value}; "),
            })
            .collect();
        let Ok(line) = HeaderValue::from_bytes(line.as_bytes()) else {
            continue;
        };
        let request = TestRequest::default().insert_header((COOKIE, line));
        let mut request = request.app_data(app.app.clone()).to_srv_request();
        cookies::sort_out(&mut request);
        let left = request
            .cookies()
            .map(|cookies| cookies.clone())
            .unwrap_or_default();
        for name in ["gapura_session", "gapura_remember"] {
            let count = left.iter().filter(|cookie| cookie.name() == name).count();
            assert!(count <= 1, "{name}: {made:?}");
        }
        let text = awkward().new_tree(&mut runner).expect("a value").current();
        let read = app.app.jwt.read(&text, app.clock.now());
        assert!(
            matches!(read, gapura::token::jwt::Reading::Invalid),
            "{text}"
        );
    }
}
