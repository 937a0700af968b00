//! Whatever comes in, each parser of ours says yes or no, and never ends the process.

use std::sync::LazyLock;

use actix_web::http::header::{COOKIE, HeaderMap, HeaderValue};
use actix_web::test::TestRequest;
use gapura::account;
use gapura::clock::{Clock, SystemClock};
use gapura::config::{Config, Secret};
use gapura::i18n::Lang;
use gapura::login::rotation::{Purpose, TokenId};
use gapura::realtime::protocol::Incoming;
use gapura::session::cookies;
use gapura::token::personal::Candidate;
use gapura::vault::Secrets;
use gapura::web::origin;
use proptest::prelude::*;

use crate::fuzz;

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
    fn next_never_leaves_the_site(text in awkward()) {
        fuzz::next(text.as_bytes());
        fuzz::next(format!("/{text}").as_bytes());
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

/// Cookies as they are after they were sorted out, of an installation behind https.
fn sorted_out(lines: &[&str]) -> Vec<(String, String)> {
    let url = (
        "GAPURA_PUBLIC_URL".to_owned(),
        "https://gate.example".to_owned(),
    );
    let config = Config::from_sources("", [url]).expect("settings that can be right");
    let mut headers = HeaderMap::new();
    for line in lines {
        let value = HeaderValue::from_bytes(line.as_bytes()).expect("a header");
        headers.append(COOKIE, value);
    }
    cookies::sort_out(&mut headers, &config, &SECRETS);
    let mut req = TestRequest::default();
    for value in headers.get_all(COOKIE) {
        req = req.append_header((COOKIE, value.clone()));
    }
    let req = req.to_http_request();
    let left = req.cookies().expect("what is left can be read");
    left.iter()
        .map(|cookie| (cookie.name().to_owned(), cookie.value().to_owned()))
        .collect()
}

#[test]
fn a_cookie_that_only_we_would_take_for_one_bound_to_its_host_is_dropped() {
    // Browsers let any neighbour plant these: to them the names do not begin with `__Host-`.
    for planted in [
        "%5F%5FHost-gapura_session=x",
        "__Host%2Dgapura_session=x",
        "__Host-gapura%5fremember=x",
        "\u{2000}__Host-gapura_session=x",
        "\u{a0}__Host-gapura_form=x",
        "__host-gapura_session=x",
        "__Host-gapura_session\u{3000}=x",
    ] {
        let left = sorted_out(&[&format!("a=b; {planted}")]);
        let ours = left.iter().filter(|(name, _)| name.starts_with("__Host-"));
        assert_eq!(ours.count(), 0, "{planted}: {left:?}");
        assert!(left.contains(&("a".to_owned(), "b".to_owned())), "{left:?}");
    }
    let genuine = sorted_out(&["a=%20b; __Host-gapura_session=x%2By", "c=é"]);
    let expected = [("a", " b"), ("__Host-gapura_session", "x+y"), ("c", "é")];
    assert_eq!(
        genuine,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn what_is_seen_of_cookies_at_a_glance_is_what_reading_them_tells(
        pairs in prop::collection::vec(
            "(__Host-gapura_session|__Host-gapura_remember|refresh_token|a| a|%61|é|)(=|=|)(x|é|%|%41|%e1|%c3%a9| |=){0,2}",
            0..4,
        )
    ) {
        let line = pairs.join(";");
        let told = |line: &str| {
            let mut told = sorted_out(&[line]);
            told.sort();
            told
        };
        // A pair that is none is nothing that a glance is enough for.
        prop_assert_eq!(told(&line), told(&format!("{line};")));
    }
}

#[test]
fn of_several_refresh_cookies_one_counts_if_it_alone_is_genuine() {
    let token = |id| {
        let token = TokenId::from_stored(Purpose::Refresh, &[id; 22]).expect("an id");
        token.to_token(&SECRETS).expose().to_owned()
    };
    let [one, two] = [1, 2].map(token);
    let own = [("refresh_token".to_owned(), one.clone())];
    assert_eq!(
        sorted_out(&[&format!("refresh_token=planted; refresh_token={one}")]),
        own
    );
    assert_eq!(
        sorted_out(&[&format!("refresh_token={one}; refresh_token={one}")]),
        own
    );
    let both = format!("refresh_token={two}; refresh_token={one}");
    assert_eq!(sorted_out(&[&both]), []);
}

#[test]
fn the_address_that_a_proxy_added_counts_whatever_the_client_wrote_before_it() {
    let set = [("GAPURA_TRUSTED_PROXIES".to_owned(), "10.0.0.0/8".to_owned())];
    let config = Config::from_sources("", set).expect("settings that can be right");
    for written in [
        &b"\xff"[..],
        "é".as_bytes(),
        b"\t,,",
        b"unknown",
        b"\x80, 10.0.0.7",
    ] {
        let line = [written, b", 198.51.100.4"].concat();
        let line = HeaderValue::from_bytes(&line).expect("a header");
        let req = TestRequest::default()
            .peer_addr("10.0.0.1:1".parse().expect("an address"))
            .insert_header(("x-forwarded-for", line));
        let address = origin::address(&req.to_http_request(), &config);
        assert_eq!(address.to_string(), "198.51.100.4", "{written:?}");
    }
}

#[test]
fn an_address_for_mail_has_one_form_however_it_is_typed() {
    for (typed, kept) in [
        ("J\u{30c}@example.org", "\u{1f0}@example.org"),
        ("\u{1f0}@example.org", "\u{1f0}@example.org"),
        ("T\u{308}@example.org", "\u{1e97}@example.org"),
    ] {
        assert_eq!(account::email(typed).as_deref(), Ok(kept), "{typed:?}");
    }
}

#[test]
fn a_name_has_nothing_that_cannot_be_seen() {
    for unseen in ["\u{3164}", "\u{115f}", "\u{ad}", "a\u{61c}b", "a\u{2028}b"] {
        assert!(account::display_name(unseen).is_err(), "{unseen:?}");
        assert!(account::email(&format!("{unseen}@b.c")).is_err());
    }
}

#[test]
fn a_message_over_a_socket_is_an_object() {
    for list in [r#"["authenticate","token"]"#, r#"["hello"]"#, r#" ["a"]"#] {
        assert!(Incoming::read(list).is_none(), "{list}");
    }
    assert!(Incoming::read("\n {\"type\":\"hello\"}").is_some());
}

#[test]
fn a_weight_is_read_in_either_case_and_only_where_it_is_one() {
    let asked = Lang::from_accept_language;
    assert_eq!(asked("en;Q=0.1, id;q=0.2"), Some(Lang::Indonesian));
    assert_eq!(asked("id;Q=0"), None);
    for nonsense in ["inf", "5", "1e9", "nan", "-1", ""] {
        let header = format!("en;q={nonsense}, id;q=0.3");
        assert_eq!(asked(&header), Some(Lang::Indonesian), "{header}");
    }
}

#[test]
fn settings_that_only_look_right_are_refused() {
    for (name, value) in [
        ("GAPURA_PUBLIC_URL", "https://:hush@gate.example"),
        ("GAPURA_AUDIT_RETENTION", "+5d"),
    ] {
        let set = [(name.to_owned(), value.to_owned())];
        let problems = Config::from_sources("", set).expect_err(value);
        assert!(problems[0].starts_with(name), "{problems:?}");
        assert!(!problems[0].contains("hush"), "{problems:?}");
    }
}

#[test]
fn next_leads_to_no_other_site_once_its_dots_are_gone() {
    for sneaky in [
        "/a/..//evil.example",
        "/a/%2e%2e//evil.example",
        "/a/../login",
    ] {
        assert_eq!(origin::local_path(sneaky), "/dashboard", "{sneaky}");
    }
    for honest in ["/a/../b", "/a//b?c=/../..//d", "/a/..%2f"] {
        assert_eq!(origin::local_path(honest), honest);
    }
}

/// Of `tests/fuzz`: what is kept there was once a finding, or leads a fuzzer on its way.
#[test]
fn every_seed_of_the_fuzz_targets_passes() {
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    for (name, target) in fuzz::TARGETS {
        let program = place.join(format!("targets/{name}.rs"));
        let program = std::fs::read_to_string(program).expect("the target's program");
        assert!(program.contains(&format!("gapura_fuzz::{name}(")), "{name}");
        let seeds = std::fs::read_dir(place.join("seeds").join(name)).expect("its seeds");
        for seed in seeds {
            let seed = seed.expect("a file").path();
            println!("{}", seed.display());
            target(&std::fs::read(&seed).expect("a file"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_fuzz_targets_take_anything(text in awkward(), way in 0..4u8) {
        for (_, target) in fuzz::TARGETS {
            target(text.as_bytes());
            target(&[&[way], text.as_bytes()].concat());
        }
    }
}
