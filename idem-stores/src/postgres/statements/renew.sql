-- $1 record, $2 token, $3 lease, $4 retention
-- A row where the token holds the record.
UPDATE idem_records SET
    lease_until = now() + $3,
    expires_at = now() + $3 + $4,
    sweep_at = CASE WHEN sweep_at < now() + $3 + $4 THEN now() + $3 + $3 + $4 ELSE sweep_at END
WHERE id = $1 AND token = $2 AND outcome IS NULL AND expires_at > now()
RETURNING true
