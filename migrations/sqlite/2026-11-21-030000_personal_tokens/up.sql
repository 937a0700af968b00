-- Personal tokens: for programs, long-lived, and never stored in a form that works. A token that
-- came with a login (login_id) ends with it.

CREATE TABLE personal_tokens (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    login_id TEXT REFERENCES logins (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    mac BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_used_at BIGINT,
    last_used_ip TEXT,
    revoked_at BIGINT
);
CREATE INDEX personal_tokens_by_user ON personal_tokens (user_id, id);
CREATE INDEX personal_tokens_by_login ON personal_tokens (login_id);
