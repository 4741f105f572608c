-- idem, schema version 1: the records, and which version the schema has.
--
-- The store runs this by itself, once (`migrate`), unless its URL says `migrate=off`. By hand:
--
--   psql --single-transaction --set ON_ERROR_STOP=1 --file 0001_records.sql
--
-- as an owner whose first schema in `search_path` is one that the application finds. Then the
-- application needs no more than:
--
--   GRANT SELECT, INSERT, UPDATE, DELETE ON idem_records TO application;
--   GRANT SELECT ON idem_schema TO application;

CREATE TABLE idem_records (
    -- When the lease of a running record is over.
    lease_until timestamptz NOT NULL,
    -- From here on there is no record, whether the row is still there or not.
    expires_at timestamptz NOT NULL,
    -- From here on the sweeper looks at the row: at `expires_at`, or a little later. Most
    -- completions leave it as it is, and so change no index.
    sweep_at timestamptz NOT NULL,
    -- Counted from 1.
    attempt integer NOT NULL,
    -- Whether somebody is told when the attempt ends.
    watched boolean NOT NULL DEFAULT false,
    -- SHA-256 over namespace, operation, scope and key.
    id bytea PRIMARY KEY,
    -- What a retry must be equal to.
    fingerprint bytea NOT NULL,
    -- The secret of the attempt that holds the record, or finished it. Null: abandoned.
    token bytea,
    -- Null: running.
    outcome bytea
);

CREATE INDEX idem_records_sweep_at ON idem_records (sweep_at);

CREATE TABLE idem_schema (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

INSERT INTO idem_schema (version) VALUES (1);
