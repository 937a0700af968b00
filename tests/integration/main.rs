//! What Gapura promises, as sentences, told by actors against a real server. Run by `tests/run`,
//! which starts the Redis, PostgreSQL and browser driver that `GAPURA_TEST_…` name.

mod faults;
mod harness;
mod input;
mod process;
mod program;
mod smoke;
