//! Routes that know what they take and give.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::dev::Payload;
use actix_web::http::{Method, StatusCode};
use actix_web::{Error, FromRequest, Handler, HttpRequest, HttpResponse, Responder, Route, web};
use schemars::generate::{Contract, SchemaSettings};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{AppError, Code};

/// What the document says of one method of one path.
pub struct Operation {
    /// Of the body and the parameters.
    pub takes: SchemaGenerator,
    /// Of the answers.
    pub gives: SchemaGenerator,
    /// In the query, a header, a cookie or the path, as OpenAPI writes them.
    pub parameters: Vec<Value>,
    /// The body.
    pub body: Option<Value>,
    /// Answers that are no errors, by status.
    pub answers: BTreeMap<u16, Value>,
    /// Headers of those.
    pub headers: Vec<&'static str>,
    /// The errors there may be.
    pub errors: BTreeSet<&'static str>,
    /// Which credentials it takes, one of them; empty: none is needed.
    pub security: Vec<Value>,
    /// Asks whoever calls with a cookie for the form token.
    pub changes: bool,
}

impl Operation {
    /// One that takes nothing and gives nothing yet.
    pub fn new(method: &Method) -> Self {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into());
        let mut operation = Self {
            takes: settings.clone().into_generator(),
            gives: settings
                .with(|settings| settings.contract = Contract::Serialize)
                .into_generator(),
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            headers: Vec::new(),
            errors: BTreeSet::new(),
            security: Vec::new(),
            changes: *method != Method::GET,
        };
        operation.fails(&[Code::HeadTooLarge, Code::Internal, Code::Unavailable]);
        operation
    }

    /// Errors that it may answer with.
    pub fn fails(&mut self, codes: &[Code]) {
        self.errors.extend(codes.iter().map(|code| code.name()));
    }

    /// A body of one of these media types.
    pub fn takes_body<T: JsonSchema>(&mut self, kinds: &[&str], required: bool) {
        let schema = self.takes.subschema_for::<T>();
        let content: serde_json::Map<_, _> = kinds
            .iter()
            .map(|kind| ((*kind).to_owned(), json!({"schema": schema})))
            .collect();
        self.body = Some(json!({"required": required, "content": content}));
        self.fails(&[
            Code::MalformedRequest,
            Code::RequestTimeout,
            Code::PayloadTooLarge,
            Code::UnsupportedMediaType,
            Code::ValidationFailed,
        ]);
    }

    /// A parameter that may be left out.
    pub fn parameter(&mut self, place: &str, name: &str, description: &str, schema: Value) {
        self.parameters.push(json!({
            "in": place, "name": name, "description": description, "schema": schema,
        }));
    }

    /// The fields of a query.
    pub fn takes_query<T: JsonSchema>(&mut self) {
        let mut schema = T::json_schema(&mut self.takes).to_value();
        let required = schema["required"].clone();
        let Some(fields) = schema["properties"].as_object_mut() else {
            return;
        };
        for (name, field) in fields {
            let fields = field.as_object_mut();
            let description = fields.and_then(|field| field.remove("description"));
            let mut parameter = json!({
                "in": "query", "name": name, "schema": field,
                "description": description.unwrap_or_default(),
                "required": required.as_array().is_some_and(|names| names.contains(&json!(name))),
            });
            if field["type"] == "array" {
                parameter["style"] = json!("form");
                parameter["explode"] = json!(false);
            }
            self.parameters.push(parameter);
        }
        self.fails(&[Code::ValidationFailed]);
    }

    /// An answer that is no error.
    pub fn answers(&mut self, status: u16, kind: &str, schema: Value) {
        let description = StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason());
        let answer = json!({
            "description": description.unwrap_or("An answer"),
            "content": {kind: {"schema": schema}},
        });
        self.answers.insert(status, answer);
    }

    /// The answer of `/api/v1`: `{"status", "message", "data"}`.
    pub fn answers_with<T: JsonSchema>(&mut self, status: u16) {
        let data = self.gives.subschema_for::<T>();
        let schema = json!({
            "type": "object",
            "required": ["status", "message", "data"],
            "properties": {
                "status": {"const": status},
                "message": {"type": "string"},
                "data": data,
            },
        });
        self.answers(status, "application/json", schema);
    }
}

/// What a handler takes of a request.
pub trait Input: FromRequest {
    /// Says so.
    fn describe(operation: &mut Operation);
}

impl Input for HttpRequest {
    fn describe(_: &mut Operation) {}
}

impl<T: 'static> Input for web::Data<T> {
    fn describe(_: &mut Operation) {}
}

/// What stands in braces in a path: an id. The path itself tells its name.
impl<T: DeserializeOwned> Input for web::Path<T> {
    fn describe(operation: &mut Operation) {
        operation.fails(&[Code::NotFound]);
    }
}

/// All that a handler takes.
pub trait Inputs: Sized {
    /// Reads one after the other, in the order of the handler's arguments: who is calling stands
    /// before the body, and is settled before a byte of it is read. (The framework would read all at
    /// once, and tell the first mistake that is ready.)
    fn read(req: &HttpRequest, payload: &mut Payload) -> impl Future<Output = Result<Self, Error>>;
    /// Says what they are.
    fn describe(operation: &mut Operation);
}

macro_rules! inputs {
    ($($($name:ident)+;)*) => {$(
        impl<$($name: Input),+> Inputs for ($($name,)+) {
            async fn read(req: &HttpRequest, payload: &mut Payload) -> Result<Self, Error> {
                Ok(($($name::from_request(req, payload).await.map_err(Into::into)?,)+))
            }

            fn describe(operation: &mut Operation) {
                $($name::describe(operation);)+
            }
        }
    )*};
}

inputs! {
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
}

impl Inputs for () {
    async fn read(_: &HttpRequest, _: &mut Payload) -> Result<Self, Error> {
        Ok(())
    }

    fn describe(_: &mut Operation) {}
}

/// What a handler gives.
pub trait Output: Responder {
    /// Says so.
    fn describe(operation: &mut Operation);
}

impl<T: Output> Output for Result<T, AppError> {
    fn describe(operation: &mut Operation) {
        T::describe(operation);
    }
}

/// A method of a path: what serves it, and what is to be known of it.
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// What serves it.
    pub route: Route,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// What else there is to know.
    pub description: &'static str,
    /// Errors that the handler's types do not tell.
    errors: &'static [Code],
    headers: &'static [&'static str],
    is_open_too: bool,
    describe: fn(&mut Operation),
}

impl Endpoint {
    fn new<F, A>(method: Method, handler: F, summary: &'static str) -> Self
    where
        F: Handler<A>,
        A: Inputs + 'static,
        F::Output: Output,
    {
        let route = web::to(move |req: HttpRequest, payload: web::Payload| {
            let handler = handler.clone();
            async move {
                let inputs = A::read(&req, &mut payload.into_inner()).await?;
                let output = handler.call(inputs).await;
                Ok::<HttpResponse, Error>(output.respond_to(&req).map_into_boxed_body())
            }
        });
        Self {
            method,
            route,
            summary,
            description: "",
            errors: &[],
            headers: &[],
            is_open_too: false,
            describe: |operation| {
                A::describe(operation);
                F::Output::describe(operation);
            },
        }
    }

    /// What else there is to know.
    pub const fn says(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Errors that the handler's types do not tell.
    pub const fn fails(mut self, errors: &'static [Code]) -> Self {
        self.errors = errors;
        self
    }

    /// Headers of its answer that the handler's types do not tell.
    pub const fn gives(mut self, headers: &'static [&'static str]) -> Self {
        self.headers = headers;
        self
    }

    /// A credential may be left out.
    pub const fn or_without(mut self) -> Self {
        self.is_open_too = true;
        self
    }

    /// All that is known of it.
    pub fn operation(&self) -> Operation {
        let mut operation = Operation::new(&self.method);
        (self.describe)(&mut operation);
        operation.fails(self.errors);
        operation.headers.extend(self.headers);
        if self.is_open_too {
            operation.security.push(json!({}));
        }
        operation
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident $method:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name<F, A>(handler: F, summary: &'static str) -> Endpoint
        where
            F: Handler<A>,
            A: Inputs + 'static,
            F::Output: Output,
        {
            Endpoint::new(Method::$method, handler, summary)
        }
    )*};
}

methods! {
    /// GET, and HEAD.
    get GET;
    /// POST.
    post POST;
    /// PUT.
    put PUT;
    /// PATCH.
    patch PATCH;
    /// DELETE.
    delete DELETE;
}
