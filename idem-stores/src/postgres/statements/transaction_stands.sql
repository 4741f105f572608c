-- Whether this is still the transaction that has the record's lock, and still sees the table that
-- it began with.
SELECT coalesce(current_setting('idem.locked', true) = 'idem_records'::regclass::oid::text, false)
