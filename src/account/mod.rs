//! People: who there is, and whether a password is theirs.

pub mod password;
mod store;

pub use self::store::{
    Changes, all, by_id, by_ids, by_login_name, clear_failures, count, count_failure,
    has_other_admin, insert, is_anybody, set_disabled, set_names, set_own_password,
    set_password_hash, set_profile, set_role, set_temporary_password,
};
use crate::clock::Timestamp;
use crate::i18n::Lang;
use crate::id;
use diesel::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use unicode_security::MixedScript;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Role {
    User,
    Admin,
}

impl Role {
    /// As stored and as in the JWT.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::User, Self::Admin]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// A person.
#[derive(Clone, Debug, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = crate::db::schema::users)]
pub struct User {
    /// UUIDv7.
    pub id: String,
    /// Lower case; see [`username`].
    pub username: String,
    /// Lower case.
    pub email: String,
    pub email_verified: bool,
    /// As the person writes it.
    pub name: String,
    /// See [`Role`].
    pub role: String,
    /// `en` or `id`, or the browser's choice.
    pub locale: Option<String>,
    /// `auto`, `light` or `dark`.
    pub theme: String,
    /// Argon2id, in PHC format.
    pub password_hash: String,
    pub must_change_password: bool,
    pub disabled_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// Failed logins since the last success.
    pub failures_in_a_row: i32,
}

/// After so many failures in a row an account can be entered only from where it was entered before.
pub const FAILURES_IN_A_ROW: i32 = 100;

impl User {
    /// Whether so many passwords were wrong that the account opens only where it was entered before.
    pub const fn is_closed(&self) -> bool {
        self.failures_in_a_row >= FAILURES_IN_A_ROW
    }

    /// A new person, with what everybody starts with.
    pub fn new(
        username: String,
        email: String,
        name: String,
        role: Role,
        password_hash: String,
        now: Timestamp,
    ) -> Self {
        Self {
            id: id::new(now).to_string(),
            username,
            email,
            email_verified: false,
            name,
            role: role.name().to_owned(),
            locale: None,
            theme: "auto".to_owned(),
            password_hash,
            must_change_password: false,
            disabled_at: None,
            created_at: now,
            failures_in_a_row: 0,
        }
    }
}

/// Checks and normalises a username: 3 to 64 of `a-z 0-9 . _ -`, without regard to case, so that it
/// never looks like an address or like somebody else's name in other letters.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn username(text: &str) -> Result<String, &'static str> {
    let text = text.trim().to_ascii_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    if !(3..=64).contains(&text.len()) || !text.chars().all(allowed) {
        return Err(
            "A username has 3 to 64 of the characters a-z, 0-9, dot, underscore and hyphen.",
        );
    }
    Ok(text)
}

/// Checks and normalises an email address: one `@` with something on both sides. Only mail can tell
/// more.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn email(text: &str) -> Result<String, &'static str> {
    let text: String = text.trim().nfc().collect::<String>().to_lowercase();
    // Small letters may compose where their capitals do not.
    let text: String = text.nfc().collect();
    let (local, domain) = text.split_once('@').unwrap_or_default();
    let strange =
        |c: char| c.is_whitespace() || is_invisible(c) || c == '@' || "<>,;\"\\".contains(c);
    if local.is_empty()
        || domain.is_empty()
        || text.len() > 254
        || local.chars().chain(domain.chars()).any(strange)
        || mixes_scripts(&text)
    {
        return Err("This is not an email address.");
    }
    Ok(text)
}

/// Whether a word has letters of two scripts that nobody writes together, as names do that pretend to
/// be others (UTS 39, 5.1).
fn mixes_scripts(text: &str) -> bool {
    let mut words = text.split(|c: char| c.is_whitespace() || c.is_ascii_punctuation());
    words.any(|word| !word.is_single_script())
}

/// Checks and normalises a display name: 1 to 100 characters, none of them invisible.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn display_name(text: &str) -> Result<String, &'static str> {
    let text: String = text.trim().nfc().collect();
    if text.is_empty() || text.chars().count() > 100 {
        return Err("A name has 1 to 100 characters.");
    }
    if text.chars().any(is_invisible) {
        return Err("A name has no control characters and none that change the direction of text.");
    }
    if mixes_scripts(&text) {
        return Err("Each word of a name is written in one script.");
    }
    Ok(text)
}

/// Checks the tag of a language that somebody chose; nothing is the browser's choice.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn locale(tag: Option<&str>) -> Result<Option<String>, &'static str> {
    let spoken = |tag: &&str| Lang::from_tag(tag).is_some_and(|lang| lang.code() == *tag);
    match tag {
        Some(tag) => match Some(tag).filter(spoken) {
            Some(tag) => Ok(Some(tag.to_owned())),
            None => Err("This is `en` or `id`, or null for the browser's choice."),
        },
        None => Ok(None),
    }
}

/// Checks the name of a theme.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn theme(name: &str) -> Result<String, &'static str> {
    match name {
        "auto" | "light" | "dark" => Ok(name.to_owned()),
        _ => Err("This is `auto`, `light` or `dark`."),
    }
}

/// Control characters, and those that reorder or hide text or look like nothing (Unicode Technical
/// Report 36). Variation selectors are none of them: emoji and Japanese names are written with them.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
                | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}'
                | '\u{FFF9}'..='\u{FFFB}'
        )
}
