//! The OpenAPI 3.1 document, made of the route table.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use actix_web::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Endpoint, Operation};
use crate::app::{self, Group};
use crate::caller::PERSONAL_TOKEN_HEADERS;
use crate::caller::scope::Scope;
use crate::error::{AppError, Code, FieldErrors, Reason};
use crate::web::answer::is_enveloped;

/// The id in the examples of problems.
const REQUEST_ID: &str = "5d3f2c1ab49e8d070000000001f4";

/// The document. It says what the program can do, and is the same whatever the settings.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(make);
    &DOCUMENT
}

fn make() -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let mut tags = Vec::new();
    let api = app::api().into_iter().map(|group| ("/api", group));
    for (prefix, group) in api.chain([("", app::for_programs()), ("", app::bare())]) {
        let Group {
            name,
            about,
            paths: of_group,
        } = group;
        tags.push(json!({"name": name, "description": about}));
        for (path, endpoints) in of_group {
            let path = format!("{prefix}{path}");
            let mut item = Map::new();
            for endpoint in &endpoints {
                let operation = endpoint.operation();
                schemas.extend(definitions(&operation));
                let method = endpoint.method.as_str().to_ascii_lowercase();
                item.insert(method, told(endpoint, operation, &path, name));
            }
            paths.insert(path, Value::Object(item));
        }
    }
    schemas.insert("Problem".to_owned(), problem());
    let mut document = json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Gapura",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The gate in front of a web application",
            "description": "Times are RFC 3339 in UTC, ids are strings. Lists come in pieces: `meta.next` is the `cursor` of the next one. Every error is a problem (RFC 9457) with a stable `code`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": security(),
            "headers": headers(),
        },
    });
    forget_absences(&mut document["components"]["schemas"]);
    add_examples(&mut document);
    document
}

fn definitions(operation: &Operation) -> Map<String, Value> {
    let mut all = operation.takes.definitions().clone();
    all.extend(operation.gives.definitions().clone());
    all
}

fn told(endpoint: &Endpoint, operation: Operation, path: &str, tag: &str) -> Value {
    let mut words: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    words.retain(|part| !["api", "v1", ".well-known"].contains(part) && !part.starts_with('{'));
    let name = words.join("-").replace(".json", "");
    let many = if path.ends_with('}') { "-one" } else { "" };
    let older = if is_enveloped(path) { "older-" } else { "" };
    let method = endpoint.method.as_str().to_ascii_lowercase();
    let responses = responses(&operation, is_enveloped(path));
    let mut told = json!({
        "operationId": format!("{method}-{older}{name}{many}"),
        "tags": [tag],
        "summary": endpoint.summary,
        "security": operation.security,
        "responses": responses,
    });
    if !endpoint.description.is_empty() {
        told["description"] = json!(endpoint.description);
    }
    let ids = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let ids = ids.map(|name| {
        json!({
            "in": "path", "name": name, "required": true,
            "description": if name == "id" { "Its id." } else { "The id of one of them." },
            "schema": {"type": "string", "minLength": 1},
            "example": "0199f0c1-2345-7abc-8def-0123456789ab",
        })
    });
    let parameters: Vec<Value> = ids.chain(operation.parameters).collect();
    if !parameters.is_empty() {
        told["parameters"] = json!(parameters);
    }
    if let Some(body) = operation.body {
        told["requestBody"] = body;
    }
    told
}

fn reference(place: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{place}/{name}")})
}

fn responses(operation: &Operation, enveloped: bool) -> Value {
    let mut responses = Map::new();
    for (status, answer) in &operation.answers {
        let mut answer = answer.clone();
        let names = ["X-Request-Id"]
            .into_iter()
            .chain(operation.headers.iter().copied());
        let named = names.map(|name| (name.to_owned(), reference("headers", name)));
        answer["headers"] = Value::Object(named.collect());
        responses.insert(status.to_string(), answer);
    }
    let mut errors: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in Code::ALL
        .into_iter()
        .filter(|code| operation.errors.contains(code.name()))
    {
        errors.entry(code.status().as_u16()).or_default().push(code);
    }
    for (status, codes) in errors {
        // What is not ready says so in its own words.
        responses
            .entry(status.to_string())
            .or_insert_with(|| error(status, &codes, enveloped));
    }
    Value::Object(responses)
}

fn error(status: u16, codes: &[Code], enveloped: bool) -> Value {
    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
    let mut headers = vec!["X-Request-Id"];
    match status {
        401 => headers.push("WWW-Authenticate"),
        429 | 503 => headers.push("Retry-After"),
        _ => {}
    }
    let headers = headers
        .into_iter()
        .map(|name| (name.to_owned(), reference("headers", name)));
    let examples = codes.iter().map(|code| {
        let value = match enveloped {
            true => example(*code).envelope(),
            false => example(*code).problem(REQUEST_ID),
        };
        (code.name().to_owned(), json!({"value": value}))
    });
    let title = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    let (kind, schema) = match enveloped {
        true => (
            "application/json",
            json!({
                "type": "object",
                "required": ["success", "error"],
                "properties": {
                    "success": {"const": false},
                    "error": {
                        "type": "object",
                        "required": ["code", "message"],
                        "properties": {"code": {"enum": names}, "message": {"type": "string"}},
                    },
                },
            }),
        ),
        false => (
            "application/problem+json",
            json!({
                "allOf": [reference("schemas", "Problem")],
                "properties": {"status": {"const": status}, "code": {"enum": names}},
            }),
        ),
    };
    json!({
        "description": title.unwrap_or("The session is over"),
        "headers": headers.collect::<Map<_, _>>(),
        "content": {kind: {"schema": schema, "examples": examples.collect::<Map<_, _>>()}},
    })
}

/// An error of that code, as it might be.
fn example(code: Code) -> AppError {
    let field = |sentence| FieldErrors::one("username", sentence);
    match code {
        Code::ValidationFailed => AppError::Invalid(field("This field is required.")),
        Code::Conflict => AppError::Conflict(field("Somebody has this username already.")),
        Code::SessionExpired => AppError::SessionOver(Reason::Idle),
        code => code.into(),
    }
}

fn problem() -> Value {
    let names: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    json!({
        "type": "object",
        "description": "An error (RFC 9457).",
        "required": ["type", "title", "status", "detail", "message", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "pattern": "^urn:gapura:problem:[a-z_]+$"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "message": {"type": "string", "description": "As `detail`."},
            "code": {"enum": names, "description": "What a client may branch on."},
            "request_id": {"type": "string", "description": "As `X-Request-Id`; the log knows it too."},
            "errors": {
                "type": "object",
                "description": "What is wrong with which field, in sentences.",
                "additionalProperties": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            },
            "reason": {"enum": reasons, "description": "Why a session is over."},
        },
    })
}

fn security() -> Value {
    let scopes: Vec<String> = Scope::ALL
        .iter()
        .map(|scope| format!("`{}`", scope.name()))
        .collect();
    json!({
        "accessToken": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "The access token of a login.",
        },
        "personalToken": {
            "type": "http", "scheme": "bearer",
            "description": format!("A personal token, with the scope that is named beside it. Scopes: {}.", scopes.join(", ")),
        },
        "personalTokenHeader": {
            "type": "apiKey", "in": "header", "name": "X-Sanctum-Token",
            "description": format!("A personal token alone, or as the fallback of an access token that is no longer good. `{}` is the same.", PERSONAL_TOKEN_HEADERS[1]),
        },
        "session": {
            "type": "apiKey", "in": "cookie", "name": "gapura_session",
            "description": "The session of a browser, from our own origin; `__Host-gapura_session` under https.",
        },
        "formToken": {
            "type": "apiKey", "in": "header", "name": "X-CSRF-Token",
            "description": "Beside the session's cookie, from `<meta name=\"csrf-token\">`.",
        },
    })
}

fn headers() -> Value {
    let header =
        |description: &str, schema: Value| json!({"description": description, "schema": schema});
    let text = || json!({"type": "string"});
    // In every answer that names them.
    let always = |mut header: Value| {
        header["required"] = json!(true);
        header
    };
    json!({
        "X-Request-Id": always(header("Names the request, in the log too.", text())),
        "Retry-After": always(header("Seconds after which to come back.", json!({"type": "integer", "minimum": 1}))),
        "WWW-Authenticate": always(header("`Bearer`, and what is wrong with the token (RFC 6750).", text())),
        "X-Auth-Method": header("Which credential it was.", json!({"enum": ["jwt", "personal-token", "session"]})),
        "X-Token-Refreshed": header("The tokens were exchanged on the way.", json!({"const": "true"})),
        "X-New-Access-Token": header("Takes the place of the access token.", text()),
        "X-New-Refresh-Token": header("Takes the place of the refresh token.", text()),
        "X-Auth-User-Id": header("Who it is.", text()),
        "X-Auth-Username": header("Their username.", text()),
        "X-Auth-Email": header("Their address, if it is known to be theirs.", text()),
        "X-Auth-Role": header("`user` or `admin`.", json!({"enum": ["user", "admin"]})),
    })
}

/// A field that may be left out has `null` for its default in the code, which is not to be sent.
fn forget_absences(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("default").is_some_and(Value::is_null) {
                fields.remove("default");
            }
            fields.values_mut().for_each(forget_absences);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_absences),
        _ => {}
    }
}

/// Bodies and answers of which no example is written down get one made of those of their fields.
fn add_examples(document: &mut Value) {
    let schemas = document["components"]["schemas"].clone();
    let operations = document["paths"]
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut);
    for operation in operations {
        let Some(fields) = operation.as_object_mut() else {
            continue;
        };
        let mut bodies = Vec::new();
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("requestBody", body) => bodies.push(body),
                ("responses", Value::Object(answers)) => bodies.extend(answers.values_mut()),
                _ => {}
            }
        }
        let contents = bodies
            .into_iter()
            .filter_map(|body| body["content"].as_object_mut());
        for media in contents.flat_map(Map::values_mut) {
            if media.get("examples").is_none() {
                media["example"] = example_of(&media["schema"], &schemas);
            }
        }
    }
}

/// A value that fits a schema.
pub fn example_of(schema: &Value, schemas: &Value) -> Value {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return example_of(&schemas[name], schemas);
    }
    let first = |of: &Value| of.as_array().and_then(|values| values.first()).cloned();
    let written = first(&schema["examples"])
        .or_else(|| schema.get("example").cloned())
        .or_else(|| schema.get("const").cloned())
        .or_else(|| first(&schema["enum"]))
        .or_else(|| schema.get("default").cloned());
    if let Some(written) = written {
        return written;
    }
    if let Some(fields) = schema["properties"].as_object() {
        let fields = fields
            .iter()
            .map(|(name, field)| (name.clone(), example_of(field, schemas)));
        return Value::Object(fields.collect());
    }
    let of_kind = |kind: &str| schema["type"] == kind || schema["type"][0] == kind;
    match () {
        () if of_kind("array") => json!([example_of(&schema["items"], schemas)]),
        () if of_kind("boolean") => json!(true),
        () if of_kind("integer") => json!(1),
        () if schema["type"] == "string" => json!("…"),
        () => first(&schema["anyOf"])
            .or_else(|| first(&schema["oneOf"]))
            .map_or(Value::Null, |one| example_of(&one, schemas)),
    }
}
