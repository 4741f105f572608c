-- ?1 how many at most, ?2 how many bytes of outcomes before the last one
DELETE FROM idem_records
WHERE rowid IN (
  SELECT rowid FROM (
    SELECT rowid, sum(bytes) OVER (ORDER BY gone_at, rowid) - bytes AS bytes_before FROM (
      SELECT rowid, gone_at, coalesce(length(outcome), 0) AS bytes FROM idem_records
      WHERE gone_at <= (SELECT now FROM clock)
      ORDER BY gone_at, rowid
      LIMIT ?1
    )
  )
  WHERE bytes_before < ?2
)
