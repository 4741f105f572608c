#!lua flags=allow-oom
-- KEYS[1] record, and the channel of who watches it
-- ARGV    token, outcome, milliseconds to keep
-- Answers 1, also to the same completion again; or 0 where the token does not hold the record.
local head = redis.call('GETRANGE', KEYS[1], '0', '55')
if string.sub(head, 40, 55) ~= ARGV[1] then
  return 0
end
local state = string.sub(head, 1, 2)
if state == '1R' then
  redis.call('SET', KEYS[1], '1F' .. string.sub(head, 3, 55) .. ARGV[2], 'PX', ARGV[3])
  if string.sub(head, 56, 56) == '\1' then
    redis.pcall('SPUBLISH', KEYS[1], '')
  end
  return 1
end
return state == '1F' and 1 or 0
