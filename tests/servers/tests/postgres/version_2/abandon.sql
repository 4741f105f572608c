-- $1 this statement, $2 record, $3 token
-- One row says whether the token held the record.
WITH abandoned AS (
    UPDATE idem_records SET token = NULL, lease_until = least(lease_until, now())
    WHERE $1 = 'abandon 1' AND id = $2 AND token = $3 AND outcome IS NULL AND expires_at > now()
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'abandon 1' AS statement, EXISTS (SELECT FROM abandoned) AS applied
