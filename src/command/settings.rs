//! `gapura config`.

use super::say;
use crate::config::{Config, SETTINGS};

/// Prints the settings in force and where each came from.
pub fn print(config: &Config) -> Result<(), String> {
    let lines = config.shown.iter();
    let mut lines = lines.map(|(name, value, origin)| format!("{name:<32} {value:<40} ({origin})"));
    lines.try_for_each(|line| say(format_args!("{line}")))
}

/// Every setting as a Markdown table: the README's.
pub fn reference() -> String {
    let rows = SETTINGS.iter().map(|setting| {
        format!(
            "| `{}` | {} | {} |\n",
            setting.name, setting.default, setting.meaning
        )
    });
    format!(
        "| variable | default | meaning |\n| --- | --- | --- |\n{}",
        rows.collect::<String>()
    )
}
