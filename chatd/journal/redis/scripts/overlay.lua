-- An overlay that holds a script's writes until the script has decided everything.
--
-- Redis does not roll back: a script that fails between two writes leaves the first one behind.
-- So commit.lua does not write while it reads. `get` and `score` return what this script has set
-- before, or else what is stored; `set`, `rank` and `append` only note the change; `flush` writes all
-- changes at the end, when nothing can fail any more: Redis checks the memory before the script begins
-- (`#!lua` without `allow-oom`), and `flush` first makes sure that the keys have the right types and
-- that the commands are allowed.
--
-- An operation therefore sees the effects of the earlier ones of its batch, and a batch is carried
-- out as a whole or not at all.

local call = redis.call

local hashes = {}  -- key → field → value, or false where the field is deleted
local ranks = {}   -- key → member → score, or false where the member is removed
local entries = {} -- position → fields and values of the feed's entry, where there is one

local function get(key, field)
  local fields = hashes[key]
  local value = fields and fields[field]
  if value ~= nil then return value end
  return call('HGET', key, field)
end

local function set(key, field, value)
  local fields = hashes[key]
  if not fields then
    fields = {}
    hashes[key] = fields
  end
  fields[field] = value
end

local function score(key, member)
  local members = ranks[key]
  local value = members and members[member]
  if value ~= nil then return value end
  return call('ZSCORE', key, member)
end

local function rank(key, member, value)
  local members = ranks[key]
  if not members then
    members = {}
    ranks[key] = members
  end
  members[member] = value
end

-- Lua's stack holds 8,000 values at most.
local function in_parts(command, key, values)
  for from = 1, #values, 4000 do
    call(command, key, unpack(values, from, math.min(from + 3999, #values)))
  end
end

-- `head` has the fields of meta that every batch sets.
local function flush(feed, meta, reply, before, upto, head)
  -- These change nothing, and fail as those below would.
  for key in pairs(hashes) do call('HDEL', key, '') end
  for key in pairs(ranks) do
    call('ZADD', key, 'XX', 0, '')
    call('ZREM', key, '')
  end
  if reply then call('SET', reply, '0 ', 'NX') end
  -- This fails if somebody else has added to the feed. If HSET is not allowed, it is undone.
  local added = {}
  for position = before + 1, upto do
    if entries[position] then
      add_entry(feed, meta, position, entries[position])
      added[position .. '-0'] = true
    end
  end
  local checked = redis.pcall('HSET', meta, unpack(head))
  if type(checked) == 'table' and checked.err then
    mend(feed, meta, before, added)
    error(checked)
  end
  for key, fields in pairs(hashes) do
    local changed, deleted = {}, {}
    for field, value in pairs(fields) do
      if value then
        changed[#changed + 1] = field
        changed[#changed + 1] = value
      else
        deleted[#deleted + 1] = field
      end
    end
    in_parts('HSET', key, changed)
    in_parts('HDEL', key, deleted)
  end
  for key, members in pairs(ranks) do
    local changed, removed = {}, {}
    for member, value in pairs(members) do
      if value then
        changed[#changed + 1] = value
        changed[#changed + 1] = member
      else
        removed[#removed + 1] = member
      end
    end
    in_parts('ZADD', key, changed)
    in_parts('ZREM', key, removed)
  end
end
