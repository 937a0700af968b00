//! `gapura config`.

use crate::config::{Config, SETTINGS};

/// Prints the settings in force and where each came from.
pub fn print(config: &Config) {
    for (name, value, origin) in &config.shown {
        println!("{name:<32} {value:<40} ({origin})");
    }
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
