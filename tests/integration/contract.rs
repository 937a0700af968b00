//! Holds every answer that any test gets to what the document says of it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use gapura::openapi::document::document;
use jsonschema::Validator;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// What the document says of a request; `None`: nothing, and then the answer is no business of its.
pub fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let paths = document()["paths"].as_object().expect("paths");
    let fits = |template: &str| {
        let (asked, parts) = (path.split('/'), template.split('/'));
        asked.clone().count() == parts.clone().count()
            && asked
                .zip(parts)
                .all(|(asked, part)| part.starts_with('{') || part == asked)
    };
    let item = paths.iter().find(|(template, _)| fits(template))?.1;
    item.get(method.as_str().to_ascii_lowercase())
}

/// A schema of the document, ready to judge.
pub fn validator(schema: &Value) -> Validator {
    let mut schema = schema.clone();
    schema["components"] = document()["components"].clone();
    jsonschema::validator_for(&schema).expect("a schema")
}

/// Fails where the answer is not one that the document names.
#[track_caller]
pub fn hold(method: &Method, path: &str, status: u16, headers: &HeaderMap, body: &str) {
    static KNOWN: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let Some(operation) = operation(method, path) else {
        return;
    };
    let kind = headers
        .get("content-type")
        .map_or("", |kind| kind.to_str().expect("a text"));
    // The page has the same path, and the document does not tell of pages.
    if path == "/login" && !kind.ends_with("json") {
        return;
    }
    let about = format!("{method} {path} {status}: {body}");
    let answer = &operation["responses"][status.to_string()];
    assert!(answer.is_object(), "the document does not know of {about}");
    for (name, header) in answer["headers"].as_object().expect("headers") {
        let place = header["$ref"].as_str().expect("a reference");
        let header = document().pointer(place.trim_start_matches('#'));
        let required = header.expect("a header")["required"] == true;
        assert!(!required || headers.contains_key(name), "{name} of {about}");
    }
    let schema = &answer["content"][kind]["schema"];
    assert!(schema.is_object(), "{kind} of {about}");
    let name = format!("{} {status} {kind}", operation["operationId"]);
    let known = KNOWN.lock().unwrap().get(&name).cloned();
    let validator = known.unwrap_or_else(|| {
        let new = Arc::new(validator(schema));
        KNOWN.lock().unwrap().insert(name, Arc::clone(&new));
        new
    });
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
    if let Err(error) = validator.validate(&body) {
        panic!("{error} at {} of {about}", error.instance_path());
    }
}
