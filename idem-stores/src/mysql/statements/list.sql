-- $1 the first id, $2 how many, $3 the state; null: any, $4 the operation's name; null: any
-- At least one row; the records are in those that have an id. No more than 2000 records are looked at,
-- whatever is asked for, so that every page takes about as long. `looked_to` is the last one of so many;
-- null: there are no more.
SELECT looked_to, id, attempt, operation, word, claimed_at, lease_left, kept, bytes
FROM (
    SELECT (SELECT id FROM idem_records WHERE id >= $1 ORDER BY id LIMIT 1 OFFSET 1999) AS looked_to
) AS one
LEFT JOIN (
    SELECT * FROM (
        SELECT id, attempt, operation,
            CASE
                WHEN state <> 'running' THEN CAST(state AS char)
                WHEN token IS NOT NULL AND lease_until > UTC_TIMESTAMP(6) THEN 'running'
                ELSE 'crashed' END AS word,
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', claimed_at) AS claimed_at,
            IF(state = 'running' AND token IS NOT NULL,
                TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), lease_until), NULL) AS lease_left,
            TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at) AS kept,
            COALESCE(OCTET_LENGTH(IF(state = 'finished', outcome, steps)), 0) AS bytes
        FROM idem_records WHERE id >= $1 ORDER BY id LIMIT 2000
    ) AS looked_at
    WHERE kept > 0 AND ($3 IS NULL OR word = $3) AND ($4 IS NULL OR operation = $4)
    ORDER BY id LIMIT $2
) AS page ON TRUE
ORDER BY id
