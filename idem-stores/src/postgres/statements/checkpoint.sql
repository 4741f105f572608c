-- $1 this statement, $2 record, $3 token, $4 where the bytes begin, $5 bytes
-- One row says whether the token holds the record and its steps are at least as long as that. What is
-- there already is not appended again.
WITH appended AS (
    UPDATE idem_records SET
        outcome = 'steps',
        steps = coalesce(steps, '') || substr($5, octet_length(coalesce(steps, '')) - $4 + 1)
    WHERE $1 = 'checkpoint 1' AND id = $2 AND token = $3 AND expires_at > now()
        AND (outcome IS NULL OR steps IS NOT NULL)
        AND octet_length(coalesce(steps, '')) >= $4
    RETURNING true
)
SELECT 'checkpoint 1' AS statement, EXISTS (SELECT FROM appended) AS applied
