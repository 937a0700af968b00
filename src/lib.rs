//! Gapura, the gate in front of a web application. This list is the map of the program.

rust_i18n::i18n!("src/locales", fallback = "en");

pub mod account;
pub mod activity;
pub mod admin;
pub mod app;
pub mod audit;
pub mod caller;
pub mod clock;
pub mod command;
pub mod config;
pub mod dashboard;
pub mod db;
pub mod devices;
pub mod dialects;
pub mod error;
pub mod figures;
pub mod forward_auth;
pub mod health;
pub mod i18n;
pub mod id;
pub mod keys;
pub mod keystore;
pub mod login;
pub mod metrics;
pub mod openapi;
pub mod outage;
pub mod profile;
pub mod realtime;
pub mod registration;
pub mod request;
pub mod session;
pub mod token;
pub mod vault;
pub mod web;
