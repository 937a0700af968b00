-- Failed logins of an account since its last success: after a hundred it can be entered only from an
-- address that has entered it before.

ALTER TABLE users ADD COLUMN failures_in_a_row INTEGER NOT NULL DEFAULT 0;
