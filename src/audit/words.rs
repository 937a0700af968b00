//! Events as a person reads them.

use super::{Event, Kind};
use crate::i18n::Lang;
use crate::login::{Cause, Client};
use crate::web::origin;

/// What happened, in a sentence without a subject: "Logged in".
pub fn sentence(lang: Lang, event: &Event) -> String {
    let text = what(lang, event);
    if event.is_by_another() {
        return lang.text_with("event.by_administrator", &[("what", &text)]);
    }
    text
}

/// What happened, whoever did it.
pub fn what(lang: Lang, event: &Event) -> String {
    let is = |kind: Kind| event.kind == kind.name();
    let cause = event.cause.as_deref().unwrap_or_default();
    if is(Kind::LoginEnded) && cause == Cause::LoggedOut.name() {
        return lang.text("event.logout").into_owned();
    }
    let plain = format!("event.{}", event.kind);
    let named = format!("{plain}_named");
    let detail = event.detail.as_deref().filter(|detail| !detail.is_empty());
    let text = match detail {
        Some(detail) if lang.has(&named) => {
            lang.text_with(&named, &[("name", &device(lang, detail))])
        }
        _ => lang.text(&plain).into_owned(),
    };
    let why = format!("cause.{cause}");
    // That it was ended on purpose is what the sentence says already.
    let tells_why =
        cause != Cause::Revoked.name() && (is(Kind::LoginEnded) || is(Kind::LoginFailed));
    match tells_why && lang.has(&why) {
        true => format!("{text} ({})", lang.text(&why)),
        false => text,
    }
}

/// A device's name; what we named ourselves ("Chrome on Linux") in the language of the page.
pub fn device(lang: Lang, name: &str) -> String {
    if name == Client::COMMAND_LINE {
        return lang.text("device.command_line").into_owned();
    }
    match origin::browser_and_system(name) {
        Some((browser, system)) => lang.text_with(
            "device.browser_on",
            &[("browser", browser), ("system", system)],
        ),
        None => name.to_owned(),
    }
}

/// Where it was done, as far as it may be told.
pub fn place(lang: Lang, event: &Event) -> String {
    match event.device.as_deref() {
        Some(name) => device(lang, name),
        // Of itself, as with its keys.
        None if event.user_id.is_none() => "Gapura".to_owned(),
        None if event.is_by_another() => lang.text("device.administrator").into_owned(),
        None => lang.text("device.unknown").into_owned(),
    }
}

/// Something that the person had better look at.
pub fn is_alarming(event: &Event) -> bool {
    Kind::named(&event.kind).is_some_and(|kind| kind.group() == super::Group::Failures)
        || event.cause.as_deref() == Some(Cause::Theft.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const BOTH: [Lang; 2] = [Lang::English, Lang::Indonesian];

    fn event(kind: Kind) -> Event {
        Event::new(kind, "ada", Timestamp::from_millis(0))
    }

    #[test]
    fn every_kind_and_every_group_has_words_in_both_languages() {
        for lang in BOTH {
            for kind in Kind::ALL {
                assert!(lang.has(&format!("event.{}", kind.name())), "{kind:?}");
            }
            for group in super::super::Group::ALL {
                assert!(lang.has(&format!("activity.show.{}", group.name())));
            }
        }
    }

    #[test]
    fn an_end_says_of_which_device_why_and_whether_somebody_else_did_it() {
        let ended = event(Kind::LoginEnded).because(Cause::Revoked.name());
        let on = |device: &str| sentence(Lang::English, &ended.clone().about(device));
        assert_eq!(sentence(Lang::English, &ended), "A login was ended");
        assert_eq!(
            on("Chrome on Linux"),
            "The login on Chrome on Linux was ended"
        );
        let client = Client::command_line();
        let by_root = ended.by("root", &client).about("Chrome on Linux");
        assert_eq!(
            sentence(Lang::Indonesian, &by_root),
            "Sesi di Chrome di Linux diakhiri, oleh administrator"
        );
        let changed = event(Kind::LoginEnded).because(Cause::PasswordChanged.name());
        assert_eq!(
            sentence(Lang::English, &changed),
            "A login was ended (password changed)"
        );
        let out = event(Kind::LoginEnded).because(Cause::LoggedOut.name());
        assert_eq!(sentence(Lang::English, &out), "Logged out");
    }

    #[test]
    fn an_apps_own_name_is_left_as_it_is() {
        assert_eq!(
            device(Lang::Indonesian, "Backup on Sunday"),
            "Backup on Sunday"
        );
        assert_eq!(
            device(Lang::Indonesian, "Safari on macOS"),
            "Safari di macOS"
        );
    }
}
