//! The outermost layer: gives each request an id, dresses errors as problem+json or as a page by the
//! kind of route, adds what handlers left to be sent along, and the headers that every answer has.

use std::borrow::Cow;
use std::cell::Cell;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::cookie::Cookie;
use actix_web::dev::{RequestHead, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_VERSION, SET_COOKIE, UPGRADE, VARY, WWW_AUTHENTICATE,
};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, web};
use tracing::Level;
use url::form_urlencoded;

use super::page::{self, Page};
use super::{input, origin};
use crate::app::App;
use crate::error::{AppError, Code};
use crate::login;
use crate::outage::in_one_line;
use crate::request;
use crate::session::cookies;
use crate::session::extract::PASSWORD_PAGE;
use crate::token::jwt::Reading;
use crate::vault::random;

/// Larger heads are 431. (The framework itself stops reading at 128 KiB.)
const LARGEST_HEAD: usize = 16 * 1024;

/// An id that no other request has, on any node: a random part that the thread made, and a number. It
/// need not be hard to guess, only cheap.
fn request_id() -> String {
    thread_local! {
        static THREAD: u64 = u64::from_be_bytes(random());
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    let number = NEXT.replace(NEXT.get() + 1).to_be_bytes();
    let bytes = THREAD
        .with(|thread| thread.to_be_bytes())
        .into_iter()
        .chain(number.into_iter().skip(2));
    let digits = bytes.flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// Headers for whoever goes on with a login.
struct Gift {
    login_id: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What extractors want sent along with the answer, whatever the handler answers.
#[derive(Default)]
pub struct Outgoing {
    cookies: Vec<Cookie<'static>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    on_success: Option<Gift>,
}

impl Outgoing {
    /// Sends a cookie along.
    pub fn set_cookie(req: &HttpRequest, cookie: Cookie<'static>) {
        Self::with(req, |outgoing| {
            outgoing
                .cookies
                .retain(|known| known.name() != cookie.name());
            outgoing.cookies.push(cookie);
        });
    }

    /// Sends a header along.
    pub fn set_header(req: &HttpRequest, name: &'static str, value: HeaderValue) {
        let name = HeaderName::from_static(name);
        Self::with(req, |outgoing| outgoing.headers.push((name, value)));
    }

    /// Sends headers along, unless the answer is an error or the login has ended by then; the last
    /// call counts.
    pub fn set_on_success<const N: usize>(
        req: &HttpRequest,
        login_id: &str,
        headers: [(HeaderName, HeaderValue); N],
    ) {
        let (login_id, headers) = (login_id.to_owned(), headers.to_vec());
        let gift = Gift { login_id, headers };
        Self::with(req, |outgoing| outgoing.on_success = Some(gift));
    }

    fn with(req: &HttpRequest, change: impl FnOnce(&mut Self)) {
        let mut extensions = req.extensions_mut();
        if !extensions.contains::<Self>() {
            extensions.insert(Self::default());
        }
        if let Some(outgoing) = extensions.get_mut::<Self>() {
            change(outgoing);
        }
    }
}

/// How an error is told on a route.
#[derive(Clone, Copy, PartialEq)]
enum Dress {
    Page,
    Problem,
    /// `{"success": false, "error": …}`, as the older of the dialects has it.
    Envelope,
}

impl Dress {
    fn of(head: &RequestHead) -> Self {
        let path = head.uri.path();
        let starts = |with: &[&str]| with.iter().any(|start| path.starts_with(start));
        let json = ["/api/", "/.well-known/", "/healthz", "/readyz", "/static/"];
        if is_enveloped(path) {
            Self::Envelope
        } else if starts(&json) || lies_under(path, &["/refresh"]) || is_login_by_program(head) {
            Self::Problem
        } else {
            Self::Page
        }
    }
}

fn lies_under(path: &str, parents: &[&str]) -> bool {
    let mut rests = parents
        .iter()
        .filter_map(|parent| path.strip_prefix(parent));
    rests.any(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether errors on this path are told in the envelope of the older dialect.
pub fn is_enveloped(path: &str) -> bool {
    lies_under(path, &["/api/auth", "/api/users"])
}

/// Whether this is the older dialect's login. It shares its path with the page, and the content type
/// of what is sent decides.
pub fn is_login_by_program(head: &RequestHead) -> bool {
    head.uri.path() == "/login" && input::is_json_post(head)
}

/// The layer itself.
///
/// # Errors
/// Passes on what lies below.
pub async fn dress<B: MessageBody + 'static>(
    mut req: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let Some(app) = req.app_data::<web::Data<App>>().cloned() else {
        return Ok(next.call(req).await?.map_into_left_body());
    };
    let id = request_id();
    let mut response = if is_head_too_large(&req) {
        let refused = req.error_response(AppError::from(Code::HeadTooLarge));
        told(refused, &id)
            .map_into_boxed_body()
            .map_into_right_body()
    } else {
        // Before anything reads a cookie: what has been read stays as it was.
        cookies::sort_out(req.headers_mut(), &app.config, &app.secrets);
        let dress = Dress::of(req.head());
        let page = (dress == Dress::Page).then(|| Page::new(req.request(), None, String::new()));
        let method = req.method().clone();
        match request::serve(&id, next.call(req)).await {
            Ok(response) => told(response, &id),
            Err(error) => {
                // What it says to people leaves out what lies below.
                let cause = in_one_line(format!("{error:?}"));
                tracing::warn!(request_id = id, %method, cause, "the session could not be kept");
                app.metrics.answered(StatusCode::SERVICE_UNAVAILABLE);
                return Err(without_request(&error, dress, page, &app, &id));
            }
        }
    };
    let (req, head) = (
        response.request().clone(),
        response.response_mut().head_mut(),
    );
    let succeeded = head.status.is_success();
    send_along(&req, &app, head.headers_mut(), succeeded);
    let is_page = head
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    secure(head.headers_mut(), &app, is_page, &id);
    if app.is_draining() {
        // The next request goes to another node instead of meeting a closed door here.
        head.set_connection_type(ConnectionType::Close);
    }
    app.metrics.answered(head.status);
    log(&req, &app, head.status, &id);
    Ok(response)
}

/// Address and headers, as they came, are larger than any browser of ours would send.
fn is_head_too_large(req: &ServiceRequest) -> bool {
    let target = req
        .uri()
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let headers = req.headers().iter();
    let lengths = headers.map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + lengths.sum::<usize>() > LARGEST_HEAD
}

/// The answer to an error that comes without its request: the session layer's, when the store has
/// gone away between the handler and the writing of the session.
fn without_request(error: &Error, dress: Dress, page: Option<Page>, app: &App, id: &str) -> Error {
    let told = match error.as_error::<AppError>() {
        Some(error) => error.clone(),
        None => AppError::Unavailable(error.to_string()),
    };
    let is_page = page.is_some();
    let mut answer = match page {
        Some(page) => page::error_page(page, &told, id),
        None => as_json(dress, &told, id),
    };
    if let Some(seconds) = told.retry_after() {
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    secure(answer.headers_mut(), app, is_page, id);
    InternalError::from_response(told, answer).into()
}

/// Replaces a bare error answer by one that tells it.
fn told<B: MessageBody + 'static>(
    response: ServiceResponse<B>,
    id: &str,
) -> ServiceResponse<EitherBody<B, BoxBody>> {
    let Some(error) = error_of(&response) else {
        return response.map_into_left_body();
    };
    let req = response.request().clone();
    if let Some(cause) = error.cause() {
        note_cause(&req, cause);
    }
    let mut answer = match Dress::of(req.head()) {
        dress @ (Dress::Problem | Dress::Envelope) => as_json(dress, &error, id),
        Dress::Page => match (&*error, redirect(&req, &error)) {
            (AppError::PasswordAsked { html, .. }, _) => {
                page::html(html.clone(), error.code().status())
            }
            (_, Some(location)) => super::see_other(&location),
            _ => page::error_page(Page::new(&req, None, String::new()), &error, id),
        },
    };
    if let Some(seconds) = error.retry_after() {
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.code() == Code::UpgradeRequired {
        // RFC 9110, 15.5.22, and RFC 6455, 4.4.
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    // What inner layers set is part of the answer whatever its body.
    let stays = |name: &HeaderName| {
        [SET_COOKIE, ALLOW, VARY].contains(name) || name.as_str().starts_with("access-control-")
    };
    for (name, value) in response.headers().iter().filter(|(name, _)| stays(name)) {
        answer.headers_mut().append(name.clone(), value.clone());
    }
    ServiceResponse::new(req, answer.map_into_right_body())
}

/// The error behind a response: ours, or what the framework itself answered.
fn error_of<B>(response: &ServiceResponse<B>) -> Option<Cow<'_, AppError>> {
    if let Some(error) = response.response().error() {
        return Some(match error.as_error::<AppError>() {
            Some(error) => Cow::Borrowed(error),
            None => Cow::Owned(foreign(response.status(), error)),
        });
    }
    let bare = match response.status() {
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        _ => return None,
    };
    let untold = !response.headers().contains_key(CONTENT_TYPE);
    untold.then(|| Cow::Owned(bare.into()))
}

fn foreign(status: StatusCode, error: &Error) -> AppError {
    match status.as_u16() {
        404 => Code::NotFound.into(),
        405 => Code::MethodNotAllowed.into(),
        413 => Code::PayloadTooLarge.into(),
        415 => Code::UnsupportedMediaType.into(),
        400..=499 => Code::MalformedRequest.into(),
        _ => AppError::Internal(error.to_string()),
    }
}

fn as_json(dress: Dress, error: &AppError, id: &str) -> HttpResponse {
    let mut answer = HttpResponse::build(error.code().status());
    if let Some(challenge) = error.challenge() {
        answer.insert_header((WWW_AUTHENTICATE, challenge));
    }
    let (kind, body) = match dress {
        Dress::Envelope => ("application/json", error.envelope()),
        Dress::Problem | Dress::Page => ("application/problem+json", error.problem(id)),
    };
    answer.content_type(kind).body(body.to_string())
}

/// On a page, a session that is over or missing is no error: the person signs in and comes back.
fn redirect(req: &HttpRequest, error: &AppError) -> Option<String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    match error {
        AppError::PasswordMustChange => return Some(PASSWORD_PAGE.to_owned()),
        AppError::SessionOver(reason) => query.append_pair("reason", reason.name()),
        AppError::Problem(Code::SessionMissing) => &mut query,
        _ => return None,
    };
    let here = match *req.method() {
        Method::GET => req
            .uri()
            .path_and_query()
            .map(|path| path.as_str().to_owned()),
        _ => origin::header(req, actix_web::http::header::REFERER).and_then(input::path_of_url),
    };
    let here = here.unwrap_or_default();
    query.append_pair("next", origin::local_path(&here));
    Some(format!("/login?{}", query.finish()))
}

fn send_along(req: &HttpRequest, app: &App, headers: &mut HeaderMap, succeeded: bool) {
    let outgoing = req
        .extensions_mut()
        .remove::<Outgoing>()
        .unwrap_or_default();
    for (name, value) in outgoing.headers {
        headers.insert(name, value);
    }
    let lives = |gift: &Gift| matches!(app.ended.cause(&gift.login_id), Ok(None));
    let gift = outgoing.on_success.filter(|gift| succeeded && lives(gift));
    for (name, value) in gift.map(|gift| gift.headers).unwrap_or_default() {
        if name == SET_COOKIE {
            headers.append(name, value);
        } else {
            headers.insert(name, value);
        }
    }
    for cookie in outgoing.cookies {
        if let Ok(value) = HeaderValue::from_str(&cookie.to_string()) {
            headers.append(SET_COOKIE, value);
        }
    }
}

/// The headers that the OWASP Secure Headers project lists. Nothing of ours is embedded anywhere, and
/// nothing of anybody's is embedded in ours.
fn secure(headers: &mut HeaderMap, app: &App, is_page: bool, id: &str) {
    let mut set = |name: &'static str, value: &'static str| {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    };
    set("x-content-type-options", "nosniff");
    set("referrer-policy", "same-origin");
    set("cross-origin-resource-policy", "same-origin");
    set("x-frame-options", "DENY");
    if is_page {
        set("cross-origin-opener-policy", "same-origin");
        set("x-permitted-cross-domain-policies", "none");
        set(
            "permissions-policy",
            "camera=(), geolocation=(), microphone=(), payment=()",
        );
        set(
            CONTENT_SECURITY_POLICY_NAME,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        );
    }
    if app.config.is_https() {
        set("strict-transport-security", "max-age=31536000");
    }
    if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        // The CORS layer sends these whether or not it knows the origin.
        for name in [
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            headers.remove(name);
        }
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
}

const CONTENT_SECURITY_POLICY_NAME: &str = "content-security-policy";

/// The login that a request was served by.
struct ServedLogin(String);

/// Lets the log know which login a session belongs to.
pub fn note_login(req: &HttpRequest, id: &str) {
    req.extensions_mut().insert(ServedLogin(id.to_owned()));
}

/// Why an answer is a 5xx.
struct Cause(String);

/// Lets the log know why, where the answer does not tell.
pub fn note_cause(req: &HttpRequest, cause: &str) {
    req.extensions_mut().insert(Cause(in_one_line(cause)));
}

/// What the log calls the login that a request was served by. A JWT is read once more, from memory,
/// so that one that is not logged costs nothing.
fn login_of(req: &HttpRequest, app: &App) -> Option<String> {
    if let Some(ServedLogin(id)) = req.extensions().get() {
        return Some(login::log_name(id));
    }
    match app.jwt.read(origin::bearer(req)?, app.clock.now()) {
        Reading::Good(claims) | Reading::Expired(claims) => Some(login::log_name(&claims.sid)),
        Reading::Invalid | Reading::Unsure => None,
    }
}

fn log(req: &HttpRequest, app: &App, status: StatusCode, id: &str) {
    macro_rules! tell {
        ($level:expr) => {
            tracing::event!(
                $level,
                request_id = id,
                method = %req.method(),
                route = route(req),
                login = login_of(req, app),
                status = status.as_u16(),
                cause = req.extensions().get::<Cause>().map(|cause| cause.0.as_str()),
                "request"
            )
        };
    }
    match status {
        StatusCode::INTERNAL_SERVER_ERROR => tell!(Level::ERROR),
        // A probe, every second: the outage behind it is told when it begins.
        StatusCode::SERVICE_UNAVAILABLE if req.path() == "/readyz" => tell!(Level::DEBUG),
        // More than there is room for: it is counted, and a flood would fill the log.
        StatusCode::SERVICE_UNAVAILABLE if !req.extensions().contains::<Cause>() => {
            tell!(Level::DEBUG);
        }
        _ if status.is_server_error() => tell!(Level::WARN),
        _ => tell!(Level::DEBUG),
    }
}

/// The request's path as the log may know it, without what it is about: somebody may have put a token
/// there, or into the query.
fn route(req: &HttpRequest) -> String {
    req.match_pattern().unwrap_or_else(|| "none".to_owned())
}
