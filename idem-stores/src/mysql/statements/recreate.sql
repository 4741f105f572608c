-- $1 record, $2 fingerprint, $3 token, $4 attempt, $5 how long it is kept in microseconds, $6 how long
-- its lease holds, $7 state, $8 outcome; null: running, $9 the operation's name
-- Fails with a duplicate key if there is a record.
DELETE FROM idem_records WHERE id = $1 AND expires_at <= UTC_TIMESTAMP(6);
INSERT INTO idem_records
    (id, fingerprint, attempt, state, token, claimed_at, lease_until, expires_at, sweep_at, operation,
    outcome)
VALUES ($1, $2, $4, $7, $3, UTC_TIMESTAMP(6),
    UTC_TIMESTAMP(6) + INTERVAL $6 MICROSECOND,
    UTC_TIMESTAMP(6) + INTERVAL $5 MICROSECOND,
    UTC_TIMESTAMP(6) + INTERVAL $5 + $6 MICROSECOND, $9, $8)
