-- $1 this statement, $2 record, $3 token, $4 outcome, $5 retention in microseconds
-- One row says whether the record is finished by the token. Null: it is just being changed, ask
-- again.
WITH held AS (
    SELECT outcome FROM idem_records WHERE id = $2 AND token = $3 AND expires_at > now()
), finished AS (
    UPDATE idem_records SET
        outcome = $4,
        expires_at = now() + $5::bigint * interval '1 microsecond',
        sweep_at = greatest(sweep_at, now() + $5::bigint * interval '1 microsecond')
    WHERE $1 = 'complete 1' AND id = $2 AND token = $3 AND outcome IS NULL AND expires_at > now()
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'complete 1' AS statement, CASE
    WHEN EXISTS (SELECT FROM finished) THEN true
    WHEN NOT EXISTS (SELECT FROM held WHERE outcome IS NULL) THEN EXISTS (SELECT FROM held)
    END AS applied
