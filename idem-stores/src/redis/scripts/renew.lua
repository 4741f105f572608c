#!lua flags=allow-oom
-- KEYS[1] record
-- ARGV    record as it would be created, milliseconds to keep, "1" where the lease is unbroken
-- Answers 1; 2 where it was created again; 0 where the token does not hold the record; or -1 where the record cannot be read.
local head = redis.call('GETRANGE', KEYS[1], '0', '124')
local state = string.sub(head, 1, 1)
if state == 'r' then
  if string.sub(head, 3, 24) ~= string.sub(ARGV[1], 3, 24) then
    return 0
  end
  if string.sub(head, 118) ~= string.sub(redis.sha1hex(string.sub(head, 1, 117)), 1, 8) then
    return -1
  end
  local times = string.sub(ARGV[1], 79, 104)
  if string.sub(head, 79, 104) ~= times then
    local renewed = string.sub(head, 1, 78) .. times .. string.sub(head, 105, 117)
    redis.call('SETRANGE', KEYS[1], '0', renewed .. string.sub(redis.sha1hex(renewed), 1, 8))
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
elseif state == 'a' or state == 's' or state == 'f' then
  return 0
elseif state ~= '' then
  return -1
elseif ARGV[3] ~= '1' then
  return 0
end
-- Forgotten under its owner. What is there and empty is nobody's.
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 2 or -1
