-- $1 this statement, $2 record, $3 fingerprint, $4 attempt, $5 token, $6 microseconds to keep,
-- $7 outcome, $8 the operation's name
-- One row. Writes nothing where somebody else's record is there, or where this is not the
-- transaction any more that has the record's lock and sees the table that it began with. The time
-- is that of the statement: the transaction may have begun long before. It was claimed then.
WITH own AS (
    SELECT coalesce(current_setting('idem.locked', true) = 'idem_records'::regclass::oid::text, false)
        AS stands
), finished AS (
    INSERT INTO idem_records AS r
        (id, fingerprint, attempt, token, lease_until, expires_at, sweep_at, outcome, operation,
        claimed_at)
    SELECT $2, $3, $4, $5, now(),
        clock_timestamp() + $6::bigint * interval '1 microsecond',
        clock_timestamp() + $6::bigint * interval '1 microsecond', $7, $8, now()
    FROM own
    WHERE $1 = 'finish 2' AND stands
    ON CONFLICT (id) DO UPDATE SET
        fingerprint = excluded.fingerprint,
        attempt = excluded.attempt,
        token = excluded.token,
        lease_until = excluded.lease_until,
        expires_at = excluded.expires_at,
        sweep_at = excluded.sweep_at,
        watched = false,
        outcome = excluded.outcome,
        operation = excluded.operation,
        claimed_at = excluded.claimed_at,
        steps = NULL
    WHERE r.expires_at <= now() OR (
        (r.outcome IS NULL OR r.steps IS NOT NULL AND r.outcome IN ('steps', 'suspended'))
        AND r.fingerprint = $3 AND r.attempt = $4 - 1
        AND (r.token IS NULL OR r.lease_until <= now()))
    RETURNING true
)
SELECT 'finish 2' AS statement, EXISTS (SELECT FROM finished) AS applied, stands FROM own
