-- $1 record, $2 token
UPDATE idem_records SET token = NULL, lease_until = LEAST(lease_until, UTC_TIMESTAMP(6))
WHERE id = $1 AND token = $2 AND expires_at > UTC_TIMESTAMP(6) AND state = 'running'
