-- ?1 id, ?2 token, ?3 lease, ?4 retention, ?5 fingerprint, ?6 attempt, ?7 whether the lease is
-- unbroken: an absent record is then created again.
INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at)
SELECT ?1, ?5, ?6, ?2, now + ?3, now + ?3 + ?4 FROM clock
WHERE ?7 OR EXISTS (SELECT 1 FROM idem_records WHERE id = ?1)
ON CONFLICT (id) DO UPDATE SET
  fingerprint = iif(gone_at > (SELECT now FROM clock), fingerprint, excluded.fingerprint),
  attempt = iif(gone_at > (SELECT now FROM clock), attempt, excluded.attempt),
  token = excluded.token,
  lease_until = excluded.lease_until,
  gone_at = excluded.gone_at,
  outcome = NULL
WHERE iif(
  gone_at > (SELECT now FROM clock),
  token = excluded.token AND outcome IS NULL,
  ?7
)
