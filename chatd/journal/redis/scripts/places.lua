#!lua flags=no-writes
-- Find where a room's log was at some positions of the store.
--
-- KEYS: the room, its records. ARGV: the positions.
--
-- The reply is the room's first number, the position of the last event that was removed, and for each
-- position the number of the room's last event up to it; if there is none, one less than the first.

local head = redis.call('HMGET', KEYS[1], 'seq', 'first', 'gone')
local first, last = tonumber(head[2] or 1), tonumber(head[1] or 0)
if not (first and last) then return redis.error_reply('DAMAGED ' .. KEYS[1]) end
local found = {first, tonumber(head[3] or 0)}
for _, position in ipairs(ARGV) do
  local low, high = first - 1, last -- the answer is one of these
  while low < high do
    local middle = math.ceil((low + high) / 2)
    local at = (redis.call('HGET', KEYS[2], middle) or ''):match('^%a(%d+)')
    if not at then return redis.error_reply('DAMAGED ' .. KEYS[2]) end
    if tonumber(at) <= tonumber(position) then
      low = middle
    else
      high = middle - 1
    end
  end
  found[#found + 1] = low
end
return found
