#!lua flags=allow-oom
-- Extend a node's lease. If it is over, the answer is STALE: the node has been buried, or will be.
--
-- KEYS: meta, nodes, facts, the reply to the node's last batch, the feed. ARGV: the life, the node,
-- the time in ms ('' for Redis' own), the length of a lease in ms, the node's facts.
--
-- The reply is the time, the position of the feed's last entry, and the time of the first deletion
-- whose text is still in the append-only file, so that the node can have the file rewritten; 0 if
-- there is none.

local life, node, now, lease, facts = unpack(ARGV)
if now == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
else
  now = tonumber(now)
end
local meta = redis.call('HMGET', KEYS[1], 'life', 'pos', 'removed', 'at', 'bytes')
if meta[1] ~= life then return redis.error_reply('STALE life') end
local position, removed = tonumber(meta[2]), tonumber(meta[3] or 0)
if not (position and removed and tonumber(meta[4] or 0) and tonumber(meta[5] or 0)) then
  return redis.error_reply('DAMAGED ' .. KEYS[1])
end
local known = redis.call('ZSCORE', KEYS[2], node)
if not known or tonumber(known) <= now then return redis.error_reply('STALE lease') end
redis.call('ZADD', KEYS[2], now + lease, node)
redis.call('HSET', KEYS[3], node, facts)
redis.call('EXPIRE', KEYS[4], 86400)
local last = redis.call('XREVRANGE', KEYS[5], position .. '-0', '-', 'COUNT', 1)[1]
return {now, last and tonumber(last[1]:match('^%d+')) or 0, removed}
