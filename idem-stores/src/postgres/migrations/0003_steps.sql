-- idem, schema version 3: finished steps, and what records say of their claim. No record is touched.
-- Programs that know version 1 or 2 go on using the tables. Where they meet a record with finished
-- steps, they say that they cannot read it, and leave it as it is.
--
-- The store runs this by itself, once, as it does 0001_records.sql. By hand, as the owner:
--
--   psql --single-transaction --set ON_ERROR_STOP=1 --file 0003_steps.sql
--
-- It waits for the transactions that use the records, and the claims that come
-- meanwhile wait behind it: for 50 milliseconds at most. Then it fails, and nothing has changed: run
-- it again.

SET LOCAL lock_timeout = 50;

ALTER TABLE idem_records
    -- The operation's name, in UTF-8: convert_from(operation, 'UTF8'). Null: not known.
    ADD COLUMN operation bytea,
    -- When the newest attempt was claimed. Null: not known.
    ADD COLUMN claimed_at timestamptz,
    -- What finished steps have left. A record that has them is not finished, and its outcome is
    -- 'steps', or 'suspended' if its next attempt goes on with them.
    ADD COLUMN steps bytea;

INSERT INTO idem_schema (version) VALUES (3);
