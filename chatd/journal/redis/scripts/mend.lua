-- Remove entries of the feed that somebody has added by hand: those behind the last position.
--
-- KEYS: meta, feed. ARGV: the ids of entries that may be such.
--
-- The reply has 1 for each entry that stays, because it is not behind the last position, else 0.

local position = tonumber(redis.call('HGET', KEYS[1], 'pos'))
if not position then damaged(KEYS[1]) end
local foreign = {}
for _, id in ipairs(ARGV) do foreign[id] = true end
if redis.call('XRANGE', KEYS[2], '(' .. position .. '-0', '+', 'COUNT', 1)[1] then
  mend(KEYS[2], KEYS[1], position, foreign)
end
local stay = {}
for place, id in ipairs(ARGV) do
  stay[place] = #redis.call('XRANGE', KEYS[2], id, id)
end
return stay
