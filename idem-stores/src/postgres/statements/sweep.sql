-- $1 how many rows at most, $2 where the last sweep ended
-- By their places: whatever the statistics say, only the rows that were locked are looked at.
WITH swept AS (
    DELETE FROM idem_records
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idem_records
        WHERE sweep_at <= now() AND expires_at <= now()
            AND sweep_at >= coalesce($2::timestamptz, '-infinity')
        ORDER BY sweep_at
        LIMIT $1
        FOR UPDATE SKIP LOCKED))
    AND expires_at <= now()
    RETURNING sweep_at
)
SELECT count(*), max(sweep_at)::text FROM swept
