, policy (rerun) AS (VALUES (?))
, given (id, fingerprint, token, lease, retention) AS (VALUES (?, ?, ?, ?, ?))
-- Answers those that acquired their record, with the attempt's number. The others have changed
-- nothing.
INSERT INTO idem_records (id, fingerprint, attempt, token, lease_until, gone_at)
SELECT id, fingerprint, 1, token, now + lease, now + lease + retention
FROM clock CROSS JOIN given WHERE id IS NOT NULL
ON CONFLICT (id) DO UPDATE SET
  fingerprint = excluded.fingerprint,
  attempt = iif(gone_at <= (SELECT now FROM clock), 1, min(attempt + 1, 4294967295)),
  token = excluded.token,
  lease_until = excluded.lease_until,
  gone_at = excluded.gone_at,
  outcome = NULL
WHERE gone_at <= (SELECT now FROM clock)
  OR (
    (SELECT rerun FROM policy)
    AND outcome IS NULL
    AND lease_until <= (SELECT now FROM clock)
    AND fingerprint = excluded.fingerprint
    AND token IS NOT excluded.token
  )
RETURNING id, token, attempt
