#!lua flags=allow-oom
-- Write something, so that replicas that have it have everything before it too: see proof.py.
--
-- KEYS: the key of the proof.

redis.call('SET', KEYS[1], '')
