-- $1 record, $2 token
-- The record is gone then, or, if it has steps, suspended and kept for its retention from now.
DELETE FROM idem_records
WHERE id = $1 AND token = $2 AND expires_at > UTC_TIMESTAMP(6) AND state = 'running'
    AND COALESCE(OCTET_LENGTH(steps), 0) = 0;
UPDATE idem_records SET
    token = NULL,
    state = 'suspended',
    sweep_at = GREATEST(sweep_at, UTC_TIMESTAMP(6)
        + INTERVAL TIMESTAMPDIFF(MICROSECOND, lease_until, expires_at) MICROSECOND),
    expires_at = UTC_TIMESTAMP(6)
        + INTERVAL TIMESTAMPDIFF(MICROSECOND, lease_until, expires_at) MICROSECOND,
    lease_until = LEAST(lease_until, UTC_TIMESTAMP(6))
WHERE id = $1 AND token = $2 AND expires_at > UTC_TIMESTAMP(6) AND state = 'running'
    AND OCTET_LENGTH(steps) > 0
