-- $1 record, $2 fingerprint, $3 attempt, $4 token, $5 microseconds to keep, $6 outcome
-- Changes one row; or none, where somebody else's record is there, or where this is not the
-- transaction any more that has the record's lock. The time is that of the statement: the
-- transaction may have begun long before.
INSERT INTO idem_records AS r
    (id, fingerprint, attempt, token, lease_until, expires_at, sweep_at, outcome)
SELECT $1, $2, $3, $4, now(),
    clock_timestamp() + $5 * interval '1 microsecond',
    clock_timestamp() + $5 * interval '1 microsecond', $6
WHERE current_setting('idem.locked', true) = 'idem_records'::regclass::oid::text
ON CONFLICT (id) DO UPDATE SET
    fingerprint = excluded.fingerprint,
    attempt = excluded.attempt,
    token = excluded.token,
    lease_until = excluded.lease_until,
    expires_at = excluded.expires_at,
    sweep_at = excluded.sweep_at,
    watched = false,
    outcome = excluded.outcome
WHERE r.expires_at <= now() OR (
    r.outcome IS NULL AND r.fingerprint = $2 AND r.attempt = $3 - 1
    AND (r.token IS NULL OR r.lease_until <= now()))
