-- ?1 id, ?2 fingerprint, ?3 attempt, ?4 token, ?5 retention, ?6 outcome, ?7 the operation's name
-- Answers the attempt's number; or nothing, where somebody else's record is there, and has changed
-- nothing. The claim has written nothing: as its time, the record says the end's.
INSERT INTO idem_records
  (id, fingerprint, attempt, token, lease_until, gone_at, outcome, operation, claimed_at)
SELECT ?1, ?2, ?3, ?4, now, now + ?5, ?6, ?7, now FROM clock WHERE true
ON CONFLICT (id) DO UPDATE SET
  fingerprint = excluded.fingerprint,
  attempt = excluded.attempt,
  token = excluded.token,
  lease_until = excluded.lease_until,
  gone_at = excluded.gone_at,
  outcome = excluded.outcome,
  operation = excluded.operation,
  claimed_at = excluded.claimed_at,
  steps = NULL
WHERE gone_at <= (SELECT now FROM clock)
  OR (
    (outcome IS NULL OR steps IS NOT NULL AND outcome IN (x'00', x'ff'))
    AND lease_until <= (SELECT now FROM clock)
    AND fingerprint = excluded.fingerprint
    AND min(attempt + 1, 4294967295) = excluded.attempt
  )
RETURNING attempt
