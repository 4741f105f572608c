-- ?1 id, ?2 fingerprint, or NULL for any, ?3 token, or NULL for any
-- The outcome and the steps are read only where they are asked for: they may be large.
SELECT
  fingerprint,
  attempt,
  token,
  iif(
    outcome IS NULL OR steps IS NOT NULL AND outcome = x'00',
    'running',
    iif(steps IS NOT NULL AND outcome = x'ff', 'suspended', 'finished')
  ) AS state,
  iif(?2 IS NULL OR ?2 = fingerprint, outcome, NULL) AS outcome,
  iif(outcome IS NOT NULL AND (?3 IS NULL OR ?3 = token), steps, NULL) AS steps,
  operation,
  claimed_at,
  lease_until - now AS lease_left,
  gone_at - now AS left
FROM clock CROSS JOIN idem_records
WHERE id = ?1 AND gone_at > now
