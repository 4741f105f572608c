-- ?1 how many at most
DELETE FROM idem_records
WHERE rowid IN (
  SELECT rowid FROM idem_records
  WHERE gone_at <= (SELECT now FROM clock)
  ORDER BY gone_at
  LIMIT ?1
)
