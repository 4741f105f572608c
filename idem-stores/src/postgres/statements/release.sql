-- $1 this statement, $2 record, $3 token
-- One row says whether the token held the record.
WITH released AS (
    DELETE FROM idem_records
    WHERE $1 = 'release 2' AND id = $2 AND token = $3 AND expires_at > now()
        AND (outcome IS NULL OR steps IS NOT NULL)
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'release 2' AS statement, EXISTS (SELECT FROM released) AS applied
