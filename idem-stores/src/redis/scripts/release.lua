#!lua flags=allow-oom
-- Removes the record, or suspends it if it has steps.
-- KEYS[1] record, and the channel of who watches it
-- ARGV    token
-- Answers 1; 0 where the token does not hold the record; or -1 where the record cannot be read.
-- The head, and one character more than the longest name takes.
local head = redis.call('GETRANGE', KEYS[1], '0', '217')
if string.sub(head, 1, 1) ~= 'r' or string.sub(head, 3, 24) ~= ARGV[1] then
  return 0
end
local sections = 125
if string.sub(head, 126, 126) == 'n' then
  sections = 137 + (tonumber(string.sub(head, 127, 129)) or 0)
end
if #head <= sections then
  redis.call('DEL', KEYS[1])
elseif string.sub(head, 118, 125) ~= string.sub(redis.sha1hex(string.sub(head, 1, 117)), 1, 8) then
  return -1
else
  local suspended = 's-' .. string.rep('-', 22) .. string.sub(head, 25, 117)
  redis.call('SETRANGE', KEYS[1], '0', suspended .. string.sub(redis.sha1hex(suspended), 1, 8))
  redis.call('PEXPIRE', KEYS[1], tonumber(string.sub(head, 92, 104)))
end
if string.sub(head, 2, 2) == 'w' then
  redis.pcall('SPUBLISH', KEYS[1], '')
end
return 1
