#!lua flags=allow-oom
-- Remove the oldest entries from the feed, also to purge deleted texts before the append-only file is
-- rewritten.
--
-- KEYS: meta, feed. ARGV: the first position to keep; how many entries to keep at most; 1 if the
-- append-only file will be rewritten next, else 0.
--
-- A stream stores its entries in blocks of up to 100. If a block is only trimmed in part, the bytes of
-- its trimmed entries stay, in the append-only file too. Before a rewrite, a short feed is therefore
-- made again; in a long feed, such blocks are soon removed as a whole.

local META, FEED = unpack(KEYS)
local SHORT = 1000 -- entries: some 2 ms

redis.call('XTRIM', FEED, 'MINID', ARGV[1])
redis.call('XTRIM', FEED, 'MAXLEN', '~', ARGV[2])
if ARGV[3] == '1' then
  if redis.call('XLEN', FEED) <= SHORT then
    local entries = redis.call('XRANGE', FEED, '-', '+')
    redis.call('DEL', FEED)
    for _, entry in ipairs(entries) do redis.call('XADD', FEED, entry[1], unpack(entry[2])) end
  end
  redis.call('HDEL', META, 'removed')
end
