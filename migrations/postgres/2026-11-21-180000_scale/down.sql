DROP INDEX users_by_role;
DROP INDEX personal_tokens_revoked;
DROP INDEX personal_tokens_by_expiry;
DROP INDEX logins_by_end;
DROP INDEX logins_living_by_kind;
DROP INDEX logins_living;
