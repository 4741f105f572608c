-- $1 this statement, $2 record
-- One row. Without an attempt: there is no record.
SELECT 'inspect 1' AS statement, attempt, fingerprint, outcome,
    CASE WHEN token IS NOT NULL THEN
        (extract(epoch FROM lease_until - now()) * 1000000)::bigint END AS lease_left
FROM (SELECT) AS one
LEFT JOIN idem_records ON $1 = 'inspect 1' AND id = $2 AND expires_at > now()
