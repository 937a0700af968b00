//! `gapura config`.

use super::say;
use crate::config::Config;

/// Prints the settings in force and where each came from.
pub fn print(config: &Config) -> Result<(), String> {
    let lines = config.shown.iter();
    let mut lines = lines.map(|(name, value, origin)| format!("{name:<32} {value:<40} ({origin})"));
    lines.try_for_each(|line| say(format_args!("{line}")))
}
