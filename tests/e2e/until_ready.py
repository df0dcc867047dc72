"""Request ``/readyz`` until it answers with this status: ``until_ready.py PORT STATUS [HOST]``."""

from __future__ import annotations

import http.client
import sys
import time

LIMIT_SECONDS = 60  # ends a hang


def main(port: int, status: int, host: str = "127.0.0.1") -> None:
    ends = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < ends:
        connection = http.client.HTTPConnection(host, port, timeout=LIMIT_SECONDS)
        connection.request("GET", "/readyz")
        answered = connection.getresponse().status
        connection.close()
        if answered == status:
            return
        time.sleep(0.05)  # as a load balancer does: nothing signals the change
    sys.exit(f"/readyz never was {status}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
