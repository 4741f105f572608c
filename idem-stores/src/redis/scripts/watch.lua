#!lua flags=allow-oom
-- Makes whoever ends the running attempt publish it.
-- KEYS[1] record
-- Answers 1, or 0 where nothing is running.
local head = redis.call('GETRANGE', KEYS[1], '0', '124')
local state = string.sub(head, 1, 1)
if (state ~= 'r' and state ~= 'a')
  or string.sub(head, 118) ~= string.sub(redis.sha1hex(string.sub(head, 1, 117)), 1, 8)
then
  return 0
end
if string.sub(head, 2, 2) ~= 'w' then
  local watched = state .. 'w' .. string.sub(head, 3, 117)
  redis.call('SETRANGE', KEYS[1], '0', watched .. string.sub(redis.sha1hex(watched), 1, 8))
end
return 1
