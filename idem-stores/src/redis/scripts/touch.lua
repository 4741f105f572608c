#!lua flags=allow-oom
-- Writes a running record as it is: who has this write has those before it.
-- KEYS[1] record
-- ARGV    token
-- Answers 1, or 0 where the token does not hold the record.
local head = redis.call('GETRANGE', KEYS[1], '0', '23')
if string.sub(head, 1, 1) ~= 'r' or string.sub(head, 3) ~= ARGV[1] then
  return 0
end
redis.call('SETRANGE', KEYS[1], '0', 'r')
return 1
