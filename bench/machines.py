"""Machines for a test of failovers: network namespaces on a switch that can cut each of them off.

It needs root, and ``ip`` of Debian's package iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.redis_server import Machine

__all__ = ["Network", "open_network"]

NETWORK: Final = "10.213.47."
"""Only the namespaces see these addresses."""


class Network:
    """Some machines on one switch. What runs on a machine always reaches what runs beside it.

    Args:
        count: How many machines.
    """

    def __init__(self, count: int) -> None:
        self._switch = f"chatd-switch-{os.getpid()}"
        self._names = [f"chatd-{number}-{os.getpid()}" for number in range(count)]
        self.machines: Final = [
            Machine(f"{NETWORK}{number + 1}", ("ip", "netns", "exec", name))
            for number, name in enumerate(self._names)
        ]

    def make(self) -> None:
        """Make the namespaces."""
        switch = self._switch
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, (name, machine) in enumerate(zip(self._names, self.machines, strict=True)):
            _ip("netns", "add", name)
            port = f"port{number}"
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "eth0", "netns", name)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{machine.host}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")

    def remove(self) -> None:
        """Remove those that there are."""
        for name in (self._switch, *self._names):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)

    def cut_off(self, host: str) -> None:
        """Let no packet from or to a machine through the switch."""
        self._switch_port(host, "down")

    def connect(self, host: str) -> None:
        """End `cut_off`."""
        self._switch_port(host, "up")

    def _switch_port(self, host: str, state: str) -> None:
        number = next(n for n, machine in enumerate(self.machines) if machine.host == host)
        _ip("-n", self._switch, "link", "set", f"port{number}", state)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def open_network(count: int) -> Iterator[Network]:
    """Make machines for the duration of the block.

    Raises:
        SystemExit: This needs root, or the program ``ip``.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit("Network namespaces need root and ip: apt install iproute2")
    network = Network(count)
    try:
        network.make()
        yield network
    finally:
        network.remove()
