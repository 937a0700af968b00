-- The plain case of a rotation (rule 1: a live token of a living login) in one round trip, since each one costs more than
-- what the database does in it. Anything else is NULL and changes nothing: then `rotate` decides. Each statement in here sees
-- what was committed before it began, so what is read after the lock is what the one before left.

CREATE FUNCTION advance_token(
    presented BYTEA, of_purpose TEXT, of_login TEXT, made_by BIGINT, successor BYTEA, ends BIGINT, at BIGINT
) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    login logins;
    token rotating_tokens;
BEGIN
    SELECT * INTO login FROM logins
        WHERE id = (SELECT login_id FROM rotating_tokens WHERE id = presented) AND (of_login IS NULL OR id = of_login)
        FOR UPDATE;
    IF NOT FOUND OR login.ended_cause IS NOT NULL OR login.expires_at <= at THEN
        RETURN NULL;
    END IF;
    SELECT * INTO token FROM rotating_tokens
        WHERE id = presented AND purpose = of_purpose AND superseded_at IS NULL AND expires_at > at AND issued_at <= made_by;
    IF NOT FOUND
        OR EXISTS (SELECT FROM rotating_tokens WHERE parent_id = token.parent_id AND used_at IS NOT NULL)
        OR EXISTS (SELECT FROM users WHERE id = login.user_id AND disabled_at IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    ends := least(login.expires_at, ends);
    INSERT INTO rotating_tokens (id, login_id, purpose, parent_id, counter, issued_at, expires_at)
        VALUES (successor, login.id, of_purpose, presented, token.counter + 1, at, ends);
    UPDATE rotating_tokens
        SET used_at = at, superseded_at = at, successor_id = successor, successor_given_at = at, successors = token.successors + 1
        WHERE id = presented;
    RETURN ends;
END $$;
