#!lua flags=allow-oom
-- Ends the attempt without an outcome. The record stays for its retention from now.
-- KEYS[1] record, and the channel of who watches it
-- ARGV    token
-- Answers 1; 0 where the token does not hold the record; or -1 where the record cannot be read.
local head = redis.call('GETRANGE', KEYS[1], '0', '124')
if string.sub(head, 1, 1) ~= 'r' or string.sub(head, 3, 24) ~= ARGV[1] then
  return 0
elseif string.sub(head, 118) ~= string.sub(redis.sha1hex(string.sub(head, 1, 117)), 1, 8) then
  return -1
end
local suspended = 's-' .. string.rep('-', 22) .. string.sub(head, 25, 117)
redis.call('SETRANGE', KEYS[1], '0', suspended .. string.sub(redis.sha1hex(suspended), 1, 8))
redis.call('PEXPIRE', KEYS[1], tonumber(string.sub(head, 92, 104)))
if string.sub(head, 2, 2) == 'w' then
  redis.pcall('SPUBLISH', KEYS[1], '')
end
return 1
