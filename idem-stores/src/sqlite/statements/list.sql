, looked_at AS MATERIALIZED (
  SELECT
    id,
    attempt,
    operation,
    claimed_at,
    CASE
      WHEN outcome IS NOT NULL AND (steps IS NULL OR outcome NOT IN (x'00', x'ff')) THEN 'finished'
      WHEN outcome IS NOT NULL AND outcome = x'ff' THEN 'suspended'
      WHEN token IS NOT NULL AND lease_until > now THEN 'running'
      ELSE 'crashed'
    END AS state,
    length(outcome) AS outcome_bytes,
    iif(outcome IS NULL, NULL, length(steps)) AS steps_bytes,
    lease_until - now AS lease_left,
    gone_at - now AS kept
  FROM clock CROSS JOIN idem_records
  WHERE id > ?1
  ORDER BY id
  LIMIT 2000
)
-- ?1 the id before the first one, ?2 how many, ?3 the state, or NULL for any, ?4 the operation's name, or
-- NULL for any
-- At least one row; the records are in those that have an id. No more than 2000 records are looked at,
-- whatever is asked for, so that every page takes about as long. `looked_to` is the last one of so
-- many; NULL: there are no more.
SELECT
  looked_to,
  id,
  attempt,
  operation,
  claimed_at,
  state,
  lease_left,
  kept,
  coalesce(iif(state = 'finished', outcome_bytes, steps_bytes), 0) AS bytes
FROM (SELECT (SELECT id FROM looked_at ORDER BY id LIMIT 1 OFFSET 1999) AS looked_to)
LEFT JOIN (
  SELECT * FROM looked_at
  WHERE kept > 0 AND (?3 IS NULL OR state = ?3) AND (?4 IS NULL OR operation = ?4)
  ORDER BY id
  LIMIT ?2
) ON true
ORDER BY id
