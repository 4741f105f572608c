, given (id, fingerprint, token, lease, retention, operation) AS (VALUES (?, ?, ?, ?, ?, ?))
-- Claims of records that are absent, which are then at their first attempt. Of others it changes
-- nothing.
INSERT INTO idem_records
  (id, fingerprint, attempt, token, lease_until, gone_at, operation, claimed_at)
SELECT id, fingerprint, 1, token, now + lease, now + lease + retention, operation, now
FROM clock CROSS JOIN given WHERE id IS NOT NULL
ON CONFLICT (id) DO UPDATE SET
  fingerprint = excluded.fingerprint,
  attempt = 1,
  token = excluded.token,
  lease_until = excluded.lease_until,
  gone_at = excluded.gone_at,
  operation = excluded.operation,
  claimed_at = excluded.claimed_at,
  steps = NULL,
  outcome = NULL
WHERE gone_at <= (SELECT now FROM clock)
