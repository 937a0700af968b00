-- People, their logins, the rotating tokens that carry a login on, the ends of logins as a feed
-- that every node reads, the keys of the installation, the audit log, and the embedded keystore.
-- Times are milliseconds since 1970 in UTC. Ids are UUIDv7, made by the program.

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL UNIQUE,
    email_verified BOOLEAN NOT NULL DEFAULT FALSE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    locale TEXT,
    theme TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    must_change_password BOOLEAN NOT NULL DEFAULT FALSE,
    disabled_at BIGINT,
    created_at BIGINT NOT NULL
);

CREATE TABLE logins (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    kind TEXT NOT NULL,
    device TEXT NOT NULL,
    ip TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    auth_time BIGINT NOT NULL,
    last_activity_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT,
    ended_cause TEXT
);
CREATE INDEX logins_by_user ON logins (user_id, started_at);
CREATE INDEX logins_by_expiry ON logins (expires_at);

CREATE TABLE rotating_tokens (
    id BLOB NOT NULL PRIMARY KEY,
    login_id TEXT NOT NULL REFERENCES logins (id),
    purpose TEXT NOT NULL,
    parent_id BLOB,
    counter BIGINT NOT NULL,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    superseded_at BIGINT,
    successor_id BLOB,
    successor_given_at BIGINT,
    successors INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX rotating_tokens_by_login ON rotating_tokens (login_id);
CREATE INDEX rotating_tokens_by_parent ON rotating_tokens (parent_id);

CREATE TABLE revocations (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    cause TEXT NOT NULL,
    revoked_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX revocations_by_expiry ON revocations (expires_at);

CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    purpose TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    retired_at BIGINT
);

CREATE TABLE audit_events (
    id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    user_id TEXT,
    actor_id TEXT,
    login_id TEXT,
    device TEXT,
    ip TEXT,
    cause TEXT
);
CREATE INDEX audit_events_by_user ON audit_events (user_id, id);
CREATE INDEX audit_events_by_time ON audit_events (at);

CREATE TABLE keystore (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX keystore_by_expiry ON keystore (expires_at);
