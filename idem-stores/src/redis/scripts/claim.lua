#!lua flags=allow-oom
-- A claim of a record that is running: takes a crashed attempt over, or says what is there.
-- KEYS[1] record
-- ARGV    token, fingerprint, retention as stored, milliseconds to keep, "1" to rerun
-- Answers the new attempt's number; or {record, milliseconds left}; or nil where there is none.
local record = redis.call('GET', KEYS[1])
if not record then
  return nil
end
local left = redis.call('PTTL', KEYS[1])
local state = string.sub(record, 1, 2)
local crashed = state == '1A'
  or (state == '1R' and #record >= 64 and left >= 0 and left <= struct.unpack('>I8', string.sub(record, 57, 64)))
if not crashed or ARGV[5] ~= '1'
  or string.sub(record, 7, 39) ~= ARGV[2]
  or (state == '1R' and string.sub(record, 40, 55) == ARGV[1])
then
  return {record, left}
end
local attempt = math.min(struct.unpack('>I4', string.sub(record, 3, 6)) + 1, 4294967295)
local watched = string.sub(record, 56, 56)
redis.call('SET', KEYS[1],
  '1R' .. struct.pack('>I4', attempt) .. ARGV[2] .. ARGV[1] .. watched .. ARGV[3],
  'PX', ARGV[4])
return attempt
