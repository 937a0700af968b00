DROP FUNCTION advance_token;
