//! Schemas of what the rules ask of a text, for `#[schemars(schema_with = …)]`.

use crate::account::password::MAX_LENGTH;
use crate::web::input::LONGEST_PASSWORD;
use schemars::{Schema, SchemaGenerator, json_schema};

/// What [`crate::account::is_invisible`] refuses, as the inside of a character class.
const INVISIBLE: &str = concat!(
    r"\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e",
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb",
);

/// Of `check_text`: up to `MOST` characters that can be seen.
pub fn text<const MOST: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": MOST, "pattern": format!("^[^{INVISIBLE}]*$")})
}

/// Of `check_required`: as [`text`], and not blank.
pub fn required<const MOST: usize>(_: &mut SchemaGenerator) -> Schema {
    let pattern = format!(r"^[^{INVISIBLE}]*[^\s{INVISIBLE}][^{INVISIBLE}]*$");
    json_schema!({"type": "string", "minLength": 1, "maxLength": MOST, "pattern": pattern})
}

/// Of a password that is checked against one that is stored.
pub fn password(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": "password", "minLength": 1,
        "maxLength": LONGEST_PASSWORD,
        "examples": ["correct horse battery staple"],
    })
}

/// Of a password to be.
pub fn new_password(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = password(generator);
    schema.insert("minLength".to_owned(), 8.into());
    schema.insert("maxLength".to_owned(), MAX_LENGTH.into());
    schema
}

/// Of `account::username`.
pub fn username(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "pattern": "^[A-Za-z0-9._-]{3,64}$", "examples": ["grace"],
    })
}

/// Of `account::email`. Not `"format": "email"`, which asks for more than that rule does.
pub fn email(_: &mut SchemaGenerator) -> Schema {
    let part = format!(r#"[^\s@<>,;"\\{INVISIBLE}]+"#);
    json_schema!({
        "type": "string", "maxLength": 254, "pattern": format!("^{part}@{part}$"),
        "examples": ["grace@example.org"],
    })
}

/// Of one word out of several.
pub fn one_of(words: &[&str]) -> Schema {
    json_schema!({"type": "string", "enum": words})
}
