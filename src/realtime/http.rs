//! `GET /api/v1/ws`.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::{ORIGIN, SEC_WEBSOCKET_VERSION, UPGRADE};
use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, rt, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, ProtocolError};
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::protocol::{Close, Incoming};
use super::{By, Pass};
use crate::app::App;
use crate::caller::scope::Scope;
use crate::clock::Timestamp;
use crate::error::{AppError, Code, FieldErrors};
use crate::login::sign_in::network;
use crate::openapi::{Input, Operation, Output};
use crate::session::extract::{BrowserSession, look};
use crate::token::jwt::{self, Reading};
use crate::token::personal::Candidate;
use crate::token::personal::memory::{self, Known};
use crate::web::input::{Check, Query};
use crate::web::origin::{address, header, is_own};

/// The longest message; the longest access token fits.
const LONGEST: usize = 5 * 1024;
/// Frames that a client may send within [`WINDOW`].
const MOST_FRAMES: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes that it may send meanwhile: so many of the longest messages, each with the header of a frame.
const MOST_BYTES: usize = MOST_FRAMES as usize * (LONGEST + 14);
/// When a client whose address has too many sockets open may come back: some have timed out by then.
const COME_BACK: Duration = Duration::from_secs(10);

/// 101.
pub struct Upgraded(HttpResponse);

impl Responder for Upgraded {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.0
    }
}

impl Output for Upgraded {
    fn describe(operation: &mut Operation) {
        let answer = json!({"description": "Switching Protocols", "content": {}});
        operation.answers.insert(101, answer);
        operation.security = vec![json!({}), json!({"session": []})];
    }
}

/// What a client sends; beyond [`MOST_BYTES`] an error.
pub struct Bounded(web::Payload);

impl FromRequest for Bounded {
    type Error = actix_web::Error;
    type Future = std::future::Ready<Result<Self, Self::Error>>;

    /// The limits on messages do not bound what is kept: a frame is looked at once it is there in full,
    /// however long it says it is, and of a message in parts that has no end nobody hears.
    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (mut since, mut left) = (Instant::now(), MOST_BYTES);
        let bounded = payload.take().map(move |bytes| {
            let bytes = bytes?;
            if since.elapsed() >= WINDOW {
                (since, left) = (Instant::now(), MOST_BYTES);
            }
            let rest = left.checked_sub(bytes.len());
            left = rest.ok_or(PayloadError::Overflow)?;
            Ok(bytes)
        });
        let mut bounded: Payload = Payload::Stream {
            payload: Box::pin(bounded),
        };
        let payload = web::Payload::from_request(req, &mut bounded).into_inner();
        std::future::ready(payload.map(Self))
    }
}

impl Input for Bounded {
    fn describe(_: &mut Operation) {}
}

/// How a client means to say who it is.
#[derive(Deserialize, JsonSchema)]
pub struct Introduction {
    /// `token`: by its first message alone; a session cookie is not looked at. Anything else means nothing.
    #[serde(default)]
    by: String,
}

impl Check for Introduction {
    fn check(&self, _: &mut FieldErrors) {}
}

/// Where the page is from that wants a socket. Browsers always say.
enum Page {
    Ours,
    /// One that may call the API, or no page at all.
    Allowed,
    Elsewhere,
}

impl Page {
    fn of(req: &HttpRequest, app: &App) -> Self {
        match header(req, ORIGIN) {
            Some(origin) if is_own(req, &app.config, origin) => Self::Ours,
            Some(origin) if app.config.cors_origins.iter().any(|known| known == origin) => {
                Self::Allowed
            }
            None if !req.headers().contains_key(ORIGIN) => Self::Allowed,
            _ => Self::Elsewhere,
        }
    }
}

/// Opens a socket. A page of ours is let in by its cookie unless it has a token, others say who they are; a page from
/// elsewhere is told so by the code with which its socket is closed, since scripts cannot see the
/// status of a handshake.
pub async fn connect(
    req: HttpRequest,
    app: web::Data<App>,
    Query(Introduction { by }): Query<Introduction>,
    Bounded(body): Bounded,
) -> Result<Upgraded, AppError> {
    let wants = header(&req, UPGRADE).unwrap_or_default();
    let version = header(&req, SEC_WEBSOCKET_VERSION);
    if !wants.eq_ignore_ascii_case("websocket") || version.is_some_and(|version| version != "13") {
        return Err(Code::UpgradeRequired.into());
    }
    if app.is_draining() {
        return Err(AppError::Unavailable("about to end".to_owned()));
    }
    let now = app.clock.now();
    let entry = match Page::of(&req, &app) {
        Page::Elsewhere => Err(Close::OTHER_ORIGIN),
        Page::Allowed => Ok(None),
        Page::Ours if by == "token" => Ok(None),
        Page::Ours => match look(&req, &app, now).await {
            Ok(session) => Ok(pass_of(&session)),
            Err(AppError::SessionOver(_)) => Err(Close::SESSION_EXPIRED),
            Err(AppError::Problem(Code::SessionMissing)) => Ok(None),
            Err(error) => return Err(error),
        },
    };
    let handshake = actix_ws::handle(&req, body);
    let (response, out, stream) = handshake.map_err(|_| Code::MalformedRequest)?;
    let address = address(&req, &app.config).to_string();
    let is_settled = !matches!(entry, Ok(None));
    let opened = app.hub.open(out, network(&address), is_settled, now);
    let id = opened.ok_or(AppError::RateLimited {
        retry_after: COME_BACK,
    })?;
    match entry {
        Ok(Some(pass)) => app.hub.let_in(id, pass, now),
        Ok(None) => {}
        Err(close) => app.hub.close(id, close),
    }
    if app.is_draining() {
        // It may have come after the others were closed.
        app.hub.drain();
    }
    let stream = stream.max_frame_size(LONGEST).aggregate_continuations();
    let stream = stream.max_continuation_size(LONGEST);
    rt::spawn(serve(app, id, stream, address));
    Ok(Upgraded(response))
}

fn pass_of(session: &BrowserSession) -> Option<Pass> {
    let record = &session.record;
    Some(Pass {
        user: Uuid::try_parse(&record.user_id).ok()?,
        login: Some(Uuid::try_parse(&record.login_id).ok()?),
        by: By::Session,
        until: record.expires_at(),
    })
}

/// Listens to a client until it is gone.
async fn serve(app: web::Data<App>, id: u64, mut stream: AggregatedMessageStream, address: String) {
    let (mut since, mut frames) = (Instant::now(), 0);
    let close = loop {
        let Some(message) = stream.recv().await else {
            break Close::NORMAL;
        };
        let ping = match &message {
            Ok(AggregatedMessage::Ping(bytes)) => Some(&**bytes),
            _ => None,
        };
        if !app.hub.heard(id, ping) {
            break Close::NORMAL;
        }
        if since.elapsed() >= WINDOW {
            (since, frames) = (Instant::now(), 0);
        }
        frames += 1;
        if frames > MOST_FRAMES {
            break Close::TOO_FAST;
        }
        match message {
            Ok(AggregatedMessage::Text(text)) => {
                if let Err(close) = take(&app, id, &text, &address).await {
                    break close;
                }
            }
            Ok(AggregatedMessage::Binary(_)) => break Close::BINARY,
            Ok(AggregatedMessage::Ping(_) | AggregatedMessage::Pong(_)) => {}
            Ok(AggregatedMessage::Close(_)) => break Close::NORMAL,
            Err(error) => break complaint(&error),
        }
    };
    app.hub.close(id, close);
}

fn complaint(error: &ProtocolError) -> Close {
    match error {
        ProtocolError::Overflow => Close::TOO_BIG,
        ProtocolError::Io(error) if error.kind() == ErrorKind::InvalidData => Close::NOT_TEXT,
        // What the stream says of a message in too many parts, and of more bytes than there may be; of a
        // connection that broke, too, and then nobody is told.
        ProtocolError::Io(_) => Close::TOO_BIG,
        _ => Close::PROTOCOL,
    }
}

/// Does what a message asks for.
async fn take(app: &App, id: u64, text: &str, address: &str) -> Result<(), Close> {
    let now = app.clock.now();
    match Incoming::read(text).ok_or(Close::MALFORMED)? {
        Incoming::Authenticate { token } => {
            let pass = admit(app, &token, address, now).await?;
            app.hub.let_in(id, pass, now);
        }
        Incoming::Unknown => {}
    }
    Ok(())
}

/// What a token lets in.
async fn admit(app: &App, token: &str, address: &str, now: Timestamp) -> Result<Pass, Close> {
    if Candidate::is_meant(token) {
        return admit_personal(app, token, address, now).await;
    }
    let claims = match app.jwt.read(token, now) {
        Reading::Good(claims) => claims,
        Reading::Expired(_) => return Err(Close::TOKEN_EXPIRED),
        Reading::Invalid => return Err(Close::TOKEN_INVALID),
        Reading::Unsure => return Err(Close::TRY_LATER),
    };
    match app.ended.cause_of_any([&claims.sid, &claims.jti]) {
        Ok(None) => {}
        Ok(Some(_)) => return Err(Close::TOKEN_REVOKED),
        Err(_) => return Err(Close::TRY_LATER),
    }
    Ok(Pass {
        user: id_of(&claims.sub)?,
        login: Some(id_of(&claims.sid)?),
        by: By::Token {
            id: id_of(&claims.jti)?,
            key: jwt::key_id(token).ok_or(Close::TOKEN_INVALID)?,
        },
        until: claims.expires_at(),
    })
}

fn id_of(text: &str) -> Result<Uuid, Close> {
    Uuid::try_parse(text).map_err(|_| Close::TOKEN_INVALID)
}

/// For scripts; the token must be one that may see sessions.
async fn admit_personal(
    app: &App,
    token: &str,
    address: &str,
    now: Timestamp,
) -> Result<Pass, Close> {
    let candidate = Candidate::read(&app.secrets, token).ok_or(Close::TOKEN_INVALID)?;
    let reading = memory::read(app, &candidate, now).await;
    let known = match reading.map_err(|_| Close::TRY_LATER)?.good() {
        Ok(known) => known,
        Err(Code::TokenExpired) => return Err(Close::TOKEN_EXPIRED),
        Err(Code::TokenRevoked) => return Err(Close::TOKEN_REVOKED),
        Err(_) => return Err(Close::TOKEN_INVALID),
    };
    if !known.scopes.allow(Scope::SessionsRead) {
        return Err(Close::SCOPE_MISSING);
    }
    memory::note_use(app, &known, || address.to_owned(), now);
    let Known { token, user, .. } = &*known;
    Ok(Pass {
        user: id_of(&user.id)?,
        login: token.login_id.as_deref().map(id_of).transpose()?,
        by: By::Personal(Arc::new(candidate)),
        until: token.expires_at,
    })
}
