-- PostgreSQL gets a function here. In SQLite no statement travels, so there is nothing to save.

SELECT 1;
