-- ?1 id, ?2 token, ?3 lease, ?4 retention
UPDATE idem_records SET lease_until = now + ?3, gone_at = now + ?3 + ?4
FROM clock
WHERE id = ?1 AND token = ?2 AND outcome IS NULL AND gone_at > now
