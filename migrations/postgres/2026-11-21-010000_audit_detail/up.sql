-- What an audit event is about where the rest of its line does not tell: a token's name, a role.

ALTER TABLE audit_events ADD COLUMN detail TEXT;
