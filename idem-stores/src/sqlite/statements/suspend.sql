-- ?1 id, ?2 token
UPDATE idem_records SET
  token = NULL,
  outcome = x'ff',
  steps = coalesce(steps, x''),
  lease_until = min(lease_until, now),
  gone_at = now + (gone_at - lease_until)
FROM clock
WHERE id = ?1 AND token = ?2 AND (outcome IS NULL OR steps IS NOT NULL) AND gone_at > now
