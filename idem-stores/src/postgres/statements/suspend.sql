-- $1 this statement, $2 record, $3 token
-- One row says whether the token held the record, which is kept for its retention from now.
WITH suspended AS (
    UPDATE idem_records SET
        token = NULL,
        outcome = 'suspended',
        steps = coalesce(steps, ''),
        lease_until = least(lease_until, now()),
        expires_at = now() + (expires_at - lease_until),
        sweep_at = greatest(sweep_at, now() + (expires_at - lease_until))
    WHERE $1 = 'suspend 1' AND id = $2 AND token = $3 AND expires_at > now()
        AND (outcome IS NULL OR steps IS NOT NULL)
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'suspend 1' AS statement, EXISTS (SELECT FROM suspended) AS applied
