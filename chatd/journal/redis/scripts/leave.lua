#!lua flags=allow-oom
-- End a node's lease. Redis refuses ZADD while its memory is full, but not this script.
--
-- KEYS: meta, nodes. ARGV: the node, the time in ms at which the lease ends at the latest.

redis.call('HDEL', KEYS[1], 'reads:' .. ARGV[1])
redis.call('ZADD', KEYS[2], 'XX', 'LT', ARGV[2], ARGV[1])
