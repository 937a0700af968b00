//! Every setting: its name, default and meaning ([`SETTINGS`]), how it is read, and which
//! combinations cannot be right. A TOML file first, then the environment, which wins; every problem
//! is collected, so that one start tells them all.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ipnet::IpNet;
use url::Url;

/// A value that prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a secret.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: to use it, never to show it.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// One setting, as `gapura config` and the README show it.
pub struct Setting {
    /// Name in the environment.
    pub name: &'static str,
    /// What holds where nothing is set, in words or as a value.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting {
        name,
        default,
        meaning,
    }
}

/// Every setting there is.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    setting("DATABASE_URL", "`gapura.db` in the data dir", "`sqlite://path` or `postgres://…`"),
    setting("REDIS_URL", "unset: the embedded store", "`redis://…` or `rediss://…`: sessions, activity keys, announcements of ended logins, counters"),
    setting("GAPURA_DATA_DIR", "data", "SQLite file and generated keys (directory 0700, files 0600)"),
    setting("GAPURA_BIND", "127.0.0.1:8080", "address and port; port 0 picks a free one and prints it"),
    setting("GAPURA_PUBLIC_URL", "unset: whatever `Host` says", "as browsers see it, one for all nodes: origin checks, secure cookies when https, issuer of the JWTs"),
    setting("GAPURA_TRUSTED_PROXIES", "none", "networks, comma-separated, whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed"),
    setting("GAPURA_COOKIE_DOMAIN", "none", "to share the session cookie with sister hosts; the cookie's prefix is then `__Secure-`"),
    setting("GAPURA_WORKERS", "number of cores", "HTTP workers"),
    setting("GAPURA_APP_KEY", "generated into the data dir", "32 bytes or more, base64, the same on all nodes; several, comma-separated: the first is used, the others still understood. Required with PostgreSQL"),
    setting("GAPURA_ADMIN_USERNAME", "admin", "the first administrator, made while there are no users"),
    setting("GAPURA_ADMIN_EMAIL", "admin@localhost", "their address"),
    setting("GAPURA_ADMIN_PASSWORD", "generated and printed once", "their password"),
    setting("GAPURA_REGISTRATION", "closed", "`open` shows a sign-up page and opens its API"),
    setting("GAPURA_SESSION_IDLE_TIMEOUT", "20h", "a browser session ends this long after the person's last activity"),
    setting("GAPURA_SESSION_LIFETIME", "24h", "a browser login ends this long after the password, whatever happens"),
    setting("GAPURA_REMEMBER_LIFETIME", "12h", "how long after the login \"Remember me\" opens a new session"),
    setting("GAPURA_ACTIVITY_PING_INTERVAL", "10m", "how often an active page tells the server so"),
    setting("GAPURA_ACCESS_TOKEN_LIFETIME", "30m", "life of a JWT"),
    setting("GAPURA_AUTO_REFRESH_THRESHOLD", "5m", "a JWT this close to its end should be refreshed"),
    setting("GAPURA_REFRESH_TOKEN_LIFETIME", "7d", "a refresh token not used for this long is over"),
    setting("GAPURA_LOGIN_LIFETIME", "30d", "the longest an API login can be refreshed on"),
    setting("GAPURA_REFRESH_GRACE", "10s", "how long a rotated token still leads to its successor, at most 5m; 0s: strict one-time use"),
    setting("GAPURA_PERSONAL_TOKEN_LIFETIME", "365d", "the longest a personal token may live, and the default"),
    setting("GAPURA_JWT_ALGORITHM", "HS256", "`HS256`, `RS256`, `ES256` or `EdDSA`. A new one signs five minutes after the start; what older keys signed is recognised on"),
    setting("GAPURA_JWT_AUDIENCE", "the public URL", "`aud` of the JWTs"),
    setting("GAPURA_ARGON2", "m=19456,t=2,p=1", "memory in KiB, passes, lanes; not below the OWASP floor"),
    setting("GAPURA_PASSWORD_MIN_LENGTH", "12", "in characters, 8 or more"),
    setting("GAPURA_REVOCATION_MAX_LAG", "60s", "how long a node trusts its knowledge of ended logins without news"),
    setting("GAPURA_AUDIT_RETENTION", "400d", "how long audit events are kept"),
    setting("GAPURA_CORS_ORIGINS", "none", "origins, comma-separated, whose pages may call the API from the browser, with credentials"),
    setting("GAPURA_RATE_LIMITS", "on", "`off` for load tests only"),
    setting("GAPURA_METRICS_BIND", "127.0.0.1:9464", "Prometheus metrics on a listener of their own; `off` for none, port 0 picks a free one. The address is printed"),
    setting("GAPURA_LOG", "info", "filter as in `RUST_LOG`; readable on a terminal, JSON otherwise"),
];

/// Names that older systems used, the setting each stands for, and the unit of its bare number.
const OLDER_NAMES: &[(&str, &str, &str)] = &[
    (
        "ACCESS_TOKEN_EXPIRE_MINUTES",
        "GAPURA_ACCESS_TOKEN_LIFETIME",
        "m",
    ),
    (
        "REFRESH_TOKEN_EXPIRE_DAYS",
        "GAPURA_REFRESH_TOKEN_LIFETIME",
        "d",
    ),
    (
        "AUTO_REFRESH_THRESHOLD",
        "GAPURA_AUTO_REFRESH_THRESHOLD",
        "s",
    ),
    ("SESSION_LIFETIME", "GAPURA_SESSION_LIFETIME", "m"),
];

/// Which database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file of our own.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Secret<String>),
}

impl DatabaseUrl {
    /// Where it is, to be shown: a file, or a server without who asks it and by which password.
    pub fn place(&self) -> String {
        match self {
            Self::Sqlite(file) => file.display().to_string(),
            Self::Postgres(url) => {
                let place = place_of(url.expose(), POSTGRES_PORT);
                place.unwrap_or_else(|| "DATABASE_URL".to_owned())
            }
        }
    }
}

/// Where they listen unless they are told otherwise.
const POSTGRES_PORT: u16 = 5432;
/// See [`POSTGRES_PORT`].
pub const REDIS_PORT: u16 = 6379;

/// The first administrator's data.
#[derive(Clone, Debug)]
pub struct FirstAdmin {
    pub username: String,
    pub email: String,
    /// `None`: generate one and print it once.
    pub password: Option<Secret<String>>,
}

/// Lifetimes; see "The clocks" in the product description.
#[derive(Clone, Debug)]
pub struct Clocks {
    pub session_idle_timeout: Duration,
    pub session_lifetime: Duration,
    pub remember_lifetime: Duration,
    pub ping_interval: Duration,
    pub access_token: Duration,
    pub refresh_threshold: Duration,
    pub refresh_token: Duration,
    pub login_lifetime: Duration,
    /// Zero: strict one-time use.
    pub refresh_grace: Duration,
    pub personal_token: Duration,
}

/// Parameters of Argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    /// KiB.
    pub memory: u32,
    pub passes: u32,
    pub lanes: u32,
}

/// How JWTs are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl JwtAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// As in the setting, and in `alg` (RFC 7518, 3.1; RFC 8037, 3.1).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub database: DatabaseUrl,
    pub redis_url: Option<Secret<String>>,
    pub data_dir: PathBuf,
    pub bind: SocketAddr,
    pub public_url: Option<Url>,
    pub cookie_domain: Option<String>,
    pub trusted_proxies: Vec<IpNet>,
    pub workers: usize,
    /// Decoded; empty: one is generated into the data dir.
    pub app_keys: Vec<Secret<Vec<u8>>>,
    pub first_admin: FirstAdmin,
    /// Whether strangers may make an account for themselves.
    pub registration_open: bool,
    pub clocks: Clocks,
    pub jwt_algorithm: JwtAlgorithm,
    pub jwt_audience: Option<String>,
    pub argon2: Argon2Cost,
    pub password_min_length: usize,
    pub revocation_max_lag: Duration,
    pub audit_retention: Duration,
    /// As browsers write them in `Origin`.
    pub cors_origins: Vec<String>,
    pub rate_limits: bool,
    /// Where metrics are served, if anywhere.
    pub metrics_bind: Option<SocketAddr>,
    pub log: String,
    /// Name, value in force (secrets hidden) and where it came from.
    pub shown: Vec<(&'static str, String, String)>,
    /// Variables that may have been meant for settings.
    pub doubts: Vec<String>,
}

impl Config {
    /// Reads the settings from `file` (or `gapura.toml` if it exists) and the process's environment.
    ///
    /// # Errors
    /// Every problem found, a sentence each.
    pub fn load(file: Option<&Path>) -> Result<Self, Vec<String>> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        });
        let default = Path::new("gapura.toml");
        let file = file.or_else(|| default.exists().then_some(default));
        let text = match file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                read.map_err(|error| vec![format!("{}: {error}", path.display())])?
            }
            None => String::new(),
        };
        let config = Self::from_sources(&text, environment)?;
        let key = config
            .shown
            .iter()
            .find(|shown| shown.0 == "GAPURA_APP_KEY");
        match file {
            Some(path) if key.is_some_and(|key| key.2 == "file") && is_open_to_others(path) => {
                Err(vec![format!(
                    "{} holds GAPURA_APP_KEY and can be read by others; run `chmod 600` on it, and consider the key leaked",
                    path.display()
                )])
            }
            _ => Ok(config),
        }
    }

    /// As [`Config::load`], from the text of a file and given variables.
    ///
    /// # Errors
    /// Every problem found, a sentence each.
    pub fn from_sources(
        file: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<String>> {
        let mut raw = Raw::default();
        raw.read_file(file);
        raw.read_environment(environment);
        let config = raw.parse();
        if raw.problems.is_empty() {
            Ok(config)
        } else {
            Err(raw.problems)
        }
    }

    /// The directory that grows on this node, if one does.
    pub fn grows_in(&self) -> Option<&Path> {
        match &self.database {
            DatabaseUrl::Sqlite(file) => match file.parent() {
                Some(parent) if parent != Path::new("") => Some(parent),
                _ => Some(Path::new(".")),
            },
            DatabaseUrl::Postgres(_) => self.redis_url.is_none().then_some(&self.data_dir),
        }
    }

    /// Whether what this peer says of others is believed.
    pub fn is_trusted_proxy(&self, peer: &IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(peer))
    }

    /// Whether browsers reach us by https.
    pub fn is_https(&self) -> bool {
        let url = self.public_url.as_ref();
        url.is_some_and(|url| url.scheme() == "https")
    }

    /// `iss` of the JWTs.
    pub fn issuer(&self) -> String {
        match &self.public_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.bind),
        }
    }

    /// `aud` of the JWTs.
    pub fn audience(&self) -> String {
        self.jwt_audience.clone().unwrap_or_else(|| self.issuer())
    }
}

/// Settings as text, with where each came from, and what is wrong with them.
#[derive(Default)]
struct Raw {
    values: BTreeMap<&'static str, (String, String)>,
    problems: Vec<String>,
    shown: Vec<(&'static str, String, String)>,
    doubts: Vec<String>,
}

impl Raw {
    fn read_file(&mut self, text: &str) {
        let table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                // Without the line itself, which error's own text quotes: it may hold a secret.
                let at = error.span().map_or(0, |span| span.start).min(text.len());
                let line = text.as_bytes()[..at]
                    .iter()
                    .filter(|byte| **byte == b'\n')
                    .count()
                    + 1;
                let message = error.message().lines().next().unwrap_or_default();
                self.problems.push(format!(
                    "the settings file is not valid TOML: line {line}: {message}"
                ));
                return;
            }
        };
        for (key, value) in table {
            let upper = key.to_ascii_uppercase();
            let prefixed = format!("GAPURA_{upper}");
            let known = SETTINGS
                .iter()
                .find(|s| s.name == prefixed || s.name == upper);
            let Some(known) = known else {
                self.problems.push(format!(
                    "`{key}` in the settings file is not a setting{}",
                    nearest(&prefixed)
                ));
                continue;
            };
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(on) => if on { "on" } else { "off" }.to_owned(),
                toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                    let items: Vec<_> = items.iter().filter_map(|item| item.as_str()).collect();
                    items.join(",")
                }
                _ => {
                    self.problems.push(format!(
                        "`{key}` in the settings file must be text, a number or a list of texts"
                    ));
                    continue;
                }
            };
            self.values.insert(known.name, (text, "file".to_owned()));
        }
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let mut older = Vec::new();
        for (name, value) in environment {
            if let Some(known) = SETTINGS.iter().find(|s| s.name == name) {
                self.values
                    .insert(known.name, (value, "environment".to_owned()));
            } else if name.starts_with("GAPURA_") && !name.starts_with("GAPURA_TEST_") {
                self.problems
                    .push(format!("{name} is not a setting{}", nearest(&name)));
            } else if let Some(alias) = OLDER_NAMES.iter().find(|alias| alias.0 == name) {
                older.push((*alias, value));
            } else if let Some(meant) = ["DATABASE_URL", "REDIS_URL"]
                .into_iter()
                .find(|known| strsim::damerau_levenshtein(known, &name) <= 2)
            {
                self.doubts
                    .push(format!("{name} is not a setting; did you mean {meant}?"));
            }
        }
        for ((name, stands_for, unit), value) in older {
            let known = SETTINGS.iter().find(|s| s.name == stands_for);
            let Some(known) = known.filter(|known| !self.values.contains_key(known.name)) else {
                continue;
            };
            let origin = format!("environment ({name})");
            self.values
                .insert(known.name, (format!("{}{unit}", value.trim()), origin));
        }
    }

    /// The text of a setting, if set to anything.
    fn text(&mut self, name: &'static str, secret: bool) -> Option<String> {
        let set = self
            .values
            .get(name)
            .cloned()
            .filter(|(text, _)| !text.trim().is_empty());
        let default = SETTINGS
            .iter()
            .find(|s| s.name == name)
            .map_or("", |s| s.default);
        self.shown.push(match &set {
            Some((_, origin)) if secret => (name, "[hidden]".to_owned(), origin.clone()),
            Some((text, origin)) => (name, text.clone(), origin.clone()),
            None => (name, default.to_owned(), "default".to_owned()),
        });
        set.map(|(text, _)| text.trim().to_owned())
    }

    /// A setting read by `parse`, which says what is wrong with it.
    fn value<T>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(text) = self.text(name, false) else {
            return default;
        };
        parse(&text).unwrap_or_else(|problem| {
            self.problems.push(format!("{name} {problem}"));
            default
        })
    }

    fn duration(&mut self, name: &'static str) -> Duration {
        let default = SETTINGS.iter().find(|s| s.name == name);
        let default = default
            .and_then(|s| parse_duration(s.default).ok())
            .unwrap_or_default();
        self.value(name, default, parse_duration)
    }

    fn parse(&mut self) -> Config {
        let data_dir = self
            .text("GAPURA_DATA_DIR", false)
            .map_or_else(|| PathBuf::from("data"), PathBuf::from);
        let database = self.database(&data_dir);
        let redis_url = self.redis_url();
        let bind = self.value(
            "GAPURA_BIND",
            SocketAddr::from(([127, 0, 0, 1], 8080)),
            parse_address,
        );
        let public_url = self.value("GAPURA_PUBLIC_URL", None, |text| {
            parse_public_url(text).map(Some)
        });
        let cookie_domain = self.text("GAPURA_COOKIE_DOMAIN", false);
        let trusted_proxies = self.value("GAPURA_TRUSTED_PROXIES", Vec::new(), parse_networks);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.value("GAPURA_WORKERS", cores, |text| at_least(text, 1));
        let app_keys = self.app_keys();
        let first_admin = FirstAdmin {
            username: self
                .text("GAPURA_ADMIN_USERNAME", false)
                .unwrap_or_else(|| "admin".to_owned()),
            email: self
                .text("GAPURA_ADMIN_EMAIL", false)
                .unwrap_or_else(|| "admin@localhost".to_owned()),
            password: self.text("GAPURA_ADMIN_PASSWORD", true).map(Secret::new),
        };
        let registration_open = self.value("GAPURA_REGISTRATION", false, |text| match text {
            "open" => Ok(true),
            "closed" => Ok(false),
            _ => Err(format!("must be `open` or `closed`, not `{text}`")),
        });
        let clocks = Clocks {
            session_idle_timeout: self.duration("GAPURA_SESSION_IDLE_TIMEOUT"),
            session_lifetime: self.duration("GAPURA_SESSION_LIFETIME"),
            remember_lifetime: self.duration("GAPURA_REMEMBER_LIFETIME"),
            ping_interval: self.duration("GAPURA_ACTIVITY_PING_INTERVAL"),
            access_token: self.duration("GAPURA_ACCESS_TOKEN_LIFETIME"),
            refresh_threshold: self.duration("GAPURA_AUTO_REFRESH_THRESHOLD"),
            refresh_token: self.duration("GAPURA_REFRESH_TOKEN_LIFETIME"),
            login_lifetime: self.duration("GAPURA_LOGIN_LIFETIME"),
            refresh_grace: self.duration("GAPURA_REFRESH_GRACE"),
            personal_token: self.duration("GAPURA_PERSONAL_TOKEN_LIFETIME"),
        };
        let jwt_algorithm = self.value("GAPURA_JWT_ALGORITHM", JwtAlgorithm::Hs256, |text| {
            JwtAlgorithm::named(text)
                .ok_or_else(|| format!("must be HS256, RS256, ES256 or EdDSA, not `{text}`"))
        });
        let config = Config {
            jwt_algorithm,
            jwt_audience: self.text("GAPURA_JWT_AUDIENCE", false),
            argon2: self.value(
                "GAPURA_ARGON2",
                Argon2Cost {
                    memory: 19_456,
                    passes: 2,
                    lanes: 1,
                },
                parse_argon2,
            ),
            password_min_length: self
                .value("GAPURA_PASSWORD_MIN_LENGTH", 12, |text| at_least(text, 8)),
            revocation_max_lag: self.duration("GAPURA_REVOCATION_MAX_LAG"),
            audit_retention: self.duration("GAPURA_AUDIT_RETENTION"),
            cors_origins: self.value("GAPURA_CORS_ORIGINS", Vec::new(), parse_origins),
            rate_limits: self.value("GAPURA_RATE_LIMITS", true, |text| match text {
                "on" => Ok(true),
                "off" => Ok(false),
                _ => Err("must be `on` or `off`".to_owned()),
            }),
            metrics_bind: self.value(
                "GAPURA_METRICS_BIND",
                Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
                |text| match text {
                    "off" => Ok(None),
                    _ => parse_address(text).map(Some),
                },
            ),
            log: self.value("GAPURA_LOG", "info".to_owned(), |text| {
                let filter = tracing_subscriber::EnvFilter::try_new(text);
                filter
                    .map(|_| text.to_owned())
                    .map_err(|error| format!("is not a filter: {error}"))
            }),
            database,
            redis_url,
            data_dir,
            bind,
            public_url,
            cookie_domain,
            trusted_proxies,
            workers,
            app_keys,
            first_admin,
            registration_open,
            clocks,
            shown: Vec::new(),
            doubts: Vec::new(),
        };
        self.check_combinations(&config);
        Config {
            shown: std::mem::take(&mut self.shown),
            doubts: std::mem::take(&mut self.doubts),
            ..config
        }
    }

    fn database(&mut self, data_dir: &Path) -> DatabaseUrl {
        let embedded = DatabaseUrl::Sqlite(data_dir.join("gapura.db"));
        let Some(text) = self.server("DATABASE_URL", POSTGRES_PORT) else {
            return embedded;
        };
        if let Some(path) = text
            .strip_prefix("sqlite://")
            .filter(|path| !path.is_empty() && !path.ends_with('/') && *path != ":memory:")
        {
            DatabaseUrl::Sqlite(PathBuf::from(path))
        } else if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            if let Err(problem) = check_postgres_url(&text) {
                self.problems.push(format!("DATABASE_URL {problem}"));
            }
            DatabaseUrl::Postgres(Secret::new(text))
        } else {
            self.problems
                .push("DATABASE_URL must be sqlite://path, of a file, or postgres://…".to_owned());
            embedded
        }
    }

    /// Before the host, or among libpq's parameters.
    fn may_hold_password(&self, name: &str) -> bool {
        let value = self.values.get(name);
        value.is_some_and(|(text, _)| text.contains('@') || text.contains("password"))
    }

    /// The address of a server; where it may hold a password, only its place is shown.
    fn server(&mut self, name: &'static str, port: u16) -> Option<String> {
        let hide = self.may_hold_password(name);
        let text = self.text(name, hide)?;
        let (scheme, _) = text.split_once("://").unwrap_or_default();
        let place = place_of(&text, port).filter(|_| hide && scheme != "sqlite");
        if let (Some(place), Some(shown)) = (place, self.shown.last_mut()) {
            shown.1 = format!("{scheme}://[hidden]@{place}");
        }
        Some(text)
    }

    fn redis_url(&mut self) -> Option<Secret<String>> {
        let text = self.server("REDIS_URL", REDIS_PORT)?;
        if !text.starts_with("redis://") && !text.starts_with("rediss://") {
            self.problems
                .push("REDIS_URL must be redis://… or rediss://…".to_owned());
            return None;
        }
        Some(Secret::new(text))
    }

    fn app_keys(&mut self) -> Vec<Secret<Vec<u8>>> {
        let Some(text) = self.text("GAPURA_APP_KEY", true) else {
            return Vec::new();
        };
        let mut keys: Vec<Secret<Vec<u8>>> = Vec::new();
        for part in text.split(',').map(str::trim) {
            match decode_app_key(part) {
                Ok(key) if keys.contains(&key) => {
                    self.problems
                        .push("GAPURA_APP_KEY names the same key twice; leave one out".to_owned());
                }
                Ok(key) => keys.push(key),
                Err(problem) => self.problems.push(format!("GAPURA_APP_KEY {problem}")),
            }
        }
        keys
    }

    fn check_combinations(&mut self, config: &Config) {
        let clocks = &config.clocks;
        let names_the_key = |problem: &String| problem.starts_with("GAPURA_APP_KEY");
        let has_bad_key = self.problems.iter().any(names_the_key);
        let mut refuse = |wrong: bool, why: &str| {
            if wrong {
                self.problems.push(why.to_owned());
            }
        };
        let lifetimes = [
            clocks.session_idle_timeout,
            clocks.session_lifetime,
            clocks.remember_lifetime,
            clocks.ping_interval,
            clocks.access_token,
            clocks.refresh_threshold,
            clocks.refresh_token,
            clocks.login_lifetime,
            clocks.personal_token,
            config.revocation_max_lag,
            config.audit_retention,
        ];
        refuse(
            lifetimes.iter().any(Duration::is_zero),
            "only GAPURA_REFRESH_GRACE may be 0s; every other duration must be at least 1s",
        );
        refuse(
            clocks.remember_lifetime > clocks.session_lifetime,
            "GAPURA_REMEMBER_LIFETIME is longer than GAPURA_SESSION_LIFETIME: a login never outlives its hard lifetime, so remembering it longer has no effect",
        );
        refuse(
            clocks.session_idle_timeout > clocks.session_lifetime,
            "GAPURA_SESSION_IDLE_TIMEOUT is longer than GAPURA_SESSION_LIFETIME, so it could never be reached",
        );
        refuse(
            clocks.ping_interval >= clocks.session_idle_timeout,
            "GAPURA_ACTIVITY_PING_INTERVAL must be shorter than GAPURA_SESSION_IDLE_TIMEOUT, or active people would be signed out between two pings",
        );
        refuse(
            clocks.refresh_threshold >= clocks.access_token,
            "GAPURA_AUTO_REFRESH_THRESHOLD must be shorter than GAPURA_ACCESS_TOKEN_LIFETIME, or every request would refresh",
        );
        refuse(
            clocks.access_token > clocks.refresh_token,
            "GAPURA_ACCESS_TOKEN_LIFETIME is longer than GAPURA_REFRESH_TOKEN_LIFETIME, so a refresh token would die before it is needed",
        );
        refuse(
            clocks.refresh_token > clocks.login_lifetime,
            "GAPURA_REFRESH_TOKEN_LIFETIME is longer than GAPURA_LOGIN_LIFETIME, which it cannot outlive",
        );
        refuse(
            clocks.refresh_grace > Duration::from_secs(300),
            "GAPURA_REFRESH_GRACE may be 5m at most: within it a stolen token is not noticed",
        );
        let postgres = matches!(config.database, DatabaseUrl::Postgres(_));
        let no_key = config.app_keys.is_empty() && !has_bad_key;
        refuse(
            postgres && no_key,
            "PostgreSQL needs GAPURA_APP_KEY: nodes that share a database share the key (make one with `openssl rand -base64 32`)",
        );
        refuse(
            !postgres && no_key && config.redis_url.is_some() && config.is_https(),
            "an https public URL and REDIS_URL need GAPURA_APP_KEY: a key generated on this node would not be known to the others (make one with `openssl rand -base64 32`)",
        );
        refuse(
            config
                .first_admin
                .password
                .as_ref()
                .is_some_and(|password| {
                    password.expose().chars().count() < config.password_min_length
                }),
            "GAPURA_ADMIN_PASSWORD is shorter than GAPURA_PASSWORD_MIN_LENGTH",
        );
        if let Some(domain) = &config.cookie_domain {
            let host = config
                .public_url
                .as_ref()
                .and_then(Url::host_str)
                .unwrap_or_default();
            let domain = domain.trim_start_matches('.');
            // Of what else may stand in a host some ends the attribute.
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            let is_domain = !domain.is_empty() && domain.chars().all(is_plain);
            refuse(
                !is_domain || (host != domain && !host.ends_with(&format!(".{domain}"))),
                "GAPURA_COOKIE_DOMAIN must be the host of GAPURA_PUBLIC_URL or a parent of it",
            );
        }
    }
}

/// Host and port of a server, and its database, of an address that may hold a password. `None` where
/// it cannot be told for certain what is the password.
pub fn place_of(url: &str, default_port: u16) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = address.split_once('/').unwrap_or((address, ""));
    // A password that has one of / ? # @ and is not encoded would stand elsewhere, too.
    let host = match rest.matches('@').count() {
        0 => authority,
        1 => authority.split_once('@')?.1,
        _ => return None,
    };
    if rest.contains('#') {
        return None;
    }
    let (mut host, mut database) = (host.to_owned(), database.to_owned());
    let mut port = None;
    for (name, value) in url::form_urlencoded::parse(parameters.as_bytes()) {
        match &*name {
            "host" => host = value.into_owned(),
            "port" => port = Some(value.into_owned()),
            "dbname" => database = value.into_owned(),
            _ => {}
        }
    }
    let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
    // The directory of a socket has none, and of several hosts each has its own.
    if !has_port && !host.starts_with('/') && !host.contains(',') {
        let port = port.unwrap_or_else(|| default_port.to_string());
        host = format!("{host}:{port}");
    }
    Some(match database.as_str() {
        "" => host,
        _ => format!("{host}/{database}"),
    })
}

/// `20h`, `10m`, `90s`, `7d`.
///
/// # Errors
/// What is wrong with it, to go on after what it is.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("must be a whole number with a unit, as in 90s, 10m, 20h or 7d, not `{text}`");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - 1];
    if number.starts_with('+') {
        return Err(wrong());
    }
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let seconds = u64::from(number) * seconds;
    if seconds > 3650 * 86_400 {
        return Err("is longer than ten years".to_owned());
    }
    Ok(Duration::from_secs(seconds))
}

/// Refuses an address that libpq would not understand, since it says so by quoting from it: the
/// password, often.
fn check_postgres_url(url: &str) -> Result<(), &'static str> {
    let mut after_percent = url.split('%').skip(1);
    let is_encoded = after_percent.all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00")
    });
    if !is_encoded || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has a character that must be percent-encoded: % is %25, a space %20");
    }
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.matches('@').count() > 1 {
        return Err("has more than one @ before the host: in a password it is %40");
    }
    let (_, parameters) = rest.split_once('?').unwrap_or_default();
    if !parameters.is_empty() && !parameters.split('&').all(|part| part.contains('=')) {
        return Err("has a parameter without a value after the ?");
    }
    Ok(())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse();
    address.map_err(|_| "must be an address and a port, as in 127.0.0.1:8080".to_owned())
}

fn parse_public_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    let plain = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !plain {
        return Err("must be a scheme and a host, as in https://login.example.org".to_owned());
    }
    Ok(url)
}

fn parse_origins(text: &str) -> Result<Vec<String>, String> {
    let parse = |text: &str| match (text, Url::parse(text)) {
        ("*", _) => {
            Err("must name each origin: credentials are in play, so `*` is refused".to_owned())
        }
        (_, Ok(url)) if url.origin().ascii_serialization() == text => Ok(text.to_owned()),
        _ => Err(format!(
            "must be origins as browsers write them, as in https://app.example.org, not `{text}`"
        )),
    };
    text.split(',').map(|part| parse(part.trim())).collect()
}

fn parse_networks(text: &str) -> Result<Vec<IpNet>, String> {
    let parse = |part: &str| {
        let part = part.trim();
        let net = part
            .parse::<IpNet>()
            .or_else(|_| part.parse().map(|ip: std::net::IpAddr| ip.into()));
        net.map_err(|_| format!("has `{part}`, which is not a network as in 10.0.0.0/8"))
    };
    text.split(',').map(parse).collect()
}

fn at_least(text: &str, least: usize) -> Result<usize, String> {
    let number = text
        .parse::<usize>()
        .ok()
        .filter(|number| (least..=1024).contains(number));
    number.ok_or_else(|| format!("must be a whole number from {least} to 1024"))
}

/// `m=19456,t=2,p=1`. The floor is the weakest of the settings that the OWASP Password Storage
/// Cheat Sheet calls equivalent: 7 MiB with five passes, up to 46 MiB with one.
fn parse_argon2(text: &str) -> Result<Argon2Cost, String> {
    let wrong = || "must look like m=19456,t=2,p=1".to_owned();
    let mut cost = Argon2Cost {
        memory: 0,
        passes: 0,
        lanes: 0,
    };
    for part in text.split(',') {
        let (name, number) = part.trim().split_once('=').ok_or_else(wrong)?;
        let number = number.parse().map_err(|_| wrong())?;
        match name {
            "m" => cost.memory = number,
            "t" => cost.passes = number,
            "p" => cost.lanes = number,
            _ => return Err(wrong()),
        }
    }
    let floor = [
        (47_104, 1),
        (19_456, 2),
        (12_288, 3),
        (9_216, 4),
        (7_168, 5),
    ];
    let enough = floor
        .iter()
        .any(|&(memory, passes)| cost.memory >= memory && cost.passes >= passes);
    if !enough || cost.lanes == 0 {
        return Err(
            "is below the floor that OWASP recommends (m=19456,t=2,p=1 or its equivalents)"
                .to_owned(),
        );
    }
    if cost.memory > 1 << 21 || cost.passes > 64 || cost.lanes > 64 {
        return Err("is too costly: at most m=2097152, t=64, p=64".to_owned());
    }
    Ok(cost)
}

/// Whether anybody but its owner may do anything with a file.
pub fn is_open_to_others(path: &Path) -> bool {
    let data = std::fs::metadata(path);
    data.is_ok_and(|data| data.permissions().mode() & 0o077 != 0)
}

/// Refuses what was not made at random, by what people write when they make up a key: a pattern,
/// a sentence with the word "secret", an example from a document.
///
/// # Errors
/// What is wrong with it.
pub fn check_symmetric_key(key: &[u8]) -> Result<(), &'static str> {
    /// In keys that are text: of the documentation of JWT libraries, of templates of `.env` files.
    const WORDS: [&str; 6] = [
        "secret", "change", "password", "example", "default", "gapura",
    ];
    /// RFC 7515, A.1.1; the HMAC key in the examples of every JOSE library.
    const RFC_7515: &str =
        "AyM1SysPpbyDfwZld3umj1qzKObwVMkoqQ+EstJQLr/T+1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==";
    if key.len() < 32 {
        return Err("must have 32 bytes or more");
    }
    let distinct = key.iter().collect::<std::collections::BTreeSet<_>>().len();
    // Of two neighbours drawn at random one in 85 is as near.
    let near = |pair: &&[u8]| pair[0].abs_diff(pair[1]) <= 1;
    let nearby = key.windows(2).filter(near).count();
    let rows = key.windows(3).filter(|row| {
        let step = |at: usize| row[at + 1].wrapping_sub(row[at]);
        step(0) == step(1)
    });
    if distinct < 12 || nearby * 3 > key.len() || rows.count() * 3 > key.len() {
        return Err("is too regular to be a random key");
    }
    let text = std::str::from_utf8(key).unwrap_or_default();
    let text = text.to_ascii_lowercase();
    if WORDS.iter().any(|word| text.contains(word)) || BASE64_STANDARD.encode(key) == RFC_7515 {
        return Err("is made of words or known from a document, and so is no secret");
    }
    Ok(())
}

/// Decodes an app key and refuses one that cannot be a key.
pub fn decode_app_key(text: &str) -> Result<Secret<Vec<u8>>, String> {
    let key = BASE64_STANDARD
        .decode(text)
        .map_err(|_| "must be base64".to_owned())?;
    check_symmetric_key(&key)
        .map_err(|problem| format!("{problem} (make one with `openssl rand -base64 32`)"))?;
    Ok(Secret::new(key))
}

/// The setting that was probably meant.
fn nearest(name: &str) -> String {
    let distance = |setting: &&Setting| strsim::damerau_levenshtein(setting.name, name);
    match SETTINGS.iter().min_by_key(distance) {
        Some(setting) if distance(&setting) <= 8 => format!("; did you mean {}?", setting.name),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_sources("", settings)
    }

    #[test]
    fn defaults_are_the_product() {
        let clocks = load(&[]).unwrap().clocks;
        assert_eq!(clocks.session_idle_timeout, Duration::from_secs(20 * 3600));
        assert_eq!(clocks.session_lifetime, Duration::from_secs(24 * 3600));
        assert_eq!(clocks.remember_lifetime, Duration::from_secs(12 * 3600));
        assert_eq!(clocks.access_token, Duration::from_secs(30 * 60));
        assert_eq!(clocks.refresh_grace, Duration::from_secs(10));
    }

    #[test]
    fn all_problems_are_told_at_once_and_a_typo_is_recognised() {
        let problems = load(&[
            ("GAPURA_SESSION_LIFETIM", "24h"),
            ("GAPURA_BIND", "nowhere"),
            ("GAPURA_REFRESH_GRACE", "10"),
            ("GAPURA_REMEMBER_LIFETIME", "25h"),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert!(problems[0].contains("did you mean GAPURA_SESSION_LIFETIME?"));
        assert!(problems[2].contains("with a unit"));
    }

    #[test]
    fn the_environment_wins_over_the_file_and_older_names_come_last() {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let file = "session_lifetime = \"23h\"\naccess_token_lifetime = \"20m\"";
        let environment = [
            set("GAPURA_SESSION_LIFETIME", "22h"),
            set("ACCESS_TOKEN_EXPIRE_MINUTES", "10"),
            set("REFRESH_TOKEN_EXPIRE_DAYS", "3"),
        ];
        let clocks = Config::from_sources(file, environment).unwrap().clocks;
        assert_eq!(clocks.session_lifetime, Duration::from_secs(22 * 3600));
        assert_eq!(clocks.access_token, Duration::from_secs(20 * 60));
        assert_eq!(clocks.refresh_token, Duration::from_secs(3 * 86_400));
    }

    #[test]
    fn postgres_without_an_app_key_and_weak_keys_are_refused() {
        assert!(load(&[("DATABASE_URL", "postgres://localhost/gapura")]).is_err());
        assert!(load(&[("GAPURA_APP_KEY", "c2hvcnQ=")]).is_err());
        assert!(load(&[("GAPURA_APP_KEY", &BASE64_STANDARD.encode([7; 32]))]).is_err());
    }

    #[test]
    fn keys_that_somebody_could_know_are_refused() {
        let counted: Vec<u8> = (0..32).collect();
        let backwards: Vec<u8> = (0..48)
            .rev()
            .map(|number: u8| number.wrapping_mul(3))
            .collect();
        let pattern = b"abcdefgh".repeat(8);
        for weak in [
            &counted[..],
            &backwards,
            &pattern,
            &[0; 64],
            b"a-string-secret-at-least-256-bits-long",
            b"Please-CHANGE-me-before-production-2026!",
            b"0123456789012345678901234567890123456789",
            b"0123456789abcdef0123456789abcdef",
            b"abcdefghijklmnopqrstuvwxyz012345",
            b"ZYXWVUTSRQPONMLKJIHGFEDCBA987654",
        ] {
            let key = BASE64_STANDARD.encode(weak);
            let problems = load(&[("GAPURA_APP_KEY", &key)]).unwrap_err();
            assert!(
                problems[0].contains("openssl rand -base64 32"),
                "{problems:?}"
            );
        }
        let published = "AyM1SysPpbyDfwZld3umj1qzKObwVMkoqQ+EstJQLr/T+1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==";
        assert!(load(&[("GAPURA_APP_KEY", published)]).is_err());
        let good = "w7sUXEJ1pTnKAyx9b2f4mSgH0vRq5oZlYdCeiN8aPuM=";
        assert!(load(&[("GAPURA_APP_KEY", good)]).is_ok());
        let twice = format!("{good}, {good}");
        let problems = load(&[("GAPURA_APP_KEY", &twice)]).unwrap_err();
        assert_eq!(
            problems,
            ["GAPURA_APP_KEY names the same key twice; leave one out"]
        );
        // Text of good chance is a key like any other.
        let hex = BASE64_STANDARD
            .encode("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
        assert!(load(&[("GAPURA_APP_KEY", &hex)]).is_ok());
    }

    #[test]
    fn an_algorithm_that_is_not_offered_is_refused() {
        for name in ["none", "HS512", "rs256", "EDDSA"] {
            assert!(load(&[("GAPURA_JWT_ALGORITHM", name)]).is_err(), "{name}");
        }
        for algorithm in JwtAlgorithm::ALL {
            let config = load(&[("GAPURA_JWT_ALGORITHM", algorithm.name())]).unwrap();
            assert_eq!(config.jwt_algorithm, algorithm);
        }
    }

    #[test]
    fn an_address_that_libpq_would_quote_from_is_refused_without_a_word_of_it() {
        let key = "w7sUXEJ1pTnKAyx9b2f4mSgH0vRq5oZlYdCeiN8aPuM=";
        let load = |url| load(&[("DATABASE_URL", url), ("GAPURA_APP_KEY", key)]);
        for wrong in [
            "postgres://u:hush%zz@h/d",
            "postgres://u:hush%@h/d",
            "postgres://u:hush%00@h/d",
            "postgres://u:hu sh@h/d",
            "postgres://u:hu@hush@h/d",
            "postgres://u@h/d?password=hush%g1",
            "postgres://u@h/d?hush",
            "postgresql://u@h?user=u&hush",
        ] {
            let problems = load(wrong).unwrap_err();
            assert!(problems[0].starts_with("DATABASE_URL has"), "{problems:?}");
            assert!(!problems.join(" ").contains("hush"), "{problems:?}");
        }
        for right in [
            "postgres://u:p%40ss%25@h:5433/d",
            "postgres:///d?host=/run/postgresql&user=u@example.org",
            "postgres://u@one,two:5433/d?target_session_attrs=read-write",
            "postgresql://h",
        ] {
            assert!(load(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let config = load(&[
            ("GAPURA_ADMIN_PASSWORD", "correct horse battery"),
            ("DATABASE_URL", "postgres://u:hush@h/d"),
            (
                "GAPURA_APP_KEY",
                "w7sUXEJ1pTnKAyx9b2f4mSgH0vRq5oZlYdCeiN8aPuM=",
            ),
        ])
        .unwrap();
        let debug = format!("{config:?}");
        assert!(
            !debug.contains("correct horse") && !debug.contains("hush"),
            "{debug}"
        );
    }
}
