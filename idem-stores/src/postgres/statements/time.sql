-- $1 this statement
-- One row: the server's time, in microseconds since 1970.
SELECT 'time 1' AS statement, (extract(epoch FROM now()) * 1000000)::bigint AS claimed_at
WHERE $1 = 'time 1'
