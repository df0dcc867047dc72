-- Enter the present life of the engine. The first node to do so begins the life.
--
-- KEYS: meta, feed, nodes, facts, the reply to the node's last batch. ARGV: the life; a new epoch, a
-- new key and a new node id, in case they are needed; the node's present id; the time in ms ('' for
-- Redis' own); the length of a new lease in ms; the node's facts; the position of the last entry that it
-- has read (0 for none), and the entry's origin ('' if the node was in this life before); the number
-- of the last batch whose outcomes it has; the newest format that it can read.
--
-- 1. A life that is not the stored one is new, and gets a new epoch: after a restart, the last events
--    may be missing. `ended:EPOCH` is the last position that an earlier epoch has in common with
--    this one. No earlier epoch may have a higher one than the last position before this life. Of the
--    earlier epochs, the last 1,000 are kept: `FORMER_EPOCHS` in engine.py.
-- 2. If the last entry that the node has read is not there, or another one has its position, what it
--    read is lost, or may be: the entry may also have been trimmed. The outcomes of a batch are lost
--    if its number is not known here. Within a life, only a store that was emptied can have lost
--    something: its last position is then before the one that the node has read.
-- 3. A node whose lease is over has been buried, or will be, so it gets a new id. So does a node that
--    has lost something. A lease that is not over is not extended, because the node may never get
--    the reply.
-- 4. The format says how the store is written. A node that cannot read the present one is refused. The
--    format rises to the newest one that all nodes with a lease can read, which `reads:NODE` says of
--    each; a node that has left has none.
--
-- The reply is the node's id, the epoch, the key, the position and the origin of the feed's last
-- entry, the time, 1 if something is lost (else 0), the format to which the store's has risen (else 0),
-- and each former epoch with its position.

local META, FEED, NODES, FACTS, REPLY = unpack(KEYS)
local life, new_epoch, new_key, new_node, node, now = unpack(ARGV, 1, 6)
local lease, facts, last, origin, confirmed, newest = unpack(ARGV, 7, 12)
newest = tonumber(newest)

if now == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
else
  now = tonumber(now)
end
local meta = {}
local stored = redis.call('HGETALL', META)
for place = 1, #stored, 2 do meta[stored[place]] = stored[place + 1] end
local format, position = tonumber(meta.format or newest), tonumber(meta.pos or 0)
local is_made = meta.epoch and meta.key
if not (format and position and tonumber(meta.at or 0) and tonumber(meta.bytes or 0))
  or (meta.pos and not is_made) or (is_made and not meta.pos and redis.call('XLEN', FEED) > 0) then
  damaged(META)
end
if format > newest then return redis.error_reply('FORMAT ' .. format) end

local lost = tonumber(last) > position
if origin ~= '' then
  local entry = redis.call('XRANGE', FEED, last .. '-0', last .. '-0')[1]
  lost = lost or not entry or entry[2][2] ~= origin
end
local kept = (redis.call('GET', REPLY) or '0 '):match('^%d+')
if not kept then damaged(REPLY) end
lost = lost or tonumber(kept) < tonumber(confirmed)

local known = redis.call('ZSCORE', NODES, node)
local is_new = meta.epoch and meta.life ~= life
if is_new then
  add_entry(FEED, META, position + 1, {'o', '-' .. life:sub(-16) .. '.0', 'k', 'V', 1, new_epoch})
end

-- Everything is decided. Nothing below can fail.

if not known or tonumber(known) <= now or lost then
  if known then redis.call('ZADD', NODES, math.min(now, tonumber(known)), node) end
  node = new_node
  redis.call('ZADD', NODES, now + lease, node)
  redis.call('HSET', FACTS, node, facts)
end
local ended = {}
for field, value in pairs(meta) do
  local epoch = field:match('^ended:(.*)$')
  if epoch then ended[epoch] = tonumber(value) end
end
if not meta.pos then redis.call('HSET', META, 'pos', 0) end
if not meta.epoch then
  meta.epoch, meta.key = new_epoch, new_key
  redis.call('HSET', META, 'format', format, 'life', life, 'epoch', new_epoch, 'key', new_key)
elseif is_new then
  ended[meta.epoch] = position
  position = position + 1
  redis.call('HSET', META, 'life', life, 'epoch', new_epoch, 'pos', position)
  for epoch, upto in pairs(ended) do
    ended[epoch] = math.min(upto, position - 1)
    redis.call('HSET', META, 'ended:' .. epoch, ended[epoch])
  end
  meta.epoch = new_epoch
end
local former = {}
for epoch in pairs(ended) do former[#former + 1] = epoch end
table.sort(former, function(one, other) return ended[one] > ended[other] end)
for place = 1001, #former do
  redis.call('HDEL', META, 'ended:' .. former[place])
end

local common = newest
for field, reads in pairs(meta) do
  local other = field:match('^reads:(.*)$')
  local ends = other and redis.call('ZSCORE', NODES, other)
  if ends and tonumber(ends) > now and other ~= node then
    common = math.min(common, tonumber(reads) or common)
  elseif other and not ends then
    redis.call('HDEL', META, field)
  end
end
redis.call('HSET', META, 'reads:' .. node, newest)
local raised = 0
if common > format then
  raised = common
  redis.call('HSET', META, 'format', raised)
end

local entry = redis.call('XREVRANGE', FEED, position .. '-0', '-', 'COUNT', 1)[1]
local last_position = entry and tonumber(entry[1]:match('^%d+')) or position
local reply = {node, meta.epoch, meta.key, last_position, entry and entry[2][2] or '', now,
  lost and 1 or 0, raised}
for place = 1, math.min(1000, #former) do
  reply[#reply + 1] = former[place]
  reply[#reply + 1] = ended[former[place]]
end
return reply
