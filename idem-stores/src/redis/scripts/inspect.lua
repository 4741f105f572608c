#!lua flags=no-writes
-- KEYS[1] record
-- Answers {record, milliseconds left}, or nil where there is none.
local record = redis.call('GET', KEYS[1])
return record and {record, redis.call('PTTL', KEYS[1])}
