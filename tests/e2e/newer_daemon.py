"""chatd as a later version may be: it can read one more format of a store that daemons share."""

from __future__ import annotations

import sys

from chatd.__main__ import main
from chatd.journal.redis.engine import RedisEngine

if __name__ == "__main__":
    RedisEngine.format += 1
    sys.exit(main(sys.argv[1:]))
