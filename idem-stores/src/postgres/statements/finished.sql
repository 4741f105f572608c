-- $1 this statement, $2 record, $3 fingerprint
-- One row. Without an attempt: nothing is finished. Asked of servers that take no writes.
SELECT 'finished 2' AS statement, attempt, fingerprint = $3 AS same, NULL::boolean AS own, outcome,
    NULL::bytea AS steps,
    (extract(epoch FROM claimed_at) * 1000000)::bigint AS claimed_at,
    NULL::bigint AS lease_left,
    (extract(epoch FROM expires_at - now()) * 1000000)::bigint AS kept
FROM (SELECT) AS one
LEFT JOIN idem_records
    ON $1 = 'finished 2' AND id = $2 AND expires_at > now()
        AND outcome IS NOT NULL AND (steps IS NULL OR outcome NOT IN ('steps', 'suspended'))
