ALTER TABLE users DROP COLUMN failures_in_a_row;
