-- Takes everything back, newest first.
DROP TABLE keystore;
DROP TABLE audit_events;
DROP TABLE keys;
DROP TABLE revocations;
DROP TABLE rotating_tokens;
DROP TABLE logins;
DROP TABLE users;
