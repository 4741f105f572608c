-- ?1 id, ?2 token
-- A record with steps stays: it is suspended instead.
DELETE FROM idem_records
WHERE id = ?1 AND token = ?2 AND (outcome IS NULL OR length(steps) = 0)
  AND gone_at > (SELECT now FROM clock)
