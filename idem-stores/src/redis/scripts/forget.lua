#!lua flags=allow-oom
-- Removes a record that no lease protects.
-- KEYS[1] record, and the channel of who watches it
-- Answers 0 where it was removed; nil where there is none; the milliseconds that are left of its lease;
-- or -1 where it cannot be told whether it has one.
local head = redis.call('GETRANGE', KEYS[1], '0', '124')
if head == '' then
  return nil
end
if string.sub(head, 1, 1) == 'r' then
  if string.sub(head, 118) ~= string.sub(redis.sha1hex(string.sub(head, 1, 117)), 1, 8) then
    return -1
  end
  local left = redis.call('PTTL', KEYS[1]) - tonumber(string.sub(head, 92, 104))
  if left > 0 then
    return left
  end
end
redis.call('DEL', KEYS[1])
if string.sub(head, 2, 2) == 'w' then
  redis.pcall('SPUBLISH', KEYS[1], '')
end
return 0
