-- $1 record, $2 token
-- A row where the token held the record.
UPDATE idem_records SET token = NULL, lease_until = least(lease_until, now())
WHERE id = $1 AND token = $2 AND outcome IS NULL AND expires_at > now()
RETURNING CASE WHEN watched THEN pg_notify('idem', encode(id, 'hex')) END
