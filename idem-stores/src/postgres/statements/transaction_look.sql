-- $1 record, $2 fingerprint
-- One row: whether this transaction has the record's lock, and what is there.
SELECT current_setting('idem.locked') <> '' AS locked,
    r.attempt,
    r.fingerprint = $2 AS same,
    r.token IS NULL OR r.lease_until <= now() AS crashed,
    r.outcome,
    (extract(epoch FROM r.expires_at - now()) * 1000000)::bigint AS kept
FROM (SELECT) AS one
LEFT JOIN idem_records AS r ON r.id = $1 AND r.expires_at > now()
