-- $1 this statement, $2 record, $3 attempt
-- One row says whether this attempt held the record.
WITH revoked AS (
    UPDATE idem_records SET token = NULL, lease_until = least(lease_until, now())
    WHERE $1 = 'revoke 1' AND id = $2 AND attempt = $3 AND token IS NOT NULL
        AND expires_at > now()
        AND (outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps')
    RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
)
SELECT 'revoke 1' AS statement, EXISTS (SELECT FROM revoked) AS applied
