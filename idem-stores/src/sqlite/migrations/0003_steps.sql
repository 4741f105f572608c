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

UPDATE idem_schema SET version = 3;
