-- $1 record, $2 fingerprint, $3 token
-- A claim that is asked of a server that takes no writes. One row, or none: nothing is finished.
SELECT attempt, state, fingerprint = $2 AS same, FALSE AS own, outcome, NULL AS steps,
    TIMESTAMPDIFF(MICROSECOND, '1970-01-01', claimed_at) AS claimed_at,
    NULL AS lease_left,
    TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at) AS kept
FROM idem_records WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6) AND state = 'finished'
