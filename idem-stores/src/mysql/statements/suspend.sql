-- $1 record, $2 token
-- The record is kept for its retention from now.
UPDATE idem_records SET
    token = NULL,
    state = 'suspended',
    sweep_at = GREATEST(sweep_at, UTC_TIMESTAMP(6)
        + INTERVAL TIMESTAMPDIFF(MICROSECOND, lease_until, expires_at) MICROSECOND),
    expires_at = UTC_TIMESTAMP(6)
        + INTERVAL TIMESTAMPDIFF(MICROSECOND, lease_until, expires_at) MICROSECOND,
    lease_until = LEAST(lease_until, UTC_TIMESTAMP(6))
WHERE id = $1 AND token = $2 AND expires_at > UTC_TIMESTAMP(6) AND state = 'running'
