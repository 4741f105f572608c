#!lua flags=allow-oom
-- Removes a record of version 1 that no lease protects.
-- KEYS[1] record of version 1
-- Answers 0 where it was removed; nil where there is none; the milliseconds that are left of its lease;
-- or -1 where it cannot be told whether it has one.
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
redis.call('DEL', KEYS[1])
return 0
