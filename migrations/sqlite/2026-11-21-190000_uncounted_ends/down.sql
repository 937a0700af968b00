DROP TABLE uncounted_ends;
