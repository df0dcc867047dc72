#!lua flags=allow-oom
-- Remove the oldest entries from the feed, before words that were removed leave the file of Redis.
--
-- KEYS: meta, feed. ARGV: the first position to keep; how many entries to keep at most; 1 if the file
-- will be rewritten next.
--
-- A stream's entries lie in blocks of up to 100. A block that is trimmed in part keeps the bytes of
-- what was trimmed, in the file too. A short feed is therefore made anew; in a long one such blocks
-- soon go as a whole.

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
