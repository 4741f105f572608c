#!lua flags=allow-oom
-- KEYS[1] record, and the channel of who watches it
-- ARGV    token
-- Answers 1, or 0 where the token does not hold the record.
local head = redis.call('GETRANGE', KEYS[1], '0', '23')
if string.sub(head, 1, 1) ~= 'r' or string.sub(head, 3) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
if string.sub(head, 2, 2) == 'w' then
  redis.pcall('SPUBLISH', KEYS[1], '')
end
return 1
