#!lua flags=allow-oom
-- A claim of a record of version 1 that is running: ends a crashed attempt, or says what is there.
-- KEYS[1] record of version 1
-- ARGV    fingerprint, what version 1 cannot read, milliseconds to keep that, "1" to rerun
-- Answers the crashed attempt's number; or {record, milliseconds left}; or nil where there is none.
local record = redis.call('GET', KEYS[1])
if not record then
  return nil
end
local left = redis.call('PTTL', KEYS[1])
local state = string.sub(record, 1, 2)
local crashed = state == '1A'
  or (state == '1R' and #record >= 64 and left >= 0 and left <= struct.unpack('>I8', string.sub(record, 57, 64)))
if not crashed or ARGV[4] ~= '1' or string.sub(record, 7, 39) ~= ARGV[1] then
  return {record, left}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return struct.unpack('>I4', string.sub(record, 3, 6))
