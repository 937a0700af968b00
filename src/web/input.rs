//! Bodies, read within limits of size and time, and turned into types or into a 4xx that names the
//! field.

use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::{Payload, RequestHead};
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use actix_web::web::{Bytes, BytesMut};
use actix_web::{FromRequest, HttpRequest};
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::origin::single;
use crate::account::is_invisible;
use crate::error::{AppError, Code, FieldErrors};
use crate::openapi::{Input, Operation};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// Larger bodies are 413.
const LARGEST_BODY: usize = 64 * 1024;
/// Slower bodies are 408.
const SLOWEST_BODY: Duration = Duration::from_secs(10);

/// Fields that can be checked for more than their type.
pub trait Check {
    /// Adds a sentence for each field that is wrong.
    fn check(&self, errors: &mut FieldErrors);
}

/// A JSON body.
pub struct Json<T>(pub T);

/// A JSON body that may be left out: an empty one is an empty object.
pub struct OptionalJson<T>(pub T);

/// A form of a page.
pub struct Form<T>(pub T);

/// A body in either way, where a standard says form and our own clients send JSON.
pub struct JsonOrForm<T>(pub T);

/// What stands behind the `?` of an address.
pub struct Query<T>(pub T);

/// The fields of a form as they were sent, before they are given a type.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct FormFields(Vec<(String, String)>);

impl Check for FormFields {
    fn check(&self, _: &mut FieldErrors) {}
}

impl FormFields {
    /// The first field of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The form that these fields make.
    ///
    /// # Errors
    /// 422, naming the field.
    pub fn parse<T: DeserializeOwned + Check>(&self) -> Result<T, AppError> {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        let text = text.extend_pairs(self.iter()).finish();
        fields(text.as_bytes())
    }
}

impl<T: DeserializeOwned + Check + 'static> FromRequest for Json<T> {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = body(req, payload, is_json);
        Box::pin(async move {
            let body = body.await?;
            json(&body).map(Json)
        })
    }
}

impl<T: DeserializeOwned + Check + JsonSchema + 'static> Input for Json<T> {
    fn describe(operation: &mut Operation) {
        operation.takes_body::<T>(&[JSON], true);
    }
}

impl<T: DeserializeOwned + Check + Default + 'static> FromRequest for OptionalJson<T> {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (req, mut payload) = (req.clone(), payload.take());
        Box::pin(async move { optional_json(&req, &mut payload).await.map(Self) })
    }
}

impl<T: DeserializeOwned + Check + Default + JsonSchema + 'static> Input for OptionalJson<T> {
    fn describe(operation: &mut Operation) {
        operation.takes_body::<T>(&[JSON], false);
    }
}

impl<T: DeserializeOwned + Check + 'static> FromRequest for Form<T> {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = body(req, payload, is_form);
        Box::pin(async move {
            let body = body.await?;
            fields(&body).map(Form)
        })
    }
}

impl<T: DeserializeOwned + Check + 'static> FromRequest for JsonOrForm<T> {
    type Error = AppError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, AppError>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let as_json = media_type(req.headers()).is_some_and(|kind| is_json(&kind));
        let body = body(req, payload, |kind| is_json(kind) || is_form(kind));
        Box::pin(async move {
            let body = body.await?;
            match as_json {
                true => json(&body),
                false => fields(&body),
            }
            .map(Self)
        })
    }
}

impl<T: DeserializeOwned + Check + JsonSchema + 'static> Input for JsonOrForm<T> {
    fn describe(operation: &mut Operation) {
        operation.takes_body::<T>(&[JSON, FORM], true);
    }
}

impl<T: DeserializeOwned + Check> FromRequest for Query<T> {
    type Error = AppError;
    type Future = std::future::Ready<Result<Self, AppError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(fields(req.query_string().as_bytes()).map(Self))
    }
}

impl<T: DeserializeOwned + Check + JsonSchema> Input for Query<T> {
    fn describe(operation: &mut Operation) {
        operation.takes_query::<T>();
    }
}

fn fields<T: DeserializeOwned + Check>(encoded: &[u8]) -> Result<T, AppError> {
    let fields = serde_html_form::Deserializer::from_bytes(encoded);
    checked(serde_path_to_error::deserialize(fields))
}

/// The path and query of an address that a browser sent.
pub fn path_of_url(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    Some(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

async fn optional_json<T: DeserializeOwned + Check + Default>(
    req: &HttpRequest,
    payload: &mut Payload,
) -> Result<T, AppError> {
    let bytes = limited(payload).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    if media_type(req.headers()).is_none_or(|kind| !is_json(&kind)) {
        return Err(Code::UnsupportedMediaType.into());
    }
    json(&bytes)
}

/// For a field that may be left out: its `null` is a value, or the wrong type, but no absence.
///
/// # Errors
/// Where it is of the wrong type.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A number without a fraction, however it is written: to JSON Schema `12.0` is an integer too.
///
/// # Errors
/// Where it is anything else, or too large.
pub fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    /// 2⁶⁴, the first that is too large.
    const END: f64 = 18_446_744_073_709_551_616.0;
    let number = serde_json::Number::deserialize(from)?;
    let float = number.as_f64().filter(|float| float.fract() == 0.0);
    let fitting = float.filter(|float| (0.0..END).contains(float));
    let whole = number.as_u64().or(fitting.map(|float| float as u64));
    whole.ok_or_else(|| serde::de::Error::custom("not a whole number that fits"))
}

/// As [`whole`] and [`given`].
///
/// # Errors
/// As they.
pub fn given_whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    whole(from).map(Some)
}

/// Parses a JSON object and checks its fields.
///
/// # Errors
/// 400 where it is not JSON, 422 where a field is wrong.
pub fn json<T: DeserializeOwned + Check>(body: &[u8]) -> Result<T, AppError> {
    let malformed = || AppError::from(Code::MalformedRequest);
    let text = std::str::from_utf8(body).map_err(|_| malformed())?;
    let is_json = || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    // serde would also take an array for an object, its fields by position.
    let first = text.trim_start().chars().next();
    if first.is_some_and(|first| first != '{') && is_json() {
        let errors = FieldErrors::one("body", "This must be an object.");
        return Err(AppError::Invalid(errors));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut reader);
    match parsed {
        // serde_json calls some wrong values wrong syntax: a number too large, a number for a word.
        Err(error) if !error.inner().is_data() && !is_json() => Err(malformed()),
        parsed => {
            let value = checked(parsed)?;
            reader.end().map_err(|_| malformed())?;
            Ok(value)
        }
    }
}

fn body(
    req: &HttpRequest,
    payload: &mut Payload,
    accepts: fn(&str) -> bool,
) -> impl Future<Output = Result<Bytes, AppError>> + use<> {
    let fits = media_type(req.headers()).is_some_and(|kind| accepts(&kind));
    let mut payload = payload.take();
    async move {
        if !fits {
            return Err(Code::UnsupportedMediaType.into());
        }
        limited(&mut payload).await
    }
}

fn is_form(kind: &str) -> bool {
    kind == FORM
}

fn is_json(kind: &str) -> bool {
    kind == JSON || kind.ends_with("+json")
}

/// Whether a program posts JSON, where a page would post its form.
pub fn is_json_post(head: &RequestHead) -> bool {
    head.method == Method::POST && media_type(&head.headers).is_some_and(|kind| is_json(&kind))
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let kind = single(headers, CONTENT_TYPE)?.split(';').next()?;
    Some(kind.trim().to_ascii_lowercase())
}

async fn limited(payload: &mut Payload) -> Result<Bytes, AppError> {
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_| Code::MalformedRequest)?;
            if body.len() + chunk.len() > LARGEST_BODY {
                return Err(AppError::from(Code::PayloadTooLarge));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    let read = tokio::time::timeout(SLOWEST_BODY, read).await;
    read.map_err(|_| AppError::from(Code::RequestTimeout))?
}

fn checked<T: Check, E: std::error::Error>(
    parsed: Result<T, serde_path_to_error::Error<E>>,
) -> Result<T, AppError> {
    let mut errors = FieldErrors::default();
    match parsed {
        Ok(value) => {
            value.check(&mut errors);
            if errors.0.is_empty() {
                return Ok(value);
            }
        }
        Err(error) => {
            let (field, sentence) = wrong_field(&error);
            errors.add(field, sentence);
        }
    }
    Err(AppError::Invalid(errors))
}

/// The field that serde stumbled over. A missing or repeated one it names in its message, others by
/// their path.
fn wrong_field<E: std::error::Error>(
    error: &serde_path_to_error::Error<E>,
) -> (String, &'static str) {
    let message = error.inner().to_string();
    let quoted = |prefix: &str| Some(message.strip_prefix(prefix)?.split('`').next()?.to_owned());
    if let Some(field) = quoted("missing field `") {
        return (field, "This field is required.");
    }
    if let Some(field) = quoted("duplicate field `") {
        return (field, "This field is given twice.");
    }
    match error.path().to_string() {
        // What serde_html_form says of several values for a field that takes one.
        path if message == "unsupported value" => (path, "This field is given twice."),
        path if path == "." => ("body".to_owned(), "This must be an object."),
        path => (path, "This field has the wrong type or an unknown value."),
    }
}

/// What holds for any text a person sends: no NUL or other control characters, and not too long.
pub fn check_text(errors: &mut FieldErrors, field: &str, text: &str, most: usize) {
    if text.chars().count() > most {
        errors.add(field, format!("This has at most {most} characters."));
    } else if text.chars().any(is_invisible) {
        errors.add(field, "This has characters that cannot be seen.");
    }
}

/// As [`check_text`], for a field that must not be empty.
pub fn check_required(errors: &mut FieldErrors, field: &str, text: &str, most: usize) {
    if text.trim().is_empty() {
        errors.add(field, "This field is required.");
    } else {
        check_text(errors, field, text, most);
    }
}

/// Of a password that somebody types; a new one may not be nearly as long.
pub const LONGEST_PASSWORD: usize = 1024;

/// A password is any text, but not an endless one.
pub fn check_password(errors: &mut FieldErrors, field: &str, password: &str) {
    if password.is_empty() {
        errors.add(field, "This field is required.");
    } else if password.chars().count() > LONGEST_PASSWORD {
        errors.add(field, "This is too long to be a password.");
    }
}
