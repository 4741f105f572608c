-- $1 record, $2 token, $3 outcome, $4 retention in microseconds
UPDATE idem_records SET
    state = 'finished',
    outcome = $3,
    steps = NULL,
    sweep_at = GREATEST(sweep_at, UTC_TIMESTAMP(6) + INTERVAL $4 MICROSECOND),
    expires_at = UTC_TIMESTAMP(6) + INTERVAL $4 MICROSECOND
WHERE id = $1 AND token = $2 AND expires_at > UTC_TIMESTAMP(6) AND state = 'running'
