//! What happened, to whom, from where: written in the transaction of what it records, never a
//! secret.

pub mod days;
mod store;
pub mod words;

use diesel::prelude::*;

pub use self::store::{
    addresses_of, delete_before, has_kind, latest, page, page_before, per_day, record, record_each,
};
use crate::clock::Timestamp;
use crate::id;
use crate::login::Client;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $name:literal, $group:ident;)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// As stored, and as the API says it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The group it is looked for in.
            pub const fn group(self) -> Group {
                match self {
                    $(Self::$kind => Group::$group,)*
                }
            }
        }
    };
}

kinds! {
    Login, "login", Logins;
    LoginFailed, "login_failed", Failures;
    LoginEnded, "login_ended", Logins;
    RememberRestored, "remember_restored", Logins;
    /// A rotated refresh or remember token came back: taken for theft.
    RefreshReused, "refresh_reused", Failures;
    PasswordChanged, "password_changed", Changes;
    /// `detail` names the fields.
    ProfileChanged, "profile_changed", Changes;
    UserCreated, "user_created", Changes;
    UserDisabled, "user_disabled", Changes;
    UserEnabled, "user_enabled", Changes;
    /// A personal token; `detail` is its name.
    TokenCreated, "token_created", Tokens;
    TokenRevoked, "token_revoked", Tokens;
    /// A single JWT was given up before its time.
    AccessTokenRevoked, "access_token_revoked", Tokens;
    SigningKeyMade, "signing_key_made", Changes;
    SigningKeyRevoked, "signing_key_revoked", Changes;
    /// By an administrator: the username, address or name, as the detail says.
    UserChanged, "user_changed", Changes;
    /// By an administrator, to the role that the detail names.
    RoleChanged, "role_changed", Changes;
    /// By an administrator, to a password that has to be changed.
    PasswordReset, "password_reset", Changes;
}

impl Kind {
    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// What a person looks for in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Logins,
    Failures,
    Changes,
    Tokens,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 4] = [Self::Logins, Self::Failures, Self::Changes, Self::Tokens];

    /// As it stands in an address.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logins => "logins",
            Self::Failures => "failures",
            Self::Changes => "changes",
            Self::Tokens => "tokens",
        }
    }

    /// The group of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }

    /// What belongs to it.
    pub fn kinds(self) -> Vec<Kind> {
        let all = Kind::ALL.iter().copied();
        all.filter(|kind| kind.group() == self).collect()
    }
}

/// Which part of the log is asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Whom it concerns; `None`: everybody, and nobody known.
    pub user_id: Option<String>,
    /// Of these kinds; empty: of all.
    pub kinds: Vec<Kind>,
    /// Not earlier than this.
    pub from: Option<Timestamp>,
    /// Earlier than this.
    pub to: Option<Timestamp>,
}

impl Filter {
    /// Everything about one person.
    pub fn of_user(user_id: &str) -> Self {
        Self {
            user_id: Some(user_id.to_owned()),
            ..Self::default()
        }
    }
}

/// Who did something, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// `None` at the command line of the server, where nobody signs in.
    pub id: Option<&'a str>,
    pub client: &'a Client,
}

impl<'a> Actor<'a> {
    /// A person.
    pub const fn person(id: &'a str, client: &'a Client) -> Self {
        Self {
            id: Some(id),
            client,
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

    /// Something that concerns no person more than any other.
    pub fn of_installation(kind: Kind, at: Timestamp) -> Self {
        Self {
            user_id: None,
            ..Self::new(kind, "", at)
        }
    }

    /// Done by this person, from this device.
    pub fn by(self, actor_id: &str, client: &Client) -> Self {
        self.done_by(Actor::person(actor_id, client))
    }

    /// Done by whoever it was.
    pub fn done_by(self, actor: Actor<'_>) -> Self {
        Self {
            actor_id: actor.id.map(str::to_owned),
            ..self.seen_from(actor.client)
        }
    }

    /// From this device, whoever was at it.
    pub fn seen_from(self, client: &Client) -> Self {
        let told = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            device: told(&client.device),
            ip: told(&client.ip),
            ..self
        }
    }

    /// For this reason.
    pub fn because(self, cause: &str) -> Self {
        Self {
            cause: Some(cause.to_owned()),
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

    /// Whether somebody did it to somebody else.
    pub fn is_by_another(&self) -> bool {
        self.actor_id.is_some() && self.actor_id != self.user_id
    }

    /// As the person whom it concerns may see it: where an administrator sat is the administrator's.
    pub fn for_its_subject(self) -> Self {
        match self.is_by_another() {
            true => Self {
                device: None,
                ip: None,
                ..self
            },
            false => self,
        }
    }
}
