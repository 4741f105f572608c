#!lua flags=allow-oom
-- Takes the lease from an attempt, whoever holds it.
-- KEYS[1] record, and the channel of who watches it
-- ARGV    the attempt's number
-- Answers 1; 0 where this attempt does not hold the record; or -1 where the record cannot be read.
local head = redis.call('GETRANGE', KEYS[1], '0', '124')
if string.sub(head, 1, 1) ~= 'r' then
  return 0
elseif string.sub(head, 118) ~= string.sub(redis.sha1hex(string.sub(head, 1, 117)), 1, 8) then
  return -1
elseif tonumber(string.sub(head, 69, 78)) ~= tonumber(ARGV[1]) then
  return 0
end
local revoked = 'a' .. string.sub(head, 2, 2) .. string.rep('-', 22) .. string.sub(head, 25, 117)
redis.call('SETRANGE', KEYS[1], '0', revoked .. string.sub(redis.sha1hex(revoked), 1, 8))
if string.sub(head, 2, 2) == 'w' then
  redis.pcall('SPUBLISH', KEYS[1], '')
end
return 1
