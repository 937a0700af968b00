//! `gapura migrate`.

use super::say;
use crate::config::{Config, DatabaseUrl};
use crate::db::{Db, migrate};
use crate::vault;

/// Applies migrations and says which.
pub fn run(config: &Config) -> Result<(), String> {
    let applied = apply(config)?;
    if applied.is_empty() {
        say(format_args!("The database is up to date."))?;
    }
    for name in applied {
        say(format_args!("Applied {name}."))?;
    }
    Ok(())
}

/// Applies migrations and returns their names.
pub fn apply(config: &Config) -> Result<Vec<String>, String> {
    if matches!(config.database, DatabaseUrl::Sqlite(_)) {
        vault::create_data_dir(&config.data_dir)?;
    }
    migrate(&config.database).map_err(|error| format!("the database cannot be migrated: {error}"))
}

/// Opens a database that is up to date, for a command.
pub fn open(config: &Config) -> Result<Db, String> {
    apply(config)?;
    Db::open(&config.database, 2).map_err(|error| error.to_string())
}
