-- $1 this statement, $2 record, $3 fingerprint
-- One row: whether this transaction has the record's lock and may write, what is there, and, where
-- the server ends sessions by itself, after how long, and which this one is.
SELECT 'look 1' AS statement,
    current_setting('idem.locked') <> '' AS locked,
    current_setting('transaction_read_only') = 'on' AS read_only,
    has_any_column_privilege('idem_records', 'INSERT')
        AND has_any_column_privilege('idem_records', 'UPDATE') AS may_write,
    silence, whole,
    CASE WHEN ends THEN pg_backend_pid() END AS pid,
    CASE WHEN ends THEN (SELECT (extract(epoch FROM backend_start) * 1000000)::bigint
        FROM pg_stat_get_activity(pg_backend_pid())) END AS began,
    r.attempt,
    r.fingerprint = $3 AS same,
    r.token IS NULL OR r.lease_until <= now() AS crashed,
    r.outcome,
    (extract(epoch FROM r.expires_at - now()) * 1000000)::bigint AS kept
FROM (
    SELECT silence, whole, silence <> '0' OR whole <> '0' AS ends
    FROM (SELECT current_setting('idle_in_transaction_session_timeout') AS silence,
        coalesce(current_setting('transaction_timeout', true), '0') AS whole) AS limits
) AS session
LEFT JOIN idem_records AS r ON $1 = 'look 1' AND r.id = $2 AND r.expires_at > now()
