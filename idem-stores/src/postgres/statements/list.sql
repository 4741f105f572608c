-- $1 this statement, $2 the id before the first one, $3 how many, $4 the state; null: any, $5 the
-- operation's name; null: any
-- At least one row; the records are in those that have an id. No more than 2000 records are looked at,
-- whatever is asked for, so that every page takes about as long. `looked_to` is the last one of so
-- many; null: there are no more.
WITH looked_at AS (
    SELECT id, attempt, operation, claimed_at,
        lease_until - now() AS lease_left, expires_at - now() AS kept,
        CASE
            WHEN outcome IS NOT NULL AND (steps IS NULL OR outcome NOT IN ('steps', 'suspended'))
                THEN 'finished'
            WHEN outcome IS NOT NULL AND outcome = 'suspended' THEN 'suspended'
            WHEN token IS NOT NULL AND lease_until > now() THEN 'running'
            ELSE 'crashed' END AS state,
        octet_length(outcome) AS outcome_bytes,
        CASE WHEN outcome IS NOT NULL THEN octet_length(steps) END AS steps_bytes
    FROM idem_records
    WHERE $1 = 'list 1' AND id > $2
    ORDER BY id
    LIMIT 2000
), page AS (
    SELECT * FROM looked_at
    WHERE kept > interval '0' AND ($4 IS NULL OR state = $4) AND ($5 IS NULL OR operation = $5)
    ORDER BY id
    LIMIT $3
)
SELECT 'list 1' AS statement, looked_to, id, attempt, operation, state,
    (extract(epoch FROM claimed_at) * 1000000)::bigint AS claimed_at,
    CASE WHEN state = 'running' THEN
        (extract(epoch FROM lease_left) * 1000000)::bigint END AS lease_left,
    (extract(epoch FROM kept) * 1000000)::bigint AS kept,
    coalesce(CASE WHEN state = 'finished' THEN outcome_bytes ELSE steps_bytes END, 0) AS bytes
FROM (SELECT (SELECT id FROM looked_at ORDER BY id OFFSET 1999) AS looked_to) AS one
LEFT JOIN page ON true
ORDER BY id
