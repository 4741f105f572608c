-- $1 this statement, $2 record, $3 fingerprint, $4 token, $5 attempt, $6 how long it is kept in
-- microseconds, $7 how long its lease holds, $8 outcome; null: running, $9 the operation's name
-- One row says whether the record was absent and is there again.
WITH recreated AS (
    INSERT INTO idem_records AS r
        (id, fingerprint, attempt, token, lease_until, expires_at, sweep_at, outcome, operation,
        claimed_at)
    SELECT $2, $3, $5, $4, now() + lease, now() + kept, now() + lease + kept, $8, $9, now()
    FROM (SELECT $6::bigint * interval '1 microsecond' AS kept,
        $7::bigint * interval '1 microsecond' AS lease) AS times
    WHERE $1 = 'recreate 2'
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
    WHERE r.expires_at <= now()
    RETURNING true
)
SELECT 'recreate 2' AS statement, EXISTS (SELECT FROM recreated) AS applied
