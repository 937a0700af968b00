//! What the API promises, told by the code that keeps it. A route is an [`Endpoint`]: its handler,
//! and a sentence. What the handler takes ([`Input`]) and gives ([`Output`]) says the rest, so that
//! the document cannot name a field, a scope or an answer that the types do not. The document itself
//! is put together in [`document`]; `http.rs` serves it, and the page that shows it.

pub mod document;
pub mod endpoint;
pub mod http;
pub mod page;
pub mod schema;

pub use self::endpoint::{Endpoint, Input, Operation, Output, delete, get, patch, post, put};
