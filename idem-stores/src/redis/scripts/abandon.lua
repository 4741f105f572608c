#!lua flags=allow-oom
-- KEYS[1] record, and the channel of who watches it
-- ARGV    token
-- Answers 1, or 0 where the token does not hold the record.
local head = redis.call('GETRANGE', KEYS[1], '0', '124')
if string.sub(head, 1, 1) ~= 'r' or string.sub(head, 3, 24) ~= ARGV[1]
  or string.sub(head, 118) ~= string.sub(redis.sha1hex(string.sub(head, 1, 117)), 1, 8)
then
  return 0
end
local abandoned = 'a' .. string.sub(head, 2, 2) .. string.rep('-', 22) .. string.sub(head, 25, 117)
redis.call('SETRANGE', KEYS[1], '0', abandoned .. string.sub(redis.sha1hex(abandoned), 1, 8))
if string.sub(head, 2, 2) == 'w' then
  redis.pcall('SPUBLISH', KEYS[1], '')
end
return 1
