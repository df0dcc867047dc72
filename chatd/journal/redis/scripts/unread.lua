#!lua flags=no-writes
-- Count the messages by other users that follow a number, without deleted ones.
--
-- KEYS: the room, its records. ARGV: the number, the user, the most to count, the most to read.
--
-- The reply is the count, and the last number that was read if more events follow, else nil.

local head = redis.call('HMGET', KEYS[1], 'seq', 'first')
local last = tonumber(head[1] or 0)
local room_first = tonumber(head[2] or 1)
if not (last and room_first) then return redis.error_reply('DAMAGED ' .. KEYS[1]) end
local first = math.max(tonumber(ARGV[1]) + 1, room_first)
local upto = math.min(last, first + tonumber(ARGV[4]) - 1)
local count, most = 0, tonumber(ARGV[3])
for seq = first, upto do
  if count >= most then break end
  local record = redis.call('HGET', KEYS[2], seq)
  if not record then return redis.error_reply('DAMAGED ' .. KEYS[2]) end
  local deleted, user = record:match('^m%d+ %d+ %d+ (%d) ([^%z]*)')
  if deleted == '0' and user ~= ARGV[2] then count = count + 1 end
end
return {count, upto < last and upto or false}
