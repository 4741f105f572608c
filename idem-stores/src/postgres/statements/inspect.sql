-- $1 this statement, $2 record
-- One row. Without an attempt: there is no record.
SELECT 'inspect 3' AS statement, attempt, fingerprint,
    CASE WHEN has_steps IS NOT TRUE THEN outcome END AS outcome,
    CASE WHEN has_steps THEN steps END AS steps,
    has_steps AND outcome = 'suspended' AS suspended,
    operation,
    (extract(epoch FROM claimed_at) * 1000000)::bigint AS claimed_at,
    CASE WHEN token IS NOT NULL THEN
        (extract(epoch FROM lease_until - now()) * 1000000)::bigint END AS lease_left,
    (extract(epoch FROM expires_at - now()) * 1000000)::bigint AS kept
FROM (SELECT) AS one
LEFT JOIN (
    SELECT id, expires_at, lease_until, attempt, fingerprint, token, outcome, steps, operation,
        claimed_at, steps IS NOT NULL AND outcome IN ('steps', 'suspended') AS has_steps
    FROM idem_records
) AS records ON $1 = 'inspect 3' AND id = $2 AND expires_at > now()
