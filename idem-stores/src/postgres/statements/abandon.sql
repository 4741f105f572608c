-- $1 this statement, $2 record, $3 token
-- One row says whether the token held the record.
WITH abandoned AS (
    UPDATE idem_records SET token = NULL, lease_until = least(lease_until, now())
    WHERE $1 = 'abandon 2' AND id = $2 AND token = $3 AND expires_at > now()
        AND (outcome IS NULL OR steps IS NOT NULL)
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'abandon 2' AS statement, EXISTS (SELECT FROM abandoned) AS applied
