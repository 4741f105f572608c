-- $1 this statement, $2 record, $3 the attempt and $4 the state that were seen; no state: any
-- One row: whether there was a record, whether it was removed, what is left of the lease that protects
-- it, and whether it is as it was seen. A record that is, without a lease, and was not removed is just
-- being changed: ask again.
WITH standing AS (
    SELECT CASE WHEN token IS NOT NULL AND lease_until > now()
        AND (outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps')
        THEN lease_until - now() END AS lease_left,
        $4 IS NULL OR attempt = $3 AND $4 = CASE
            WHEN outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps' THEN 'crashed'
            WHEN steps IS NOT NULL AND outcome = 'suspended' THEN 'suspended'
            ELSE 'finished' END AS is_as_seen
    FROM idem_records WHERE id = $2 AND expires_at > now()
), removed AS (
    DELETE FROM idem_records
    WHERE $1 = 'forget 2' AND id = $2 AND expires_at > now() AND NOT (
        token IS NOT NULL AND lease_until > now()
        AND (outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps'))
        AND ($4 IS NULL OR attempt = $3 AND $4 = CASE
            WHEN outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps' THEN 'crashed'
            WHEN steps IS NOT NULL AND outcome = 'suspended' THEN 'suspended'
            ELSE 'finished' END)
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'forget 2' AS statement, EXISTS (SELECT FROM standing) AS stood,
    EXISTS (SELECT FROM removed) AS removed,
    (SELECT (extract(epoch FROM lease_left) * 1000000)::bigint FROM standing) AS lease_left,
    (SELECT is_as_seen FROM standing) AS is_as_seen
