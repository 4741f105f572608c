-- $1 record
-- Makes whoever ends the running attempt say so. One row says whether there is one. None: it is
-- just being changed, ask again.
WITH running AS (
    SELECT watched FROM idem_records WHERE id = $1 AND outcome IS NULL AND expires_at > now()
), marked AS (
    UPDATE idem_records SET watched = true
    WHERE id = $1 AND outcome IS NULL AND expires_at > now() AND NOT watched
    RETURNING true
)
SELECT EXISTS (SELECT FROM running)
WHERE EXISTS (SELECT FROM marked) OR NOT EXISTS (SELECT FROM running WHERE NOT watched)
