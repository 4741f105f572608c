-- ?1 id, ?2 fingerprint, or NULL for any
-- The outcome is read only where it is asked for: it may be large.
SELECT
  fingerprint,
  attempt,
  token,
  outcome IS NOT NULL AS is_finished,
  iif(?2 IS NULL OR ?2 = fingerprint, outcome, NULL) AS outcome,
  lease_until - now AS lease_left,
  gone_at - now AS left
FROM clock CROSS JOIN idem_records
WHERE id = ?1 AND gone_at > now
