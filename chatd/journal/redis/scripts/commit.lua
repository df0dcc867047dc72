-- Carry out a batch of operations, once. This file has the rules for all operations, and posts.
-- others.lua has the other operations, and run.lua carries out the batch. overlay.lua comes before
-- them.
--
-- KEYS: those of `Keys.fixed` in layout.py, then others, to which operations refer by their places.
-- ARGV: the life, the node, the number of the batch, the time in ms ('' for Redis' own), and then
-- the operations: a letter and the arguments that the function of this letter takes.
--
-- 1. A batch counts only in the life of the engine that the node has entered, and while the node
--    has its lease; otherwise the answer is STALE.
-- 2. The reply to a node's last batch is kept under `b:NODE`. If the same number arrives again, the
--    answer is the kept reply, and nothing is done. A lower number gets OLD. So a node that lost the
--    answer can ask again, and a copy of a batch that arrives late does nothing. A batch of only the
--    operation `s` makes a number void that has not arrived yet: the reply is `void`, now and when
--    the batch itself arrives.
-- 3. A batch without a number is carried out each time that it arrives. Retention uses such batches:
--    their operations remove only what is still as the node read it.
-- 4. If the clock goes back by less than a minute, the times of events do not, so that those of a
--    room's events never decrease.
--
-- The reply is a line with the time, the first position and the length of each outcome, and then
-- the outcomes. An outcome is empty if the operation was done, else it begins with a letter:
-- `+POSITION SEQ` (an event), `=SEQ RECORD` (the first event with this key), `-CODE` (refused) …

local life, node, number, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local META, REPLY, FEED, NODES, ROOMS, DIRECTS, ORDER = unpack(KEYS, 1, 7)

local stored = call('HMGET', META, 'life', 'at', 'pos', 'bytes')
if stored[1] ~= life then return redis.error_reply('STALE life') end
if now == '' then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
else
  now = tonumber(now)
end
if number ~= '' then
  local last, kept = (call('GET', REPLY) or '0 '):match('^(%d+) (.*)$')
  if not last then damaged(REPLY) end
  local is_void = ARGV[5] == 's'
  local lease = call('ZSCORE', NODES, node)
  if not is_void and (not lease or tonumber(lease) <= now) then
    return redis.error_reply('STALE lease')
  end
  if number == last then return kept end
  if tonumber(number) < tonumber(last) then return redis.error_reply('OLD ' .. last) end
  if is_void then
    call('SET', REPLY, number .. ' void', 'EX', 86400)
    return 'void'
  end
  if tonumber(number) > last + 1 then return redis.error_reply('STALE batch ' .. last) end
end
local clock = now -- the time by which records and leases end
local at, position, bytes = tonumber(stored[2] or 0), tonumber(stored[3]), tonumber(stored[4] or 0)
if not (at and position and bytes) then damaged(META) end
if at < now or at - now > 60000 then at = now end
local first_position = position

-- ---- the feed

-- The beginning of the entries' origin. For batches without a number it has no node's id, but the
-- replication id of the life: a process that is promoted again keeps its run id, and may give the
-- positions again to other entries.
local origin = (number ~= '' and node .. '.' .. number or '-' .. life:sub(-16)) .. '.'

local function append(kind, ...)
  position = position + 1
  local entry = {'o', origin .. (position - first_position - 1), 'k', kind}
  for field, value in ipairs({...}) do
    entry[#entry + 1] = field
    entry[#entry + 1] = value
  end
  entries[position] = entry
end

-- ---- events, stored as layout.py says

-- The message with a number, as stored.
local function message(records, seq)
  local record = seq ~= '' and get(records, seq)
  return record and record:byte() == 109 and record -- 'm'
end

-- A record's kind, position, time, time of its last change and "1" if it is deleted; its user, nick,
-- `of`, `reply_to` and key; and its text behind a NUL, or '' if it has none.
local RECORD = '^(%a)(%d+) (%d+) (%d+) (%d) ([^%z]*)%z([^%z]*)%z(%d*)%z(%d*)%z([^%z]*)(.*)$'

-- The record with its present text. An edit has the text of its message.
local function present(records, record)
  if record:byte() ~= 101 then return record end -- 'e'
  local _, _, _, _, _, _, _, of = record:match(RECORD)
  local target = message(records, of)
  return target and record .. select(11, target:match(RECORD)) or record
end

local function add(records, seq, record)
  bytes = bytes + #record
  set(records, seq, record)
end

-- Replace or delete the record of an event. The former text stays in the append-only file until that
-- is rewritten: see beat.lua.
local function replace(records, seq, record)
  local before = get(records, seq)
  if not get(META, 'removed') then set(META, 'removed', clock) end
  bytes = bytes + (record and #record or 0) - (before and #before or 0)
  set(records, seq, record)
end

-- ---- rooms

local rooms = {}

-- Return a room. Its records are at the place that follows the one of its key.
local function room_at(place)
  local key, records = KEYS[place], KEYS[place + 1]
  local room = rooms[key]
  if not room then
    local found = call('HMGET', key, 'name', 'seq', 'first')
    room = {name = found[1], seq = tonumber(found[2] or 0), first = tonumber(found[3] or 1)}
    if not (room.seq and room.first) or (not room.name and call('EXISTS', records) == 1) then
      damaged(key)
    end
    rooms[key] = room
  end
  return room
end

-- The list that the room is in: rooms with events, by the time of the first one.
local function list_of(fold)
  return fold:byte() == 64 and DIRECTS or ROOMS -- '@'
end

local function create(room, key, fold, name)
  local id = (tonumber(get(META, 'rooms') or 0)) + 1
  set(META, 'rooms', id)
  rank(ORDER, fold, id)
  room.name = name
  set(key, 'name', name)
  set(key, 'first', room.first)
end

-- ---- operations: each takes its arguments from ARGV, and returns its outcome if it has one

local cursor = 4

local function take()
  cursor = cursor + 1
  return ARGV[cursor]
end

local function take_many(count)
  cursor = cursor + count
  return unpack(ARGV, cursor - count + 1, cursor)
end

local operations = {}

-- Post. `author` is '' if the sender may delete any message. `text` begins with a NUL, or is ''.
function operations.p()
  local place, fold, name, bucket, digest, kind, reply_to, of, author, beside, text =
    take_many(11)
  place = tonumber(place)
  local key, records = KEYS[place], KEYS[place + 1]
  bucket = KEYS[tonumber(bucket)]
  -- This comes before the rules, because a repeated operation must not be refused.
  local first = bucket and get(bucket, digest)
  if first then
    local record = get(records, first)
    if not record then damaged(records) end
    return '=' .. first .. ' ' .. present(records, record)
  end
  if reply_to ~= '' and not message(records, reply_to) then return '-not_found' end
  if kind == 'e' or kind == 'd' then
    local target = message(records, of)
    if not target then return '-not_found' end
    local _, its_position, its_at, _, deleted, user, nick, _, its_reply_to, its_key =
      target:match(RECORD)
    if deleted == '1' then return '-not_found' end
    if author ~= '' and author ~= user then return '-forbidden' end
    local state = kind == 'e' and at .. ' 0 ' or '0 1 '
    local head = 'm' .. its_position .. ' ' .. its_at .. ' ' .. state
    local tail = table.concat({user, nick, '', its_reply_to, its_key}, '\0')
    replace(records, of, head .. tail .. (kind == 'e' and text or ''))
  end
  local room = room_at(place)
  if not room.name then create(room, key, fold, name) end
  if room.first > room.seq then rank(list_of(fold), fold, at) end
  room.seq = room.seq + 1
  set(key, 'seq', room.seq)
  if kind == 't' then set(key, 'topic', text:sub(2)) end
  local record = kind .. (position + 1) .. ' ' .. at .. ' 0 0 ' .. beside
  local seq = tostring(room.seq)
  add(records, seq, kind == 'e' and record or record .. text)
  if bucket then set(bucket, digest, seq) end
  append('E', fold, seq, record .. text)
  return '+' .. position .. ' ' .. seq
end
