#!lua flags=allow-oom
-- A claim of a record that is not finished: takes it over, or says what is there.
-- KEYS[1] record
-- ARGV    record of a first attempt, milliseconds to keep, "1" to rerun
-- Answers the new attempt's number; or {number, sections of steps, "s" where the record was suspended};
-- or {record, milliseconds left}; or nil where there is none.
local record = redis.call('GET', KEYS[1])
if not record then
  return nil
end
local left = redis.call('PTTL', KEYS[1])
local state = string.sub(record, 1, 1)
-- A checksum is looked at before what it covers.
local function sealed(from, to)
  return string.sub(record, to + 1, to + 8) == string.sub(redis.sha1hex(string.sub(record, from, to)), 1, 8)
end
local free = (state == 's' or (ARGV[3] == '1' and (state == 'r' or state == 'a'))) and sealed(1, 117)
  and (state ~= 'r' or (left >= 0 and left <= tonumber(string.sub(record, 92, 104))))
if not free or string.sub(record, 25, 68) ~= string.sub(ARGV[1], 25, 68)
  or (state == 'r' and string.sub(record, 3, 24) == string.sub(ARGV[1], 3, 24))
then
  return {record, left}
end
-- What cannot be read is not taken over.
local at = 126
if string.sub(record, at, at) == 'n' then
  local last = at + 3 + (tonumber(string.sub(record, at + 1, at + 3)) or 0)
  if not sealed(at, last) then
    return {record, left}
  end
  at = last + 9
end
local name = string.sub(record, 126, at - 1)
local steps = string.sub(record, at)
local total = 0
while at <= #record do
  local length = tonumber(string.sub(record, at + 1, at + 10))
  local last = at + 20 + (length or 0)
  if string.sub(record, at, at) ~= 's' or not length or not sealed(at, last) then
    return {record, left}
  end
  total = total + length
  if tonumber(string.sub(record, last - 9, last)) ~= total then
    return {record, left}
  end
  at = last + 9
end
if #ARGV[1] > 125 then
  name = string.sub(ARGV[1], 126)
end
local attempt = math.min(tonumber(string.sub(record, 69, 78)) + 1, 4294967295)
local next = 'r' .. (state == 's' and '-' or string.sub(record, 2, 2)) .. string.sub(ARGV[1], 3, 68)
  .. string.format('%010.0f', attempt) .. string.sub(ARGV[1], 79, 117)
redis.call('SET', KEYS[1], next .. string.sub(redis.sha1hex(next), 1, 8) .. name .. steps, 'PX', ARGV[2])
if steps == '' and state ~= 's' then
  return attempt
end
return {attempt, steps, state}
