-- ?1 id
-- A record whose lease is alive stays.
DELETE FROM idem_records
WHERE id = ?1 AND gone_at > (SELECT now FROM clock) AND NOT (
  token IS NOT NULL
  AND lease_until > (SELECT now FROM clock)
  AND (outcome IS NULL OR steps IS NOT NULL AND outcome = x'00')
)
