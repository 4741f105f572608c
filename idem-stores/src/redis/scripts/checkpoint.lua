#!lua flags=allow-oom
-- Appends finished steps. The time that is left of the record and of its lease stays as it is.
-- KEYS[1] record
-- ARGV    token, the number of bytes of steps before these, steps
-- Answers 1; 0 where the token does not hold the record or steps before these are missing; or -1 where the record cannot be
-- read.
local head = redis.call('GETRANGE', KEYS[1], '0', '128')
local state = string.sub(head, 1, 1)
if state ~= 'r' then
  return (state == '' or state == 'a' or state == 's' or state == 'f') and 0 or -1
elseif string.sub(head, 3, 24) ~= ARGV[1] then
  return 0
end
-- Writes nothing new, and tells the length. Who has this write has those before it.
local length = redis.call('SETRANGE', KEYS[1], '0', 'r')
local sections = 125
if string.sub(head, 126, 126) == 'n' then
  sections = 137 + (tonumber(string.sub(head, 127, 129)) or 0)
end
local kept = 0
if length > sections then
  kept = tonumber(redis.call('GETRANGE', KEYS[1], '-18', '-9'))
end
if length < sections or not kept then
  return -1
end
local before = tonumber(ARGV[2])
if kept < before then
  return 0
end
local missing = string.sub(ARGV[3], kept - before + 1)
if missing ~= '' then
  local section = 's' .. string.format('%010.0f', #missing) .. missing
    .. string.format('%010.0f', kept + #missing)
  redis.call('SETRANGE', KEYS[1], length, section .. string.sub(redis.sha1hex(section), 1, 8))
end
return 1
