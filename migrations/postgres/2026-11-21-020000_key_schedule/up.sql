-- When a signing key begins to sign: after every node has read it. It ends when the next begins, so
-- that need not be stored.
-- contract: keys.retired_at, which no release has used

ALTER TABLE keys ADD COLUMN signs_from BIGINT NOT NULL DEFAULT 0;
UPDATE keys SET signs_from = created_at;
ALTER TABLE keys DROP COLUMN retired_at;
