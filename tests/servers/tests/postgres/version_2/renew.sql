-- $1 this statement, $2 record, $3 token, $4 lease and $5 retention in microseconds
-- One row says whether the token holds the record.
WITH renewed AS (
    UPDATE idem_records SET
        lease_until = now() + lease,
        expires_at = now() + lease + retention,
        sweep_at = CASE WHEN sweep_at < now() + lease + retention
            THEN now() + lease + lease + retention ELSE sweep_at END
    FROM (SELECT $4::bigint * interval '1 microsecond' AS lease,
        $5::bigint * interval '1 microsecond' AS retention) AS times
    WHERE $1 = 'renew 1' AND id = $2 AND token = $3 AND outcome IS NULL AND expires_at > now()
    RETURNING true
)
SELECT 'renew 1' AS statement, EXISTS (SELECT FROM renewed) AS applied
