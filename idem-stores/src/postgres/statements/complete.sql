-- $1 record, $2 token, $3 outcome, $4 retention
-- One row says whether the record is finished by the token. None: it is just being changed, ask
-- again.
WITH held AS (
    SELECT outcome FROM idem_records WHERE id = $1 AND token = $2 AND expires_at > now()
), finished AS (
    UPDATE idem_records SET
        outcome = $3,
        expires_at = now() + $4,
        sweep_at = greatest(sweep_at, now() + $4)
    WHERE id = $1 AND token = $2 AND outcome IS NULL AND expires_at > now()
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT EXISTS (SELECT FROM finished) OR EXISTS (SELECT FROM held)
WHERE EXISTS (SELECT FROM finished) OR NOT EXISTS (SELECT FROM held WHERE outcome IS NULL)
