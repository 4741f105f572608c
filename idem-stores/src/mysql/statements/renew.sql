-- $1 record, $2 token, $3 lease and $4 retention in microseconds
UPDATE idem_records SET
    lease_until = UTC_TIMESTAMP(6) + INTERVAL $3 MICROSECOND,
    sweep_at = IF(sweep_at < UTC_TIMESTAMP(6) + INTERVAL $3 + $4 MICROSECOND,
        UTC_TIMESTAMP(6) + INTERVAL $3 + $3 + $4 MICROSECOND, sweep_at),
    expires_at = UTC_TIMESTAMP(6) + INTERVAL $3 + $4 MICROSECOND
WHERE id = $1 AND token = $2 AND expires_at > UTC_TIMESTAMP(6) AND state = 'running'
