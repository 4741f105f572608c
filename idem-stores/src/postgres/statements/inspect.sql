-- $1 record
SELECT fingerprint, attempt, outcome,
    CASE WHEN token IS NOT NULL THEN lease_until - now() END AS lease_left
FROM idem_records
WHERE id = $1 AND expires_at > now()
