#!lua flags=allow-oom
-- KEYS[1] record
-- ARGV    token, retention as stored, milliseconds to keep
-- Answers 1, or 0 where the token does not hold the record.
local head = redis.call('GETRANGE', KEYS[1], '0', '63')
if string.sub(head, 1, 2) ~= '1R' or string.sub(head, 40, 55) ~= ARGV[1] then
  return 0
end
if string.sub(head, 57, 64) ~= ARGV[2] then
  redis.call('SETRANGE', KEYS[1], '56', ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
