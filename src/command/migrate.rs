//! `gapura migrate`.

use diesel::ConnectionError;

use super::say;
use crate::config::{Config, DatabaseUrl};
use crate::db::{Db, DbError, Migrated, migrate};
use crate::vault;

/// Applies migrations and says which.
pub fn run(config: &Config) -> Result<(), String> {
    let Migrated { applied, unknown } = apply(config)?;
    if !unknown.is_empty() {
        say(format_args!("{}.", newer(&unknown)))?;
    } else if applied.is_empty() {
        say(format_args!("The database is up to date."))?;
    }
    for name in applied {
        say(format_args!("Applied {name}."))?;
    }
    Ok(())
}

/// That the database knows more than this program, as while nodes are upgraded one after the other.
pub fn newer(unknown: &[String]) -> String {
    let by = unknown.join(", ");
    format!("The database is newer than this program, by {by}")
}

/// Applies migrations.
pub fn apply(config: &Config) -> Result<Migrated, String> {
    if matches!(config.database, DatabaseUrl::Sqlite(_)) {
        vault::create_data_dir(&config.data_dir)?;
    }
    migrate(&config.database).map_err(|error| {
        let place = config.database.place();
        let error = match error.downcast::<ConnectionError>() {
            Ok(error) => return format!("the database at {place} cannot be reached: {error}"),
            Err(error) => error,
        };
        match error
            .downcast::<diesel::result::Error>()
            .map(|error| DbError::from(*error))
        {
            Ok(DbError::Unavailable(error)) => {
                format!("the database at {place} gives no answer: {error}")
            }
            Ok(DbError::Query(error)) => {
                format!("the database at {place} cannot be migrated: {error}")
            }
            Err(error) => format!("the database at {place} cannot be migrated: {error}"),
        }
    })
}

/// Opens a database that is up to date, for a command. Where there is none it is somewhere else: an
/// empty one would answer that there is nobody and nothing to end.
pub fn open(config: &Config) -> Result<Db, String> {
    if let DatabaseUrl::Sqlite(file) = &config.database
        && !file.exists()
    {
        return Err(format!(
            "there is no database at {}: say where it is (GAPURA_DATA_DIR, --config), or make one with `gapura migrate`",
            file.display()
        ));
    }
    open_or_make(config)
}

/// As [`open`], and makes one where there is none.
pub fn open_or_make(config: &Config) -> Result<Db, String> {
    apply(config)?;
    Db::open_patient(&config.database, 2)
        .map_err(|error| format!("{}: {error}", config.database.place()))
}
