//! The command line: one command a file.

mod cleanup;
mod migrate;
mod serve;
pub mod server;
pub mod settings;
mod user;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Config;

/// The gate in front of a web application.
#[derive(Parser)]
#[command(name = "gapura", version, about)]
struct Arguments {
    /// A TOML file with settings; without it, gapura.toml in the working directory if there is one
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Migrates the database if needed, and serves (the default)
    Serve,
    /// Applies migrations and says which
    Migrate,
    /// Prints the settings in force and where each came from, secrets hidden
    Config {
        /// Prints every setting there is as a Markdown table instead
        #[arg(long)]
        reference: bool,
    },
    /// People: add, list, change a password, disable, enable
    #[command(subcommand)]
    User(user::Command),
    /// Deletes what has expired; the server also does this by itself
    Cleanup,
}

/// Parses the command line and carries out one command.
///
/// # Errors
/// One clear sentence.
pub async fn run() -> Result<(), String> {
    let arguments = Arguments::parse();
    let config = Config::load(arguments.config.as_deref());
    let config = config.map_err(|problems| {
        format!(
            "the settings cannot be right:\n  - {}",
            problems.join("\n  - ")
        )
    })?;
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(config).await,
        Command::Migrate => migrate::run(&config),
        Command::Config { reference } => {
            if reference {
                print!("{}", settings::reference());
            } else {
                settings::print(&config);
            }
            Ok(())
        }
        Command::User(command) => user::run(&config, command).await,
        Command::Cleanup => cleanup::run(&config).await,
    }
}
