-- ?1 id, ?2 token, ?3 outcome, ?4 retention, ?5 fingerprint, ?6 attempt, ?7 whether the lease is
-- unbroken: an absent record is then created again.
-- The same completion again finds an outcome there, and leaves it as it is.
INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at, outcome)
SELECT ?1, ?5, ?6, ?2, now, now + ?4, ?3 FROM clock
WHERE ?7 OR EXISTS (SELECT 1 FROM idem_records WHERE id = ?1)
ON CONFLICT (id) DO UPDATE SET
  fingerprint = iif(gone_at > (SELECT now FROM clock), fingerprint, excluded.fingerprint),
  attempt = iif(gone_at > (SELECT now FROM clock), attempt, excluded.attempt),
  token = excluded.token,
  outcome = iif(
    gone_at > (SELECT now FROM clock) AND outcome IS NOT NULL, outcome, excluded.outcome
  ),
  gone_at = iif(
    gone_at > (SELECT now FROM clock) AND outcome IS NOT NULL, gone_at, excluded.gone_at
  )
WHERE iif(gone_at > (SELECT now FROM clock), token = excluded.token, ?7)
