#!lua flags=allow-oom
-- A claim of a record that is running: takes a crashed attempt over, or says what is there.
-- KEYS[1] record
-- ARGV    record of a first attempt, milliseconds to keep, "1" to rerun
-- Answers the new attempt's number; or {record, milliseconds left}; or nil where there is none.
local record = redis.call('GET', KEYS[1])
if not record then
  return nil
end
local left = redis.call('PTTL', KEYS[1])
local state = string.sub(record, 1, 1)
-- A longer one has what this version does not know. The seal is looked at before what it covers.
local crashed = ARGV[3] == '1' and #record == 125 and (state == 'r' or state == 'a')
  and string.sub(record, 118) == string.sub(redis.sha1hex(string.sub(record, 1, 117)), 1, 8)
  and (state == 'a' or (left >= 0 and left <= tonumber(string.sub(record, 92, 104))))
if not crashed or string.sub(record, 25, 68) ~= string.sub(ARGV[1], 25, 68)
  or (state == 'r' and string.sub(record, 3, 24) == string.sub(ARGV[1], 3, 24))
then
  return {record, left}
end
local attempt = math.min(tonumber(string.sub(record, 69, 78)) + 1, 4294967295)
local next = 'r' .. string.sub(record, 2, 2) .. string.sub(ARGV[1], 3, 68)
  .. string.format('%010.0f', attempt) .. string.sub(ARGV[1], 79, 117)
redis.call('SET', KEYS[1], next .. string.sub(redis.sha1hex(next), 1, 8), 'PX', ARGV[2])
return attempt
