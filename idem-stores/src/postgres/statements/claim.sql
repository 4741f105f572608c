-- $1 record, $2 fingerprint, $3 token, $4 lease, $5 retention, $6 whether to rerun after a crash
-- One row is the answer. None: somebody else was faster, ask again.
WITH standing AS (
    -- What stands against a new attempt: anything but a crash that is to be rerun.
    SELECT attempt, fingerprint = $2 AS same, token = $3 AS own, outcome,
        CASE WHEN token IS NOT NULL THEN lease_until - now() END AS lease_left,
        expires_at - now() AS kept
    FROM idem_records
    WHERE id = $1 AND expires_at > now() AND NOT (
        $6 AND outcome IS NULL AND fingerprint = $2
        AND (token IS NULL OR token <> $3 AND lease_until <= now()))
), acquired AS (
    INSERT INTO idem_records AS r
        (id, fingerprint, attempt, token, lease_until, expires_at, sweep_at)
    SELECT $1, $2, 1, $3, now() + $4, now() + $4 + $5, now() + $4 + $4 + $5
    WHERE NOT EXISTS (SELECT FROM standing)
    ON CONFLICT (id) DO UPDATE SET
        fingerprint = excluded.fingerprint,
        attempt = CASE WHEN r.expires_at > now() THEN least(r.attempt, 2147483646) + 1 ELSE 1 END,
        token = excluded.token,
        lease_until = excluded.lease_until,
        expires_at = excluded.expires_at,
        sweep_at = excluded.sweep_at,
        watched = r.watched AND r.expires_at > now(),
        outcome = NULL
    -- The same again, of the row as it is now, which is locked.
    WHERE r.expires_at <= now() OR (
        $6 AND r.outcome IS NULL AND r.fingerprint = $2
        AND (r.token IS NULL OR r.token <> $3 AND r.lease_until <= now()))
    RETURNING attempt
)
SELECT attempt, true AS same, true AS own, NULL::bytea AS outcome,
    NULL::interval AS lease_left, NULL::interval AS kept
FROM acquired
UNION ALL
SELECT attempt, same, own, outcome, lease_left, kept FROM standing
