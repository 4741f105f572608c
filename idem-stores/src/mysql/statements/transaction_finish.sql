-- $1 record, $2 fingerprint, $3 token, $4 attempt, $5 outcome, $6 retention in microseconds, $7 the
-- operation's name
-- Fails where the transaction that was begun has ended: its savepoint has ended with it. The row is locked
-- since then.
RELEASE SAVEPOINT idem_rs_before_body;
UPDATE idem_records SET
    claimed_at = IF(token <=> $3, claimed_at, UTC_TIMESTAMP(6)),
    operation = $7,
    state = 'finished',
    token = $3,
    outcome = $5,
    steps = NULL,
    lease_until = UTC_TIMESTAMP(6),
    expires_at = UTC_TIMESTAMP(6) + INTERVAL $6 MICROSECOND,
    sweep_at = UTC_TIMESTAMP(6) + INTERVAL $6 MICROSECOND,
    fingerprint = $2,
    attempt = $4
WHERE id = $1 AND (
    token <=> $3
    OR expires_at <= UTC_TIMESTAMP(6)
    OR state <> 'finished' AND fingerprint = $2 AND attempt + 1 = $4
        AND (token IS NULL OR lease_until <= UTC_TIMESTAMP(6)))
