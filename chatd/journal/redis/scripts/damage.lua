-- What to do where somebody has changed chatd's keys by hand. This comes before other scripts.

local function damaged(key)
  error({err = 'DAMAGED ' .. key})
end

-- Make the feed again without what somebody has added to it by hand. The ids of a stream's entries
-- only increase, so nothing could be added behind the last position otherwise.
--
-- `foreign` has the ids of entries that do not follow another one or cannot be read. If a different
-- entry behind the last position looks like chatd's, it is that position that is wrong.
--
-- The last 1,000 entries are kept, which takes some 2 ms. A node that has not read as far reads the
-- rooms' logs instead.
local function mend(feed, meta, position, foreign)
  for _, entry in ipairs(redis.call('XRANGE', feed, '(' .. position .. '-0', '+')) do
    if not foreign[entry[1]] and entry[2][1] == 'o' and entry[2][3] == 'k' then damaged(meta) end
  end
  local kept = redis.call('XREVRANGE', feed, position .. '-0', '-', 'COUNT', 1000)
  redis.call('DEL', feed)
  for place = #kept, 1, -1 do
    redis.call('XADD', feed, kept[place][1], unpack(kept[place][2]))
  end
end

-- Add an entry to the feed. It fails before it has changed anything, or not at all.
local function add_entry(feed, meta, position, fields)
  local id = position .. '-0'
  local added = redis.pcall('XADD', feed, id, unpack(fields))
  if type(added) == 'table' and added.err then
    if not added.err:find('equal or smaller', 1, true) then error(added) end
    mend(feed, meta, position - 1, {})
    redis.call('XADD', feed, id, unpack(fields))
  end
end
