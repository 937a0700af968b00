//! What is said over a socket, in either direction, and with which codes it is closed.

use actix_ws::{CloseCode, CloseReason};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

/// What a client may say. A type that is not known is for a later version, and ignored.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub enum Incoming {
    /// Who it is; said again, it renews the socket.
    #[serde(rename = "authenticate")]
    Authenticate { token: String },
    #[serde(other)]
    Unknown,
}

impl Incoming {
    /// Reads a message; `None` for a text that is none.
    pub fn read(text: &str) -> Option<Self> {
        // serde would also take an array for an object, its fields by position.
        let is_object = text.trim_start().starts_with('{');
        serde_json::from_str(text).ok().filter(|_| is_object)
    }
}

/// Which end of a browser session comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    Idle,
    Lifetime,
}

/// What the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub enum Event {
    /// Let in, as that user, until then.
    #[serde(rename = "authenticated")]
    Authenticated {
        user_id: Uuid,
        expires_at: Timestamp,
    },
    /// The access token is within the threshold of its end: time for another.
    #[serde(rename = "token.expiring")]
    TokenExpiring { expires_at: Timestamp },
    /// The browser session ends soon unless its person does something (`idle`), or whatever they do.
    #[serde(rename = "session.expiring")]
    SessionExpiring { end: End, ends_at: Timestamp },
    /// What let the socket in was ended or revoked. Said just before closing.
    #[serde(rename = "session.revoked")]
    SessionRevoked { reason: &'static str },
    /// A login of this user has begun, come back or ended.
    #[serde(rename = "sessions.changed")]
    SessionsChanged,
}

/// With what a socket is closed: a code, and a word for whoever reads the log of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    code: u16,
    word: &'static str,
}

impl Close {
    /// As the client has asked.
    pub const NORMAL: Self = Self::with(1000, "");
    /// This node is about to end.
    pub const GOING_AWAY: Self = Self::with(1001, "going_away");
    /// What came is no WebSocket frame.
    pub const PROTOCOL: Self = Self::with(1002, "protocol_error");
    /// Binary messages mean nothing here.
    pub const BINARY: Self = Self::with(1003, "text_only");
    /// A text that is none.
    pub const NOT_TEXT: Self = Self::with(1007, "not_utf8");
    /// A text that is no message of ours.
    pub const MALFORMED: Self = Self::with(1008, "malformed_message");
    /// More messages than anybody has reason to send.
    pub const TOO_FAST: Self = Self::with(1008, "too_many_messages");
    /// The user has as many sockets as one may have.
    pub const TOO_MANY: Self = Self::with(1008, "too_many_sockets");
    /// A message that is too long.
    pub const TOO_BIG: Self = Self::with(1009, "message_too_big");
    /// It cannot be known just now whether the token is good.
    pub const TRY_LATER: Self = Self::with(1013, "unavailable");
    pub const TOKEN_INVALID: Self = Self::with(4401, "token_invalid");
    pub const TOKEN_EXPIRED: Self = Self::with(4401, "token_expired");
    pub const TOKEN_REVOKED: Self = Self::with(4401, "token_revoked");
    pub const SESSION_EXPIRED: Self = Self::with(4401, "session_expired");
    pub const OTHER_USER: Self = Self::with(4403, "other_user");
    pub const OTHER_ORIGIN: Self = Self::with(4403, "other_origin");
    /// A personal token that may not see sessions.
    pub const SCOPE_MISSING: Self = Self::with(4403, "insufficient_scope");
    pub const NOT_AUTHENTICATED: Self = Self::with(4408, "not_authenticated");

    const fn with(code: u16, word: &'static str) -> Self {
        Self { code, word }
    }
}

impl From<Close> for CloseReason {
    fn from(close: Close) -> Self {
        let description = (!close.word.is_empty()).then(|| close.word.to_owned());
        Self {
            code: CloseCode::from(close.code),
            description,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Event, Incoming};
    use crate::clock::Timestamp;

    #[test]
    fn messages_are_written_as_the_contract_has_them() {
        let at = Timestamp::from_seconds(1_800_000_000);
        let expiring = Event::SessionExpiring {
            end: End::Idle,
            ends_at: at,
        };
        assert_eq!(
            serde_json::to_string(&expiring).expect("JSON"),
            r#"{"type":"session.expiring","end":"idle","ends_at":"2027-01-15T08:00:00Z"}"#
        );
        assert!(matches!(
            Incoming::read(r#"{"type":"authenticate","token":"t","more":1}"#),
            Some(Incoming::Authenticate { token }) if token == "t"
        ));
        assert!(matches!(
            Incoming::read(r#"{"type":"hello","x":[]}"#),
            Some(Incoming::Unknown)
        ));
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"type":"authenticate"}"#,
            r#"{"type":"authenticate","token":1}"#,
            r#"{"type":"authenticate","token":"a","token":"b"}"#,
        ] {
            assert!(Incoming::read(wrong).is_none(), "{wrong}");
        }
    }
}
