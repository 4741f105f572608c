-- $1 this statement, $2 record, $3 token
-- One row says whether the token held the record.
WITH released AS (
    DELETE FROM idem_records
    WHERE $1 = 'release 1' AND id = $2 AND token = $3 AND outcome IS NULL AND expires_at > now()
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'release 1' AS statement, EXISTS (SELECT FROM released) AS applied
