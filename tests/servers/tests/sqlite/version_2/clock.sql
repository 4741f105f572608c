WITH clock (now) AS MATERIALIZED (
  SELECT CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) + clock_offset_ms
  FROM idem_schema
)
