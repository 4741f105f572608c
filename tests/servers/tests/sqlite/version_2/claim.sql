-- ?1 id, ?2 fingerprint, ?3 token, ?4 lease, ?5 retention, ?6 whether to rerun
-- Answers the attempt's number; or nothing, and has changed nothing.
INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at)
SELECT ?1, ?2, 1, ?3, now + ?4, now + ?4 + ?5 FROM clock WHERE true
ON CONFLICT (id) DO UPDATE SET
  fingerprint = excluded.fingerprint,
  attempt = iif(gone_at <= (SELECT now FROM clock), 1, min(attempt + 1, 4294967295)),
  token = excluded.token,
  lease_until = excluded.lease_until,
  gone_at = excluded.gone_at,
  outcome = NULL
WHERE gone_at <= (SELECT now FROM clock)
  OR (
    ?6
    AND outcome IS NULL
    AND lease_until <= (SELECT now FROM clock)
    AND fingerprint = excluded.fingerprint
    AND token IS NOT excluded.token
  )
RETURNING attempt
