-- ?1 id, ?2 token
DELETE FROM idem_records
WHERE id = ?1 AND token = ?2 AND outcome IS NULL AND gone_at > (SELECT now FROM clock)
