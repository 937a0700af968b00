//! What Gapura promises, as sentences, told by actors against a real server. Run by `tests/run`,
//! which starts the Redis, PostgreSQL and browser driver that `GAPURA_TEST_…` name.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod account;
mod activity;
mod actors;
mod admin;
mod auto_refresh;
mod browser;
mod chromium;
mod client;
mod contract;
mod cors;
mod dialects;
mod ended;
mod examples;
mod faults;
#[path = "../fuzz/src/lib.rs"]
mod fuzz;
mod gate;
mod harness;
mod input;
mod jwt;
mod keys;
mod keystore;
mod limits;
mod metrics;
mod misconfigured;
mod misleading;
mod openapi;
mod operations;
mod parsers;
mod personal_tokens;
mod pictures;
mod process;
mod profile;
mod program;
mod races;
mod readme;
mod realtime;
mod registration;
mod rotation_model;
mod scale;
mod session;
mod smoke;
mod step_up;
mod token_api;
mod upgrade;
