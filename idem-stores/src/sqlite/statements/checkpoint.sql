-- ?1 id, ?2 token, ?3 where the bytes begin, ?4 bytes
-- What is there already is not appended again.
UPDATE idem_records SET
  outcome = x'00',
  -- Of two blobs, the operator makes a text of the same bytes. Of an empty one, substr makes NULL.
  steps = CAST(
    coalesce(steps, x'') || coalesce(substr(?4, coalesce(length(steps), 0) - ?3 + 1), x'') AS BLOB
  )
FROM clock
WHERE id = ?1 AND token = ?2 AND (outcome IS NULL OR steps IS NOT NULL) AND gone_at > now
  AND coalesce(length(steps), 0) >= ?3
