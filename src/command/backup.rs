//! `gapura backup`.

use std::path::{Path, PathBuf};

use super::say;
use crate::config::{Config, DatabaseUrl};
use crate::db::upkeep;

/// Copies the SQLite database to `to`.
pub async fn run(config: &Config, to: PathBuf) -> Result<(), String> {
    let DatabaseUrl::Sqlite(from) = config.database.clone() else {
        return Err("PostgreSQL is copied by its own tools: use pg_dump".to_owned());
    };
    if !from.exists() {
        return Err(format!("there is no database at {}", from.display()));
    }
    let shown = to.display().to_string();
    let size = actix_web::web::block(move || {
        upkeep::copy(&from, &to)?;
        let data = std::fs::metadata(&to);
        data.map(|data| data.len())
            .map_err(|error| error.to_string())
    });
    let size = size.await.map_err(|error| error.to_string())??;
    say(format_args!(
        "Copied the database to {shown} ({size} bytes)."
    ))?;
    if config.app_keys.is_empty() {
        let key = Path::new(&config.data_dir).join("app.key");
        say(format_args!(
            "It opens only with the app key, {}: keep a copy of that, somewhere else.",
            key.display()
        ))?;
    }
    Ok(())
}
