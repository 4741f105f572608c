-- $1 record
-- One row, or none: there is no record.
SELECT attempt, fingerprint, state, outcome, steps, operation,
    TIMESTAMPDIFF(MICROSECOND, '1970-01-01', claimed_at) AS claimed_at,
    IF(token IS NULL, NULL, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), lease_until)) AS lease_left,
    TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at) AS kept
FROM idem_records WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6)
