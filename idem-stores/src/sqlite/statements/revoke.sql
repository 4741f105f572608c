-- ?1 id, ?2 attempt
UPDATE idem_records SET
  token = NULL,
  lease_until = min(lease_until, now),
  gone_at = min(lease_until, now) + (gone_at - lease_until)
FROM clock
WHERE id = ?1 AND attempt = ?2 AND token IS NOT NULL
  AND (outcome IS NULL OR steps IS NOT NULL AND outcome = x'00')
  AND gone_at > now
