-- $1 this statement, $2 record, $3 token
-- One row says whether the token held the record, which is gone then, or, if it has steps, suspended
-- and kept for its retention from now. Null: it is just being changed, ask again.
WITH held AS (
    SELECT outcome IS NULL OR steps IS NOT NULL AS runs
    FROM idem_records WHERE id = $2 AND token = $3 AND expires_at > now()
), removed AS (
    DELETE FROM idem_records
    WHERE $1 = 'release 2' AND id = $2 AND token = $3 AND expires_at > now()
        AND (outcome IS NULL OR octet_length(steps) = 0)
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
), suspended AS (
    UPDATE idem_records SET
        token = NULL,
        outcome = 'suspended',
        lease_until = least(lease_until, now()),
        expires_at = now() + (expires_at - lease_until),
        sweep_at = greatest(sweep_at, now() + (expires_at - lease_until))
    WHERE $1 = 'release 2' AND id = $2 AND token = $3 AND expires_at > now()
        AND outcome IS NOT NULL AND octet_length(steps) > 0
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'release 2' AS statement, CASE
    WHEN EXISTS (SELECT FROM removed) OR EXISTS (SELECT FROM suspended) THEN true
    WHEN NOT EXISTS (SELECT FROM held WHERE runs) THEN false
    END AS applied
