-- idem, schema version 2: the tables say who may use them, so that programs of two versions can
-- share them. No record is touched, and none is waited for. Programs that know version 1 go on
-- using the tables, and only cannot be started again.
--
-- The store runs this by itself, once, as it does 0001_records.sql. By hand, as the owner:
--
--   psql --single-transaction --set ON_ERROR_STOP=1 --file 0002_min_version.sql

-- The oldest version that a program must know to use these tables.
ALTER TABLE idem_schema ADD COLUMN min_version integer NOT NULL DEFAULT 1;

INSERT INTO idem_schema (version) VALUES (2);
