-- ?1 id, ?2 the attempt and ?3 the state that were seen; no state: any
-- A record whose lease is alive stays, and one that is not as it was seen.
DELETE FROM idem_records
WHERE id = ?1 AND gone_at > (SELECT now FROM clock) AND NOT (
  token IS NOT NULL
  AND lease_until > (SELECT now FROM clock)
  AND (outcome IS NULL OR steps IS NOT NULL AND outcome = x'00')
) AND (
  ?3 IS NULL
  OR attempt = ?2 AND ?3 = CASE
    WHEN outcome IS NULL OR steps IS NOT NULL AND outcome = x'00' THEN 'crashed'
    WHEN steps IS NOT NULL AND outcome = x'ff' THEN 'suspended'
    ELSE 'finished'
  END
)
