-- The plain case of a rotation (rule 1: a live token of a living login) for all tokens that were presented together, in one
-- journey and one commit. What is answered has the end of each one's successor at its place, or NULL: then nothing was done
-- for it, and `rotate` decides. So it is, too, where somebody else is at work on the login: nobody waits here, and nobody can
-- wait in a circle. Each statement sees what was committed before it began, so the second sees what those who held the locks
-- before left.

CREATE FUNCTION advance_tokens(
    presented BYTEA[], of_purpose TEXT, of_logins TEXT[], made_by BIGINT[], successors BYTEA[], ends BIGINT[], at BIGINT[]
) RETURNS BIGINT[] LANGUAGE plpgsql
-- From what is asked for to its row by an index, one after the other, whatever the statistics say: a plan made while the tables
-- were empty stays for as long as a connection does.
SET join_collapse_limit = 1 SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    held TEXT[];
    done BIGINT[];
BEGIN
    SELECT array_agg(id) INTO held FROM (
        SELECT id FROM logins WHERE id IN (SELECT login_id FROM rotating_tokens WHERE id = ANY (presented))
        FOR UPDATE SKIP LOCKED
    ) AS locked;
    WITH asked AS (
        SELECT * FROM unnest(presented, of_logins, made_by, successors, ends, at)
            WITH ORDINALITY AS asked (token, of_login, made_before, successor, latest, moment, place)
    ), plain AS (
        -- Of several tokens of one login the first.
        SELECT DISTINCT ON (token.login_id)
            asked.place, asked.successor, asked.moment, least(logins.expires_at, asked.latest) AS until, token.id, token.login_id, token.counter
        FROM asked
        JOIN rotating_tokens AS token ON token.id = asked.token
        JOIN logins ON logins.id = token.login_id
        JOIN users ON users.id = logins.user_id
        WHERE logins.id = ANY (held)
            AND (asked.of_login IS NULL OR asked.of_login = token.login_id)
            -- A sum is no index's business: there is one by expiry, and nearly all are to expire later.
            AND logins.ended_cause IS NULL AND logins.expires_at + 0 > asked.moment
            AND users.disabled_at IS NULL
            AND token.purpose = of_purpose AND token.superseded_at IS NULL
            AND token.expires_at > asked.moment AND token.issued_at <= asked.made_before
            AND NOT EXISTS (SELECT FROM rotating_tokens AS kin WHERE kin.parent_id = token.parent_id AND kin.used_at IS NOT NULL)
        ORDER BY token.login_id, asked.place
    ), made AS (
        INSERT INTO rotating_tokens (id, login_id, purpose, parent_id, counter, issued_at, expires_at)
            SELECT successor, login_id, of_purpose, id, counter + 1, moment, until FROM plain
    ), moved AS (
        UPDATE rotating_tokens AS token
            SET used_at = plain.moment, superseded_at = plain.moment, successor_id = plain.successor,
                successor_given_at = plain.moment, successors = token.successors + 1
            FROM plain WHERE token.id = plain.id
    )
    SELECT array_agg(plain.until ORDER BY asked.place) INTO done FROM asked LEFT JOIN plain USING (place);
    RETURN done;
END $$;
