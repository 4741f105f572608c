-- The tables of idem-rs, version 3: finished steps, and what records say of their claim. No record is
-- touched. `SqliteStore::migrate` runs this once, in a transaction. It may as well be run by hand, while
-- programs that know version 1 or 2 use the tables: those go on. Where they meet a record with finished
-- steps, they say that they cannot read it, and leave it as it is.

-- The operation's name. NULL: not known.
ALTER TABLE idem_records ADD COLUMN operation TEXT;

-- When the newest attempt was claimed, in milliseconds since 1970. NULL: not known.
ALTER TABLE idem_records ADD COLUMN claimed_at INTEGER;

-- What finished steps have left. A record that has them is not finished, and its outcome is x'00', or
-- x'ff' if it is suspended: its next attempt goes on with them.
ALTER TABLE idem_records ADD COLUMN steps BLOB;

-- Steps whose rows are in this database, and commit together with their values.
CREATE TABLE idem_steps (
    -- The record's id. The record may be in another store.
    record  BLOB    NOT NULL,
    name    TEXT    NOT NULL,
    value   BLOB    NOT NULL,
    -- From here on it is deleted by `SqliteStore::sweep`.
    gone_at INTEGER NOT NULL,
    PRIMARY KEY (record, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX idem_steps_gone_at ON idem_steps (gone_at);

UPDATE idem_schema SET version = 3;
