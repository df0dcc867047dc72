"""The store that daemons share, on Redis.

* `engine.RedisEngine` is what `chatd.journal.shared` needs of a store.
* `batch.py` and `scripts/` say what a batch does; `reads.py` and `sweeping.py` what is read and
  removed; `layout.py` how all of it lies in Redis.
* `client.py`, `link.py`, `resp.py` and `finding.py` are the way to the server.

It needs the package hiredis: ``pip install 'chatd[redis]'``.
"""
