-- An overlay that holds a script's writes until the script has decided everything.
--
-- Redis does not roll back: a script that fails between two writes leaves the first one behind.
-- So commit.lua does not write while it reads. `get` and `score` return what this script has set
-- before, or else what is stored; `set`, `rank` and `append` only note the change; `flush` writes all
-- changes at the end, with commands that cannot fail there: the types of the keys were checked when
-- they were read, or are chatd's own, and Redis checks the memory before the script begins (`#!lua`
-- without `allow-oom`).
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

local function flush(feed, before, upto)
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
  for position = before + 1, upto do
    if entries[position] then call('XADD', feed, position .. '-0', unpack(entries[position])) end
  end
end
