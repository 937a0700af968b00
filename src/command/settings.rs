//! `gapura config`.

use crate::config::Config;

/// Prints the settings in force and where each came from.
pub fn print(config: &Config) {
    for (name, value, origin) in &config.shown {
        println!("{name:<32} {value:<40} ({origin})");
    }
}
