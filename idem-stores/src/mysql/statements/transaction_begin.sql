-- $1 record, $2 fingerprint, $3 token, $4 retention in microseconds, $5 whether to rerun after a crash,
-- $6 the operation's name
-- A transaction that a dropped `begin` has left open ends here.
ROLLBACK;
SELECT attempt, state, fingerprint = $2 AS same, token <=> $3 AS own,
    token IS NULL OR lease_until <= UTC_TIMESTAMP(6) AS crashed,
    IF(state = 'finished', outcome, NULL) AS outcome,
    TIMESTAMPDIFF(MICROSECOND, '1970-01-01', claimed_at) AS claimed_at,
    TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at) AS kept, @@max_allowed_packet AS max_message
FROM (SELECT 1) AS one
LEFT JOIN idem_records ON id = $1 AND expires_at > UTC_TIMESTAMP(6);
SELECT COUNT(*) INTO @idem_stands FROM idem_records
WHERE id = $1 AND expires_at > UTC_TIMESTAMP(6) AND NOT (fingerprint = $2 AND (
    state = 'suspended'
    OR state = 'running' AND $5 AND (token IS NULL OR lease_until <= UTC_TIMESTAMP(6))));
-- Where something stands, two rows are an error, and nothing that follows is done: no lock, and no
-- transaction.
SELECT (SELECT 1 FROM (SELECT 1 UNION ALL SELECT 1) AS two WHERE @idem_stands > 0) INTO @idem_none;
-- Fails at once where another transaction has the record. This one is not in a transaction, and keeps no
-- lock. Of two that come here at the same time, one waits for the other's insertion below.
SELECT id FROM idem_records WHERE id = $1 FOR UPDATE NOWAIT;
START TRANSACTION;
SET @idem_wait = @@innodb_lock_wait_timeout,
    SESSION innodb_lock_wait_timeout = /*M! 0 */ /*!80000 1 */;
-- The row is this transaction's until it ends, inserted or found. If the body commits by itself, it is a
-- crash.
INSERT INTO idem_records
    (id, fingerprint, attempt, state, token, claimed_at, lease_until, expires_at, sweep_at, operation)
VALUES ($1, $2, 1, 'running', $3, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6),
    UTC_TIMESTAMP(6) + INTERVAL $4 MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL $4 MICROSECOND, $6)
ON DUPLICATE KEY UPDATE id = $1;
SET SESSION innodb_lock_wait_timeout = @idem_wait;
-- The row as it is now, whatever the transaction's isolation level.
SELECT attempt, state, fingerprint = $2 AS same, token <=> $3 AS own,
    token IS NULL OR lease_until <= UTC_TIMESTAMP(6) AS crashed,
    IF(state = 'finished', outcome, NULL) AS outcome,
    TIMESTAMPDIFF(MICROSECOND, '1970-01-01', claimed_at) AS claimed_at,
    TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at) AS kept,
    CONNECTION_ID() AS session, @@wait_timeout AS silence,
    /*M! @@idle_transaction_timeout */ /*!80000 0 */ AS silence_within
FROM idem_records WHERE id = $1 FOR UPDATE
