"""The store that daemons share, on Redis.

* `engine.RedisEngine` is the `chatd.journal.engine.Engine` that `chatd.journal.shared` needs.
* `batch.py` and `scripts/` carry out batches, `reads.py` reads, `sweeping.py` removes, and
  `layout.py` has the keys and values in Redis.
* `server.py` and `prefix.py` check whether the server and its data can be used.
* `client.py`, `link.py`, `resp.py`, `proof.py`, `address.py`, `finding.py` and `access.py` are the
  client for the server.

It needs the package hiredis: ``pip install 'chatd[redis]'``.
"""
