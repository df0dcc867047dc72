"""The service in a booted system: its packages, its installation and its clients."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.e2e.sandbox import ROOT, Sandbox, build_package, build_wheel, fetch_wheels

__all__ = [
    "APT",
    "BUILD",
    "CONFIGURATION",
    "LIMITS",
    "PROGRAM",
    "Parts",
    "Steady",
    "apt_install",
    "booted",
    "client",
    "configure",
    "copy_examples",
    "install",
    "into_venv",
    "lost_nothing",
    "program",
    "run_documented",
    "steady",
]

BUILD: Final = "/srv/build"  # in the sandbox
EXAMPLES: Final = "/srv/examples"
CONFIGURATION: Final = "/etc/chatd/chatd.toml"
PROGRAM: Final = "/opt/chatd/bin/python3"
APT: Final = (
    *("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--quiet"),
    # A machine of a test need not survive a loss of power.
    *("-o", "Dpkg::Options::=--force-unsafe-io"),
)

# Clients that never pause send more than people do.
LIMITS: Final = 'messages_per_second = "off"'


@contextmanager
def booted(role: str = "") -> Iterator[Sandbox]:
    """Boot a machine without chatd and remove it after the block."""
    machine = Sandbox(role)
    machine.up()
    try:
        yield machine
    finally:
        machine.purge()


class Parts:
    """The packages to install, built from this project's files for the Debian that is booted.

    Wheels of the dependencies, our own wheel, and our Debian package, which is built in a separate
    machine. Raises WheelsError.
    """

    def __init__(self, folder: Path) -> None:
        with booted() as machine:
            self.wheels: Final = fetch_wheels(machine.python_version())
            self.wheel: Final = build_wheel(self.wheels, folder)
            self.package: Final = build_package(machine, BUILD, self.wheels, folder)


def apt_install(machine: Sandbox, package: Path) -> None:
    """Install the package as an administrator would, without a network."""
    machine.copy_in(package, BUILD)
    machine.run(*APT, "install", f"{BUILD}/{package.name}")


def into_venv(machine: Sandbox, wheels: Path, wheel: Path, folder: str) -> None:
    """Install chatd, without its service, into a virtual environment."""
    for source in (wheels, wheel):
        machine.copy_in(source, BUILD)
    machine.run("python3", "-m", "venv", folder)
    pip = (f"{folder}/bin/pip", "install", "--quiet", "--no-index")
    machine.run(*pip, "--find-links", f"{BUILD}/{wheels.name}", f"{BUILD}/{wheel.name}[redis]")


def install(machine: Sandbox, wheels: Path, wheel: Path) -> None:
    """Install chatd and its service as an administrator would without the package."""
    into_venv(machine, wheels, wheel, "/opt/chatd")
    machine.run("/opt/chatd/bin/chatd", "install")


def configure(machine: Sandbox, line: str) -> None:
    """Replace the value of the first key of that name in the configuration."""
    key = line.partition(" ")[0]
    machine.run("sed", "-i", f"0,/^{key} = /s|^{key} = .*|{line}|", CONFIGURATION)
    machine.run("grep", "-qxF", line, CONFIGURATION)


def program(name: str, *words: str) -> tuple[str, ...]:
    """Return the command that runs a program beside this file."""
    return (sys.executable, str(Path(__file__).with_name(f"{name}.py")), *words)


def client(
    nick: str, *text: str, room: str = "hall", at: str = "localhost:3000"
) -> tuple[str, ...]:
    """Return the command of a client. Nicks stay held: use a new one in each test."""
    return program("text_client", f"ws://{at}/?nick={nick}&room={room}", *text)


def copy_examples(machine: Sandbox) -> None:
    """Put the examples on the machine: the sandbox leaves out the documentation of packages."""
    machine.copy_in(ROOT / "config" / "cluster", EXAMPLES)


def run_documented(
    machine: Sandbox, page: Path, heading: str, block: int = 0, **variables: str
) -> str:
    """Run a block of commands below a heading of a page, among the examples; return the output."""
    section = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    commands = section.split("\n```\n")[2 * block + 1]
    words = "".join(f"{name}='{value}'\n" for name, value in variables.items())
    return machine.run("sh", "-euc", f"{words}cd {EXAMPLES}/cluster\n{commands}")


class Steady:
    """Clients that never pause, and their results."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.met: dict[str, Any] = {}
        self._process = process

    def until_back(self) -> None:
        """Wait until they have reconnected and sent more messages."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "back\n"

    def slowest(self) -> float:
        """Wait until messages arrive; return how long the slowest since the last call took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        while (line := self._process.stdout.readline()) == "back\n":
            pass
        return float(line)

    def end(self) -> None:
        """End them; afterwards their results are available."""
        if not self.met:
            told, _ = self._process.communicate()
            assert self._process.returncode == 0
            self.met.update(json.loads(told.splitlines()[-1]))


@contextmanager
def steady(machine: Sandbox, *arguments: str) -> Iterator[Steady]:
    """Run clients that never pause; they end after the block.

    Args:
        machine: On whose network they are.
        arguments: Those of the program; by default the daemon is on this machine.
    """
    words = arguments or ("127.0.0.1", "3000")
    with machine.start_client(*program("steady_clients", *words)) as clients:
        assert clients.stdout is not None
        assert clients.stdout.readline() == "ready\n"
        one = Steady(clients)
        yield one
        one.end()


def lost_nothing(clients: Steady) -> None:
    """Check that no client was refused and every acknowledged message arrived once, in order."""
    met = clients.met
    assert met["asked"]["answered"] > 100
    assert "refused" not in met["asked"]
    assert met["said"] > 20 * met["returns"]
    assert met["alike"], met
    assert met["gaps"] == 0
