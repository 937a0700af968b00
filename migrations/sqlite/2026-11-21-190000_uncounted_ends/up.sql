-- Ends of logins that no node has counted yet: whoever ends one, a node or a command, leaves it here, and the node that
-- takes it away counts it. So each is in the metrics once, however many nodes there are.

CREATE TABLE uncounted_ends (
    login_id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    cause TEXT NOT NULL,
    lasted BIGINT NOT NULL,
    ended_at BIGINT NOT NULL
);
CREATE INDEX uncounted_ends_by_time ON uncounted_ends (ended_at);
