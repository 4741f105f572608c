-- $1 record
DELETE FROM idem_records
WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6)
    AND NOT (state = 'running' AND token IS NOT NULL AND lease_until > UTC_TIMESTAMP(6));
-- One row if there is a record: what is left of the lease that protects it. Without a lease it is just
-- being changed: ask again.
SELECT IF(state = 'running' AND token IS NOT NULL,
    TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), lease_until), NULL) AS lease_left
FROM idem_records WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6)
