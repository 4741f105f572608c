-- ?1 id, ?2 fingerprint, ?3 token, ?4 lease, ?5 retention, ?6 whether to rerun, ?7 the operation's name
-- Answers the attempt's number and the steps; or nothing, and has changed nothing.
INSERT INTO idem_records
  (id, fingerprint, attempt, token, lease_until, gone_at, operation, claimed_at)
SELECT ?1, ?2, 1, ?3, now + ?4, now + ?4 + ?5, ?7, now FROM clock WHERE true
ON CONFLICT (id) DO UPDATE SET
  fingerprint = excluded.fingerprint,
  attempt = iif(gone_at <= (SELECT now FROM clock), 1, min(attempt + 1, 4294967295)),
  token = excluded.token,
  lease_until = excluded.lease_until,
  gone_at = excluded.gone_at,
  operation = excluded.operation,
  claimed_at = excluded.claimed_at,
  -- Where an older program has claimed the record anew, steps of before are still there, and there is
  -- no outcome.
  steps = iif(gone_at > (SELECT now FROM clock) AND outcome IS NOT NULL, steps, NULL),
  outcome = iif(gone_at > (SELECT now FROM clock) AND outcome IS NOT NULL, x'00', NULL)
WHERE gone_at <= (SELECT now FROM clock)
  OR (
    fingerprint = excluded.fingerprint
    AND lease_until <= (SELECT now FROM clock)
    AND token IS NOT excluded.token
    AND iif(
      outcome IS NULL OR steps IS NOT NULL AND outcome = x'00',
      ?6,
      steps IS NOT NULL AND outcome = x'ff'
    )
  )
RETURNING attempt, steps
