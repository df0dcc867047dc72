#!lua flags=no-writes
-- Read a part of a room's log: the numbers after one and up to another.
--
-- KEYS: the room, its records. ARGV: after, upto, how many, 'first' or 'last' of them, and 'present'
-- if edits come with the present text of their messages, else 'stored'.
--
-- The reply is the room's name, the number of the first record, and the records, whose numbers have
-- no gap.

local head = redis.call('HMGET', KEYS[1], 'name', 'seq', 'first')
local room_first, room_last = tonumber(head[3] or 1), tonumber(head[2] or 0)
if not (room_first and room_last) or (not head[1] and redis.call('EXISTS', KEYS[2]) == 1) then
  return redis.error_reply('DAMAGED ' .. KEYS[1])
end
local first = math.max(tonumber(ARGV[1]) + 1, room_first)
local last = math.min(tonumber(ARGV[2]), room_last)
local limit = tonumber(ARGV[3])
if ARGV[4] == 'first' then
  last = math.min(last, first + limit - 1)
else
  first = math.max(first, last - limit + 1)
end
if first > last then return {head[1] or '', first} end

local numbers = {}
for seq = first, last do numbers[#numbers + 1] = seq end
local records = redis.call('HMGET', KEYS[2], unpack(numbers))
for place = 1, #numbers do
  if not records[place] then return redis.error_reply('DAMAGED ' .. KEYS[2]) end
end
if ARGV[5] == 'present' then
  for place, record in ipairs(records) do
    if record:byte() == 101 then -- 'e'
      local target = redis.call('HGET', KEYS[2], record:match('^[^%z]*%z[^%z]*%z(%d*)'))
      local text = target and target:byte() == 109 -- 'm'
        and target:match('^[^%z]*%z[^%z]*%z[^%z]*%z[^%z]*%z[^%z]*(.*)$')
      records[place] = record .. (text or '')
    end
  end
end
table.insert(records, 1, first)
table.insert(records, 1, head[1])
return records
