-- $1 record, $2 attempt
UPDATE idem_records SET token = NULL, lease_until = LEAST(lease_until, UTC_TIMESTAMP(6))
WHERE id = $1 AND attempt = $2 AND token IS NOT NULL AND expires_at > UTC_TIMESTAMP(6)
    AND state = 'running'
