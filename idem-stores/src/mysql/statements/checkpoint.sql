-- $1 record, $2 token, $3 where the bytes begin, $4 bytes
-- Not if it has fewer steps than that. What is there already is not appended again.
UPDATE idem_records SET
    steps = CONCAT(COALESCE(steps, x''),
        SUBSTRING($4, OCTET_LENGTH(COALESCE(steps, x'')) - $3 + 1))
WHERE id = $1 AND token = $2 AND expires_at > UTC_TIMESTAMP(6) AND state = 'running'
    AND COALESCE(OCTET_LENGTH(steps), 0) >= $3
