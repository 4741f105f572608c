, given (id, token, outcome, retention) AS NOT MATERIALIZED (VALUES (?, ?, ?, ?))
UPDATE idem_records SET outcome = given.outcome, steps = NULL, gone_at = now + retention
FROM given CROSS JOIN clock
WHERE idem_records.id = given.id
  AND idem_records.token = given.token
  AND (idem_records.outcome IS NULL OR idem_records.steps IS NOT NULL)
  AND gone_at > now
