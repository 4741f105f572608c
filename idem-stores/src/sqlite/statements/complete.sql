-- ?1 id, ?2 token, ?3 outcome, ?4 retention
-- The same completion again finds an outcome there, and leaves it as it is.
UPDATE idem_records SET
  outcome = coalesce(outcome, ?3),
  gone_at = iif(outcome IS NULL, now + ?4, gone_at)
FROM clock
WHERE id = ?1 AND token = ?2 AND gone_at > now
