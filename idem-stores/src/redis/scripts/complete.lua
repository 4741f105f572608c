#!lua flags=allow-oom
-- The seal is not looked at: the token is its owner's, and everything else is written anew.
-- KEYS[1] record, and the channel of who watches it
-- ARGV    token, milliseconds to keep, "1" where the lease is unbroken, finished record from its 7th
--         byte on, "1" to write a record again that is finished already: who has this write has those
--         before it
-- Answers 1, also to the same completion again; 2 where it was created again; 0 where the token does not hold the record; or -1
-- where the record cannot be read.
local head = redis.call('GETRANGE', KEYS[1], '0', '116')
local state = string.sub(head, 1, 1)
if state == 'r' then
  if string.sub(head, 3, 24) ~= ARGV[1] then
    return 0
  end
  local claimed = tonumber(string.sub(head, 105, 116)) or 0
  redis.call('SET', KEYS[1], 'f' .. struct.pack('>I5', claimed) .. ARGV[4], 'PX', ARGV[2])
  if string.sub(head, 2, 2) == 'w' then
    redis.pcall('SPUBLISH', KEYS[1], '')
  end
  return 1
elseif state == 'f' then
  if string.sub(head, 7, 12) ~= string.sub(ARGV[4], 1, 6) then
    return 0
  end
  if ARGV[5] == '1' then
    redis.call('SETRANGE', KEYS[1], '0', 'f')
  end
  return 1
elseif state == 'a' or state == 's' then
  return 0
elseif state ~= '' then
  return -1
elseif ARGV[3] ~= '1' then
  return 0
end
-- Forgotten under its owner. What is there and empty is nobody's.
local created = 'f\0\0\0\0\0' .. ARGV[4]
return redis.call('SET', KEYS[1], created, 'NX', 'PX', ARGV[2]) and 2 or -1
