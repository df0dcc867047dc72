-- Find out which of the commands that the scripts run are not allowed.
--
-- KEYS: a key that is there for nothing else, and is gone afterwards. The reply has the commands'
-- names.

local key = KEYS[1]
local commands = {
  {'SET', key, ''}, {'GET', key}, {'EXPIRE', key, 60}, {'EXISTS', key}, {'DEL', key},
  {'HSET', key, 'a', ''}, {'HGET', key, 'a'}, {'HMGET', key, 'a'}, {'HGETALL', key}, {'HDEL', key, 'a'},
  {'ZADD', key, 0, 'a'}, {'ZSCORE', key, 'a'}, {'ZRANGE', key, 0, 0}, {'ZRANGEBYLEX', key, '-', '+'},
  {'ZREM', key, 'a'},
  {'XADD', key, '1-0', 'a', ''}, {'XLEN', key}, {'XRANGE', key, '-', '+'}, {'XREVRANGE', key, '+', '-'},
  {'XTRIM', key, 'MAXLEN', 1}, {'DEL', key}, {'TIME'},
}
local missing = {}
for _, command in ipairs(commands) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err and reply.err:find("can't run", 1, true) then
    missing[#missing + 1] = command[1]
  end
end
return missing
