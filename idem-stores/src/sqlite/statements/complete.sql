, given (id, token, outcome, retention) AS (VALUES (?, ?, ?, ?))
-- Answers those that are finished by this token. The same completion again finds its outcome
-- there, and leaves it as it is.
UPDATE idem_records SET
  outcome = coalesce(idem_records.outcome, given.outcome),
  gone_at = iif(idem_records.outcome IS NULL, now + retention, gone_at)
FROM given CROSS JOIN clock
WHERE idem_records.id = given.id AND idem_records.token = given.token AND gone_at > now
RETURNING id, token
