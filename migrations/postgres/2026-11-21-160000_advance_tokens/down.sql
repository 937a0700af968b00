DROP FUNCTION advance_tokens;
