-- ?1 id, ?2 fingerprint, ?3 attempt, ?4 token, ?5 retention, ?6 outcome
-- Answers the attempt's number; or nothing, where somebody else's record is there, and has changed
-- nothing.
INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at, outcome)
SELECT ?1, ?2, ?3, ?4, now, now + ?5, ?6 FROM clock WHERE true
ON CONFLICT (id) DO UPDATE SET
  fingerprint = excluded.fingerprint,
  attempt = excluded.attempt,
  token = excluded.token,
  lease_until = excluded.lease_until,
  gone_at = excluded.gone_at,
  outcome = excluded.outcome
WHERE gone_at <= (SELECT now FROM clock)
  OR (
    outcome IS NULL
    AND lease_until <= (SELECT now FROM clock)
    AND fingerprint = excluded.fingerprint
    AND min(attempt + 1, 4294967295) = excluded.attempt
  )
RETURNING attempt
