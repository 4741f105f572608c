#!lua flags=allow-oom
-- Removes a record that no lease protects, and that is as it was seen.
-- KEYS[1] record, and the channel of who watches it
-- ARGV    nothing for any record; else the letters that the state which was seen has, and the attempt as
--         records in that state have it
-- Answers 0 where it was removed; nil where there is none; the milliseconds that are left of its lease;
-- -1 where it cannot be told whether it has one; or -2 where it is not as it was seen.
local head = redis.call('GETRANGE', KEYS[1], '0', '124')
if head == '' then
  return nil
end
local state = string.sub(head, 1, 1)
if state == 'r' then
  if string.sub(head, 118) ~= string.sub(redis.sha1hex(string.sub(head, 1, 117)), 1, 8) then
    return -1
  end
  local left = redis.call('PTTL', KEYS[1]) - tonumber(string.sub(head, 92, 104))
  if left > 0 then
    return left
  end
end
if ARGV[1] then
  local at = state == 'f' and 46 or 69
  if not string.find(ARGV[1], state, 1, true)
      or string.sub(head, at, at + #ARGV[2] - 1) ~= ARGV[2] then
    return -2
  end
end
redis.call('DEL', KEYS[1])
if string.sub(head, 2, 2) == 'w' then
  redis.pcall('SPUBLISH', KEYS[1], '')
end
return 0
