//! The command line: one command a file.

mod backup;
pub mod cleanup;
mod connection;
mod doctor;
mod keys;
mod mark;
mod migrate;
mod serve;
pub mod server;
mod session;
pub mod settings;
mod user;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::outage::in_one_line;

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
    /// People: add, list, change a password or a role, disable, enable
    #[command(subcommand)]
    User(user::Command),
    /// Logins, by browser and by API: list, revoke
    #[command(subcommand)]
    Session(session::Command),
    /// Keys that sign JWTs: list, rotate, revoke
    #[command(subcommand)]
    Keys(keys::Command),
    /// Looks at everything that a server needs, and says what to do about each fault
    Doctor,
    /// Copies the SQLite database to a new file, also while servers run
    Backup {
        /// It must not exist yet
        to: PathBuf,
    },
    /// Deletes what has expired; the server also does this by itself
    Cleanup,
}

/// What [`say`] says when whoever read has gone, as `head` does when it has seen enough.
const NOBODY_READS: &str = "nobody reads the answer";

/// Prints a line for whoever runs the command. Unlike `println!` it survives that nobody reads.
fn say(line: fmt::Arguments<'_>) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => NOBODY_READS.to_owned(),
        _ => format!("the answer cannot be printed: {error}"),
    })
}

/// Parses the command line and carries out one command.
///
/// # Errors
/// One clear sentence.
pub async fn run() -> Result<(), String> {
    // What SQLite makes, too, is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let arguments = Arguments::try_parse().map_err(|error| {
        let told = error.to_string();
        let Some(told) = told.strip_prefix("error: ") else {
            // It was asked for help.
            error.exit()
        };
        let told = told.split("\n\n").next().unwrap_or_default();
        format!("{}; `gapura help` shows what there is", in_one_line(told))
    })?;
    let config = Config::load(arguments.config.as_deref());
    let config = config.map_err(|problems| {
        format!(
            "the settings cannot be right:\n  - {}",
            problems.join("\n  - ")
        )
    })?;
    let done = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(config).await,
        Command::Migrate => migrate::run(&config),
        Command::Config { reference: true } => {
            say(format_args!("{}", settings::reference().trim_end()))
        }
        Command::Config { reference: false } => settings::print(&config),
        Command::User(command) => user::run(&config, command).await,
        Command::Session(command) => session::run(&config, command).await,
        Command::Keys(command) => keys::run(&config, command).await,
        Command::Doctor => doctor::run(&config).await,
        Command::Backup { to } => backup::run(&config, to).await,
        Command::Cleanup => cleanup::run(&config).await,
    };
    match done {
        // What was to be done is done before it is told, and the rest of a list nobody wants.
        Err(problem) if problem == NOBODY_READS => Ok(()),
        done => done,
    }
    // Libraries tell some of their errors in several lines.
    .map_err(in_one_line)
}
