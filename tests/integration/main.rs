//! What Gapura promises, as sentences, told by actors against a real server. Run by `tests/run`,
//! which starts the Redis, PostgreSQL and browser driver that `GAPURA_TEST_…` name.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod account;
mod actors;
mod admin;
mod browser;
mod chromium;
mod faults;
mod harness;
mod input;
mod keystore;
mod pictures;
mod process;
mod program;
mod readme;
mod rotation_model;
mod session;
mod smoke;
mod token_api;
