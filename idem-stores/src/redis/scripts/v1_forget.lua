#!lua flags=allow-oom
-- Removes a record of version 1 that no lease protects, and that is as it was seen.
-- KEYS[1] record of version 1
-- ARGV    nothing for any record; else the letters that the state which was seen has, and the attempt
-- Answers 0 where it was removed; nil where there is none; the milliseconds that are left of its lease;
-- -1 where it cannot be told whether it has one; or -2 where it is not as it was seen.
local record = redis.call('GET', KEYS[1])
if not record or record == '2' then
  return nil
end
if string.sub(record, 1, 2) == '1R' then
  if #record < 64 then
    return -1
  end
  local left = redis.call('PTTL', KEYS[1]) - struct.unpack('>I8', string.sub(record, 57, 64))
  if left > 0 then
    return left
  end
end
if ARGV[1] and (not string.find(ARGV[1], string.sub(record, 2, 2), 1, true)
    or string.sub(record, 3, 6) ~= ARGV[2]) then
  return -2
end
redis.call('DEL', KEYS[1])
return 0
