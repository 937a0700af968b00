-- An administrator looks for a rare kind of event among everybody's. Ids are in order of time, so that a period is a range of
-- ids, and the index by time has nothing left to do.
-- contract: audit_events_by_time, which no release has used

CREATE INDEX audit_events_by_kind ON audit_events (kind, id);
DROP INDEX audit_events_by_time;
