CREATE INDEX audit_events_by_time ON audit_events (at);
DROP INDEX audit_events_by_kind;
