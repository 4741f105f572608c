-- $1 this statement, $2 record, $3 fingerprint, $4 token, $5 lease and $6 retention in
-- microseconds, $7 whether to rerun after a crash, $8 the operation's name
-- One row. Without an attempt: somebody else was faster, ask again.
WITH standing AS (
    -- What stands against a new attempt: anything but a crash that is to be rerun, and a
    -- suspended record.
    SELECT attempt, fingerprint = $3 AS same, token = $4 AS own,
        CASE WHEN steps IS NULL OR outcome NOT IN ('steps', 'suspended') THEN outcome END AS outcome,
        CASE WHEN token = $4 AND outcome = 'steps' THEN steps END AS steps,
        claimed_at,
        CASE WHEN token IS NOT NULL THEN lease_until - now() END AS lease_left,
        expires_at - now() AS kept
    FROM idem_records
    WHERE id = $2 AND expires_at > now() AND NOT (fingerprint = $3 AND CASE
        WHEN outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps' THEN
            $7 AND (token IS NULL OR token <> $4 AND lease_until <= now())
        ELSE steps IS NOT NULL AND outcome = 'suspended' END)
), acquired AS (
    INSERT INTO idem_records AS r
        (id, fingerprint, attempt, token, lease_until, expires_at, sweep_at, operation, claimed_at)
    SELECT $2, $3, 1, $4, now() + lease, now() + lease + retention,
        now() + lease + lease + retention, $8, now()
    FROM (SELECT $5::bigint * interval '1 microsecond' AS lease,
        $6::bigint * interval '1 microsecond' AS retention) AS times
    WHERE $1 = 'claim 2' AND NOT EXISTS (SELECT FROM standing)
    ON CONFLICT (id) DO UPDATE SET
        fingerprint = excluded.fingerprint,
        attempt = CASE WHEN r.expires_at > now() THEN least(r.attempt, 2147483646) + 1 ELSE 1 END,
        token = excluded.token,
        lease_until = excluded.lease_until,
        expires_at = excluded.expires_at,
        sweep_at = excluded.sweep_at,
        watched = r.watched AND r.expires_at > now(),
        operation = excluded.operation,
        claimed_at = excluded.claimed_at,
        -- Where an older program has claimed the record anew, steps of before are still there, and
        -- there is no outcome.
        steps = CASE WHEN r.expires_at > now() AND r.outcome IS NOT NULL THEN r.steps END,
        outcome = CASE WHEN r.expires_at > now() AND r.outcome IS NOT NULL THEN 'steps'::bytea END
    -- The same again, of the row as it is now, which is locked.
    WHERE r.expires_at <= now() OR r.fingerprint = $3 AND CASE
        WHEN r.outcome IS NULL OR r.steps IS NOT NULL AND r.outcome = 'steps' THEN
            $7 AND (r.token IS NULL OR r.token <> $4 AND r.lease_until <= now())
        ELSE r.steps IS NOT NULL AND r.outcome = 'suspended' END
    RETURNING attempt, steps
)
SELECT 'claim 2' AS statement, attempt, same, own, outcome, steps,
    (extract(epoch FROM claimed_at) * 1000000)::bigint AS claimed_at,
    (extract(epoch FROM lease_left) * 1000000)::bigint AS lease_left,
    (extract(epoch FROM kept) * 1000000)::bigint AS kept
FROM (SELECT) AS one LEFT JOIN (
    SELECT attempt, true AS same, true AS own, NULL::bytea AS outcome, steps,
        NULL::timestamptz AS claimed_at, NULL::interval AS lease_left, NULL::interval AS kept
    FROM acquired
    UNION ALL
    SELECT attempt, same, own, outcome, steps, claimed_at, lease_left, kept FROM standing
) AS answer ON true
