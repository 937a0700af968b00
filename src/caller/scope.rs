//! What a personal token may do, and what each route asks of one: policy in the extractor's type.

/// A scope of a personal token, as `http.md` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `*`: every one of the others.
    All,
    ProfileRead,
    ProfileWrite,
    SessionsRead,
    SessionsWrite,
    TokensRead,
    TokensWrite,
    UsersRead,
    UsersWrite,
    AuditRead,
    Verify,
    Introspect,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 12] = [
        Self::All,
        Self::ProfileRead,
        Self::ProfileWrite,
        Self::SessionsRead,
        Self::SessionsWrite,
        Self::TokensRead,
        Self::TokensWrite,
        Self::UsersRead,
        Self::UsersWrite,
        Self::AuditRead,
        Self::Verify,
        Self::Introspect,
    ];

    /// As clients write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::ProfileRead => "profile:read",
            Self::ProfileWrite => "profile:write",
            Self::SessionsRead => "sessions:read",
            Self::SessionsWrite => "sessions:write",
            Self::TokensRead => "tokens:read",
            Self::TokensWrite => "tokens:write",
            Self::UsersRead => "users:read",
            Self::UsersWrite => "users:write",
            Self::AuditRead => "audit:read",
            Self::Verify => "verify",
            Self::Introspect => "introspect",
        }
    }

    /// The scope of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// What a route asks of a personal token. Other credentials may do whatever their person may.
pub trait Permission: 'static {
    /// The scope a token needs; `None`: no token may do this, whatever its scopes.
    const SCOPE: Option<Scope>;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident => $scope:expr),* $(,)?) => {$(
        $(#[$doc])*
        pub struct $name;

        impl Permission for $name {
            const SCOPE: Option<Scope> = $scope;
        }
    )*};
}

permissions! {
    /// Never a personal token: what needs a login of one's own.
    NoToken => None,
    /// `profile:read`.
    ProfileRead => Some(Scope::ProfileRead),
    /// `profile:write`.
    ProfileWrite => Some(Scope::ProfileWrite),
    /// `sessions:read`.
    SessionsRead => Some(Scope::SessionsRead),
    /// `sessions:write`.
    SessionsWrite => Some(Scope::SessionsWrite),
    /// `tokens:read`.
    TokensRead => Some(Scope::TokensRead),
    /// `tokens:write`.
    TokensWrite => Some(Scope::TokensWrite),
    /// `users:read`.
    UsersRead => Some(Scope::UsersRead),
    /// `users:write`.
    UsersWrite => Some(Scope::UsersWrite),
    /// `audit:read`.
    AuditRead => Some(Scope::AuditRead),
    /// `verify`.
    Verify => Some(Scope::Verify),
    /// `introspect`.
    Introspect => Some(Scope::Introspect),
}
