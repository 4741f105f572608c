#!lua flags=allow-oom
-- Makes whoever ends the running attempt publish it.
-- KEYS[1] record
-- Answers 1, or 0 where nothing is running.
local state = redis.call('GETRANGE', KEYS[1], '0', '1')
if state ~= '1R' and state ~= '1A' then
  return 0
end
redis.call('SETRANGE', KEYS[1], '55', '\1')
return 1
