-- What happens too often to be an event of the audit log (a refresh, a forged token), as one number
-- a day. Days are counted from 1970 in UTC.

CREATE TABLE daily_figures (
    day BIGINT NOT NULL,
    name TEXT NOT NULL,
    total BIGINT NOT NULL,
    PRIMARY KEY (day, name)
);
