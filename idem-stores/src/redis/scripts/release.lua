#!lua flags=allow-oom
-- KEYS[1] record, and the channel of who watches it
-- ARGV    token
-- Answers 1, or 0 where the token does not hold the record.
local head = redis.call('GETRANGE', KEYS[1], '0', '55')
if string.sub(head, 1, 2) ~= '1R' or string.sub(head, 40, 55) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
if string.sub(head, 56, 56) == '\1' then
  redis.pcall('SPUBLISH', KEYS[1], '')
end
return 1
