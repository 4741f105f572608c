-- ?1 a JSON array of ids in hexadecimal
SELECT id, token
FROM clock CROSS JOIN idem_records
WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND gone_at > now
  AND (outcome IS NULL OR steps IS NOT NULL AND outcome = x'00')
