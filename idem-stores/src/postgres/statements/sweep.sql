-- $1 this statement, $2 how many rows at most, $3 where the last sweep ended, in microseconds
-- since 1970
-- By their places: whatever the statistics say, only the rows that were locked are looked at.
WITH swept AS (
    DELETE FROM idem_records
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idem_records
        WHERE $1 = 'sweep 1' AND sweep_at <= now() AND expires_at <= now()
            AND sweep_at >= coalesce(
                timestamptz 'epoch' + $3::bigint * interval '1 microsecond', '-infinity')
        ORDER BY sweep_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED))
    AND expires_at <= now()
    RETURNING sweep_at
)
SELECT 'sweep 1' AS statement, count(*) AS records,
    (extract(epoch FROM max(sweep_at)) * 1000000)::bigint AS swept_to
FROM swept
