-- $1 record, $2 the attempt and $3 the state that were seen; null: any
DELETE FROM idem_records
WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6)
    AND NOT (state = 'running' AND token IS NOT NULL AND lease_until > UTC_TIMESTAMP(6))
    AND ($3 IS NULL
        OR (attempt = $2 AND $3 = IF(state = 'running', 'crashed', CAST(state AS char))));
-- One row if there is a record: what is left of the lease that protects it, and whether it is as it was
-- seen. Without a lease, and as it was seen, it is just being changed: ask again.
SELECT IF(state = 'running' AND token IS NOT NULL,
    TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), lease_until), NULL) AS lease_left,
    $3 IS NULL
        OR (attempt = $2 AND $3 = IF(state = 'running', 'crashed', CAST(state AS char))) AS is_as_seen
FROM idem_records WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6)
