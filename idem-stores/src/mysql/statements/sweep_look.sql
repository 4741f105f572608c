-- $1 how many, $2 where the last sweep ended, in microseconds since 1970
-- Locks up to so many expired records that nobody else has locked. Without gaps between them: claims
-- insert there.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
START TRANSACTION;
SELECT id, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', sweep_at) AS sweep_at
FROM idem_records FORCE INDEX (idem_records_sweep_at)
WHERE sweep_at >= TIMESTAMP'1970-01-01 00:00:00' + INTERVAL $2 MICROSECOND
    AND sweep_at <= UTC_TIMESTAMP(6) AND expires_at <= UTC_TIMESTAMP(6)
ORDER BY sweep_at LIMIT $1
FOR UPDATE SKIP LOCKED
