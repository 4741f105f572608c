-- idem, schema version 1: the records, and which version the schema has.
--
-- The store runs this by itself, once (`migrate`), unless its URL says `migrate=off`. By hand:
--
--   mariadb --user=owner --password shop < 0001_records.sql
--
-- as a login that may create tables. Then the application needs no more than:
--
--   GRANT SELECT, INSERT, UPDATE, DELETE ON shop.idem_records TO application;
--   GRANT SELECT ON shop.idem_schema TO application;
--
-- MySQL and MariaDB commit each of these statements by itself. If one fails, run all of them again.

-- All times are UTC.
CREATE TABLE IF NOT EXISTS idem_records (
    -- SHA-256 over namespace, operation, scope and key.
    id binary(32) NOT NULL PRIMARY KEY,
    -- What a retry must be equal to.
    fingerprint varbinary(64) NOT NULL,
    -- Counted from 1.
    attempt int unsigned NOT NULL,
    -- Running: an attempt has the record, or has crashed. Suspended: the next attempt goes on with the
    -- steps.
    state enum('running', 'suspended', 'finished') CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- The secret of the attempt that holds the record, or finished it. Null: nobody's.
    token binary(16),
    -- When the newest attempt was claimed.
    claimed_at datetime(6) NOT NULL,
    -- When the lease of a running record is over.
    lease_until datetime(6) NOT NULL,
    -- From here on there is no record, whether the row is still there or not.
    expires_at datetime(6) NOT NULL,
    -- From here on the sweeper looks at the row: at `expires_at`, or a little later. Most completions
    -- leave it as it is, and so change no index.
    sweep_at datetime(6) NOT NULL,
    -- The operation's name, in UTF-8. Null: not known.
    operation varbinary(80),
    -- What finished steps have left.
    steps longblob,
    -- Null: not finished.
    outcome longblob,
    KEY idem_records_sweep_at (sweep_at)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS idem_schema (
    version int unsigned NOT NULL PRIMARY KEY,
    -- The oldest version that a program must know to use these tables.
    min_version int unsigned NOT NULL,
    applied_at datetime(6) NOT NULL
) ENGINE = InnoDB;

INSERT IGNORE INTO idem_schema (version, min_version, applied_at) VALUES (1, 1, UTC_TIMESTAMP(6));
