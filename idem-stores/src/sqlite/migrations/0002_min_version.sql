-- The tables of idem-rs, version 2: they say who may use them, so that programs of two versions can
-- share them. `SqliteStore::migrate` runs this once, in a transaction. It may as well be run by
-- hand, while programs that know version 1 use the tables: those go on, and only cannot be started
-- again.

-- The oldest version that a program must know to use these tables.
ALTER TABLE idem_schema ADD COLUMN min_version INTEGER NOT NULL DEFAULT 1;

UPDATE idem_schema SET version = 2;
