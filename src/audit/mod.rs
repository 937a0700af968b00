//! What happened, to whom, from where: written in the transaction of what it records, never a
//! secret.

mod store;

pub use self::store::{delete_before, of_user, record};
use crate::clock::Timestamp;
use crate::id;
use diesel::prelude::*;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Login,
    LoginFailed,
    LoginEnded,
    RememberRestored,
    /// A rotated refresh or remember token came back: taken for theft.
    RefreshReused,
    PasswordChanged,
    UserCreated,
    UserDisabled,
    UserEnabled,
    /// By an administrator: the username, address or name, as the detail says.
    UserChanged,
    /// By an administrator, to the role that the detail names.
    RoleChanged,
    /// By an administrator, to a password that has to be changed.
    PasswordReset,
    /// By an administrator: one login of the person, or all.
    LoginsEnded,
}

impl Kind {
    /// As stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::LoginFailed => "login_failed",
            Self::LoginEnded => "login_ended",
            Self::RememberRestored => "remember_restored",
            Self::RefreshReused => "refresh_reused",
            Self::PasswordChanged => "password_changed",
            Self::UserCreated => "user_created",
            Self::UserDisabled => "user_disabled",
            Self::UserEnabled => "user_enabled",
            Self::UserChanged => "user_changed",
            Self::RoleChanged => "role_changed",
            Self::PasswordReset => "password_reset",
            Self::LoginsEnded => "logins_ended",
        }
    }
}

/// One line of the log.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = crate::db::schema::audit_events)]
pub struct Event {
    /// UUIDv7: ids are in order of time.
    pub id: String,
    pub at: Timestamp,
    /// See [`Kind`].
    pub kind: String,
    /// Whom it concerns.
    pub user_id: Option<String>,
    /// Who did it, if somebody did and is known.
    pub actor_id: Option<String>,
    pub login_id: Option<String>,
    pub device: Option<String>,
    pub ip: Option<String>,
    /// Why, where there is a reason to tell.
    pub cause: Option<String>,
    /// What it is about where the rest does not tell: a token's name, a role.
    pub detail: Option<String>,
}

impl Event {
    /// Something that happened to `user_id`.
    pub fn new(kind: Kind, user_id: &str, at: Timestamp) -> Self {
        Self {
            id: id::new(at).to_string(),
            at,
            kind: kind.name().to_owned(),
            user_id: Some(user_id.to_owned()),
            actor_id: None,
            login_id: None,
            device: None,
            ip: None,
            cause: None,
            detail: None,
        }
    }

    /// Done by somebody, from this device.
    pub fn by(self, actor_id: &str, client: &crate::login::Client) -> Self {
        Self {
            actor_id: Some(actor_id.to_owned()),
            device: Some(client.device.clone()),
            ip: Some(client.ip.clone()),
            ..self
        }
    }

    /// About this.
    pub fn about(self, detail: &str) -> Self {
        Self {
            detail: Some(detail.to_owned()),
            ..self
        }
    }

    /// Concerning one login.
    pub fn of_login(self, login_id: &str) -> Self {
        Self {
            login_id: Some(login_id.to_owned()),
            ..self
        }
    }
}
