-- The tables of idem-rs, version 1. `SqliteStore::migrate` runs this once, in a transaction. It
-- may as well be run by hand, beside the application's own migrations.

CREATE TABLE idem_schema (
    -- Of these tables.
    version         INTEGER NOT NULL,
    -- What is added to the machine's time, in milliseconds. Tests move it; nothing else does.
    clock_offset_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE idem_records (
    -- SHA-256 of namespace, operation, scope and key.
    id          BLOB    NOT NULL PRIMARY KEY,
    fingerprint BLOB    NOT NULL,
    attempt     INTEGER NOT NULL,
    -- Who may change the record, or who finished it. NULL: the attempt was abandoned.
    token       BLOB,
    -- Milliseconds since 1970, as idem_schema moves them.
    lease_until INTEGER NOT NULL,
    -- From here on the record counts as absent. `SqliteStore::sweep` deletes it.
    gone_at     INTEGER NOT NULL,
    -- NULL: the attempt is running, or has crashed.
    outcome     BLOB
) STRICT;

CREATE INDEX idem_records_gone_at ON idem_records (gone_at);

INSERT INTO idem_schema (version) VALUES (1);
