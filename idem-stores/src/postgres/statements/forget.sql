-- $1 this statement, $2 record
-- One row: whether there was a record, whether it was removed, and what is left of the lease that
-- protects it. A record without a lease that was not removed is just being changed: ask again.
WITH standing AS (
    SELECT CASE WHEN token IS NOT NULL AND lease_until > now()
        AND (outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps')
        THEN lease_until - now() END AS lease_left
    FROM idem_records WHERE id = $2 AND expires_at > now()
), removed AS (
    DELETE FROM idem_records
    WHERE $1 = 'forget 1' AND id = $2 AND expires_at > now() AND NOT (
        token IS NOT NULL AND lease_until > now()
        AND (outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps'))
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'forget 1' AS statement, EXISTS (SELECT FROM standing) AS stood,
    EXISTS (SELECT FROM removed) AS removed,
    (SELECT (extract(epoch FROM lease_left) * 1000000)::bigint FROM standing) AS lease_left
