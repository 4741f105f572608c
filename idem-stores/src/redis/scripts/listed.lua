#!lua flags=no-writes
-- KEYS[1] record
-- Answers {its beginning, its length, its end, milliseconds left}, or nil where there is none.
local head = redis.call('GETRANGE', KEYS[1], '0', '216')
if head == '' then
  return nil
end
return {
  head, redis.call('STRLEN', KEYS[1]), redis.call('GETRANGE', KEYS[1], '-18', '-1'),
  redis.call('PTTL', KEYS[1]),
}
