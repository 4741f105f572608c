-- $1 record, $2 token
-- One row if the token holds the record, or has finished it.
SELECT state FROM idem_records WHERE id = $1 AND token = $2 AND expires_at > UTC_TIMESTAMP(6)
