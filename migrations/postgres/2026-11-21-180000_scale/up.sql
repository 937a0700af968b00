-- What is asked while a page waits, or again and again behind it, is found by an index however many logins there are: the living
-- logins of a person, newest first; how many live, by kind; those that were over within a time; personal tokens that are to be
-- forgotten; and the administrators among many people. Not, as with SQLite, which tokens are still taken: each rotation changes that,
-- and with an index on it PostgreSQL does a third less of them.

CREATE INDEX logins_living ON logins (user_id, id) WHERE ended_at IS NULL;
CREATE INDEX logins_living_by_kind ON logins (kind, expires_at) WHERE ended_at IS NULL;
CREATE INDEX logins_by_end ON logins (COALESCE(ended_at, expires_at));
CREATE INDEX personal_tokens_by_expiry ON personal_tokens (expires_at);
CREATE INDEX personal_tokens_revoked ON personal_tokens (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX users_by_role ON users (role);
