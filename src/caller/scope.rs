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

/// The scopes of one token: at least one, each once, in the order of [`Scope::ALL`], and `*` alone
/// where it is among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// Every scope.
    pub fn all() -> Self {
        Self(vec![Scope::All])
    }

    /// The scopes of those names; `None`: there are none, or one of them is unknown.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let named: Option<Vec<Scope>> = names.into_iter().map(Scope::named).collect();
        let named = named.filter(|named| !named.is_empty())?;
        if named.contains(&Scope::All) {
            return Some(Self::all());
        }
        let each_once = Scope::ALL.into_iter().filter(|scope| named.contains(scope));
        Some(Self(each_once.collect()))
    }

    /// Those of the names that are known: what a later version stored gives an earlier one nothing.
    pub fn known<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().filter_map(Scope::named).collect())
    }

    /// Whether a token with these may do what asks for `scope`.
    pub fn allow(&self, scope: Scope) -> bool {
        self.iter().any(|own| own == Scope::All || own == scope)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Scope> {
        self.0.iter().copied()
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.iter().map(Scope::name).collect()
    }
}

/// What a route asks of a personal token. Other credentials may do whatever their person may.
pub trait Permission: 'static {
    /// The scope a token needs; `None`: no token may do this, whatever its scopes.
    const SCOPE: Option<Scope>;
    /// Whether it is open to somebody who still has to choose a password of their own.
    const BEFORE_CHANGE: bool = false;
}

/// Choosing a password of one's own, and what a page does meanwhile. Never a personal token.
pub struct OwnPassword;

impl Permission for OwnPassword {
    const SCOPE: Option<Scope> = None;
    const BEFORE_CHANGE: bool = true;
}

/// `profile:read`.
pub struct ProfileRead;

impl Permission for ProfileRead {
    const SCOPE: Option<Scope> = Some(Scope::ProfileRead);
    const BEFORE_CHANGE: bool = true;
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
