-- $1 this statement, $2 record
-- Makes whoever ends the running attempt say so. One row says whether there is one. Null: it is
-- just being changed, ask again.
WITH running AS (
    SELECT watched FROM idem_records WHERE id = $2 AND expires_at > now()
        AND (outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps')
), marked AS (
    UPDATE idem_records SET watched = true
    WHERE $1 = 'watch 2' AND id = $2 AND expires_at > now() AND NOT watched
        AND (outcome IS NULL OR steps IS NOT NULL AND outcome = 'steps')
    RETURNING true
)
SELECT 'watch 2' AS statement, CASE
    WHEN EXISTS (SELECT FROM marked) THEN true
    WHEN NOT EXISTS (SELECT FROM running WHERE NOT watched) THEN EXISTS (SELECT FROM running)
    END AS runs
