//! The document as `/docs` shows it: nothing is added, and nothing is known here of any route.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::document::document;

/// Operations that have to do with each other.
pub struct Chapter {
    pub anchor: String,
    pub name: String,
    pub about: String,
    pub operations: Vec<Entry>,
}

/// One operation.
pub struct Entry {
    pub anchor: String,
    pub method: String,
    pub path: String,
    pub summary: String,
    /// HTML, as is every `description` here.
    pub description: String,
    /// Each a way to be let in.
    pub access: Vec<String>,
    pub parameters: Vec<Field>,
    pub body: Option<Body>,
    pub answers: Vec<Body>,
    pub errors: Vec<Failure>,
    pub curl: String,
}

/// What goes over the wire, one way or the other.
pub struct Body {
    pub status: String,
    pub kinds: String,
    pub fields: Vec<Field>,
    pub headers: Vec<Field>,
    pub example: String,
}

/// A field, a parameter or a header.
pub struct Field {
    pub name: String,
    pub kind: String,
    pub required: bool,
    pub description: String,
}

/// An error.
pub struct Failure {
    pub status: String,
    pub code: String,
    pub detail: String,
}

/// All of it.
pub fn chapters() -> &'static [Chapter] {
    static CHAPTERS: LazyLock<Vec<Chapter>> = LazyLock::new(|| {
        let tags = document()["tags"].as_array().into_iter().flatten();
        tags.map(chapter).collect()
    });
    &CHAPTERS
}

fn chapter(tag: &Value) -> Chapter {
    let name = text(&tag["name"]);
    let mut operations = Vec::new();
    for (path, item) in fields_of(&document()["paths"]) {
        for (method, operation) in fields_of(item) {
            if operation["tags"][0] == tag["name"] {
                operations.push(entry(path, method, operation));
            }
        }
    }
    Chapter {
        anchor: name.to_lowercase().replace(' ', "-"),
        about: rich(&tag["description"]),
        name,
        operations,
    }
}

fn entry(path: &str, method: &str, operation: &Value) -> Entry {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let responses = || fields_of(&operation["responses"]);
    let succeeds = |response: &Value| response["content"]["application/problem+json"].is_null();
    let body = &operation["requestBody"];
    Entry {
        anchor: text(&operation["operationId"]),
        method: method.to_uppercase(),
        path: path.to_owned(),
        summary: text(&operation["summary"]),
        description: rich(&operation["description"]),
        access: access(&operation["security"]),
        parameters: parameters
            .map(|parameter| Field {
                name: text(&parameter["name"]),
                kind: format!("{}, {}", text(&parameter["in"]), kind(&parameter["schema"])),
                required: parameter["required"] == true,
                description: rich(&parameter["description"]),
            })
            .collect(),
        body: (!body.is_null()).then(|| told("", body)),
        answers: responses()
            .filter(|(_, response)| succeeds(response))
            .map(|(status, response)| told(status, response))
            .collect(),
        errors: responses()
            .flat_map(|(_, response)| {
                fields_of(&response["content"]["application/problem+json"]["examples"])
            })
            .map(|(code, example)| Failure {
                status: example["value"]["status"].to_string(),
                code: code.clone(),
                detail: text(&example["value"]["detail"]),
            })
            .collect(),
        curl: curl(path, method, operation),
    }
}

fn told(status: &str, body: &Value) -> Body {
    let kinds: Vec<String> = fields_of(&body["content"])
        .map(|(kind, _)| kind.clone())
        .collect();
    let media = fields_of(&body["content"]).next().map(|(_, media)| media);
    let media = media.unwrap_or(&Value::Null);
    let envelope = resolved(&media["schema"]);
    let data = match &envelope["properties"]["data"] {
        Value::Null => envelope,
        data if data["items"].is_object() => resolved(&data["items"]),
        data => resolved(data),
    };
    let headers = fields_of(&body["headers"]).map(|(name, header)| {
        let header = resolved(header);
        field(name, header, &header["schema"], false)
    });
    let required = &data["required"];
    Body {
        status: status.to_owned(),
        kinds: kinds.join(", "),
        fields: fields_of(&data["properties"])
            .map(|(name, schema)| {
                let names = required.as_array().into_iter().flatten();
                let is_required = names.into_iter().any(|required| required == name);
                let schema = resolved(schema);
                field(name, schema, schema, is_required)
            })
            .collect(),
        headers: headers.collect(),
        example: serde_json::to_string_pretty(&media["example"]).unwrap_or_default(),
    }
}

fn field(name: &str, described: &Value, schema: &Value, required: bool) -> Field {
    Field {
        name: name.to_owned(),
        kind: kind(schema),
        required,
        description: rich(&described["description"]),
    }
}

/// What may stand in a field, in words.
fn kind(schema: &Value) -> String {
    let schema = resolved(schema);
    if let Some(value) = schema.get("const") {
        return literal(value);
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(literal).collect();
        return values.join(" | ");
    }
    if let Some(ways) = schema["oneOf"].as_array().or(schema["anyOf"].as_array())
        && schema["type"].is_null()
    {
        let ways: Vec<String> = ways.iter().map(kind).collect();
        return ways.join(" | ");
    }
    if schema["type"] == "array" {
        return format!("list of {}", kind(&schema["items"]));
    }
    let name = match &schema["type"] {
        Value::Array(names) => {
            let names: Vec<String> = names.iter().map(text).collect();
            names.join(" or ")
        }
        name => text(name),
    };
    let mut words = vec![name];
    if let Some(format) = schema["format"]
        .as_str()
        .filter(|format| !format.starts_with("int"))
    {
        words.push(format.to_owned());
    }
    for (key, before, after) in [
        ("minLength", "at least ", " characters"),
        ("maxLength", "at most ", " characters"),
        ("minimum", "from ", ""),
        ("maximum", "up to ", ""),
    ] {
        let limit = &schema[key];
        if limit
            .as_u64()
            .is_some_and(|limit| limit > 1 || key == "minimum")
        {
            words.push(format!("{before}{limit}{after}"));
        }
    }
    words.retain(|word| !word.is_empty());
    words.join(", ")
}

fn literal(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Each way in as its credentials, with the scope that a personal token needs.
fn access(security: &Value) -> Vec<String> {
    let ways = security.as_array().into_iter().flatten();
    ways.map(|way| {
        let parts: Vec<String> = fields_of(way)
            .map(|(name, scopes)| {
                let words = match name.as_str() {
                    "accessToken" => "access token",
                    "personalToken" => "personal token",
                    "personalTokenHeader" => "personal token in X-Sanctum-Token",
                    "session" => "session cookie",
                    _ => "X-CSRF-Token",
                };
                match scopes[0].as_str() {
                    Some(scope) => format!("{words} with <code>{scope}</code>"),
                    None => words.to_owned(),
                }
            })
            .collect();
        match parts.is_empty() {
            true => "nothing at all".to_owned(),
            false => parts.join(" and "),
        }
    })
    .collect()
}

fn curl(path: &str, method: &str, operation: &Value) -> String {
    let verb = match method {
        "get" => String::new(),
        "post" if !operation["requestBody"].is_null() => String::new(),
        method => format!(" -X {}", method.to_uppercase()),
    };
    let path = path.replace('{', "$").replace('}', "").to_owned();
    let mut lines = vec![format!("curl -s{verb} \"$GAPURA{path}\"")];
    let ways = operation["security"].as_array().into_iter().flatten();
    if ways.into_iter().any(|way| way.get("accessToken").is_some()) {
        lines.push("-H \"Authorization: Bearer $ACCESS_TOKEN\"".to_owned());
    }
    let example = &operation["requestBody"]["content"]["application/json"]["example"];
    if !example.is_null() {
        lines.push("-H 'Content-Type: application/json'".to_owned());
        lines.push(format!("-d '{example}'"));
    }
    lines.join(" \\\n     ")
}

fn resolved(schema: &Value) -> &Value {
    match schema["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix('#'))
    {
        Some(path) => document().pointer(path).unwrap_or(schema),
        None => schema,
    }
}

fn fields_of(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// As HTML: what stands between backticks is code.
fn rich(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let parts = text.split('`').enumerate();
    parts
        .map(|(number, part)| match number % 2 {
            0 => part.to_owned(),
            _ => format!("<code>{part}</code>"),
        })
        .collect()
}
