-- $1 record, $2 fingerprint, $3 token, $4 lease and $5 retention in microseconds, $6 whether to rerun
-- after a crash, $7 the operation's name
-- What stands against a new attempt: anything but a crash that is to be rerun, and a suspended record.
-- This takes no lock, and where something stands, the next statement takes none either.
SELECT COUNT(*) INTO @idem_stands FROM idem_records
WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6) AND NOT (fingerprint = $2 AND (
    state = 'suspended'
    OR state = 'running' AND $6
        AND (token IS NULL OR token <> $3 AND lease_until <= UTC_TIMESTAMP(6))));
-- The condition again, of the row as it is now, which is locked. Assignments are made in their order:
-- those before `expires_at` see what it was. A row that has this token, claimed at this instant, is the
-- one that this statement has taken; no two claims have the same token.
INSERT INTO idem_records
    (id, fingerprint, attempt, state, token, claimed_at, lease_until, expires_at, sweep_at, operation)
SELECT $1, $2, 1, 'running', $3, UTC_TIMESTAMP(6),
    UTC_TIMESTAMP(6) + INTERVAL $4 MICROSECOND,
    UTC_TIMESTAMP(6) + INTERVAL $4 + $5 MICROSECOND,
    UTC_TIMESTAMP(6) + INTERVAL $4 + $4 + $5 MICROSECOND, $7
FROM DUAL WHERE @idem_stands = 0
ON DUPLICATE KEY UPDATE
    attempt = IF(expires_at <= UTC_TIMESTAMP(6), 1, IF(fingerprint = $2 AND (
        state = 'suspended'
        OR state = 'running' AND $6
            AND (token IS NULL OR token <> $3 AND lease_until <= UTC_TIMESTAMP(6))),
        LEAST(attempt, 4294967294) + 1, attempt)),
    claimed_at = IF(expires_at <= UTC_TIMESTAMP(6) OR fingerprint = $2 AND (
        state = 'suspended'
        OR state = 'running' AND $6
            AND (token IS NULL OR token <> $3 AND lease_until <= UTC_TIMESTAMP(6))),
        UTC_TIMESTAMP(6), claimed_at),
    token = IF(expires_at <= UTC_TIMESTAMP(6) OR fingerprint = $2 AND (
        state = 'suspended'
        OR state = 'running' AND $6
            AND (token IS NULL OR token <> $3 AND lease_until <= UTC_TIMESTAMP(6))),
        $3, token),
    fingerprint = IF(token = $3 AND claimed_at = UTC_TIMESTAMP(6), $2, fingerprint),
    state = IF(token = $3 AND claimed_at = UTC_TIMESTAMP(6), 'running', state),
    operation = IF(token = $3 AND claimed_at = UTC_TIMESTAMP(6), $7, operation),
    outcome = IF(token = $3 AND claimed_at = UTC_TIMESTAMP(6), NULL, outcome),
    steps = IF(token = $3 AND claimed_at = UTC_TIMESTAMP(6)
        AND expires_at <= UTC_TIMESTAMP(6), NULL, steps),
    lease_until = IF(token = $3 AND claimed_at = UTC_TIMESTAMP(6),
        UTC_TIMESTAMP(6) + INTERVAL $4 MICROSECOND, lease_until),
    sweep_at = IF(token = $3 AND claimed_at = UTC_TIMESTAMP(6),
        UTC_TIMESTAMP(6) + INTERVAL $4 + $4 + $5 MICROSECOND, sweep_at),
    expires_at = IF(token = $3 AND claimed_at = UTC_TIMESTAMP(6),
        UTC_TIMESTAMP(6) + INTERVAL $4 + $5 MICROSECOND, expires_at);
-- One row, or none: it is just being changed, ask again.
SELECT attempt, state, fingerprint = $2 AS same, token <=> $3 AS own,
    IF(state = 'finished', outcome, NULL) AS outcome,
    IF(token <=> $3, steps, NULL) AS steps,
    TIMESTAMPDIFF(MICROSECOND, '1970-01-01', claimed_at) AS claimed_at,
    IF(token IS NULL, NULL, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), lease_until)) AS lease_left,
    TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at) AS kept
FROM idem_records WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6)
