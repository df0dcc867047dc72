"""A booted systemd, made by the script beside this file, and the packages to install in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from chatd.cli.fetch_client import PACKAGE, FetchError, fetch, store, verified

__all__ = [
    "ROOT",
    "Sandbox",
    "SandboxError",
    "WheelsError",
    "build_package",
    "build_wheel",
    "fetch_packages",
    "fetch_wheels",
    "why_not",
    "with_version",
]

ROOT: Final = Path(__file__).resolve().parents[2]
"""The project's folder."""

LOCK: Final = ROOT / ".ci" / "lock"

SCRIPT: Final = Path(__file__).with_name("systemd-sandbox")
_DOCUMENTS: Final = ("README.md", "CHANGELOG.md", "LICENSE")
_SOURCES: Final = (*_DOCUMENTS, ".ci", "pyproject.toml", "chatd", "config", "docs", "systemd")
"""The files of the project that its package is built from."""
INSTALL_SECONDS: Final = 140
"""The limit of each step of an installation: two are less than pytest's faulthandler_timeout."""

_CAP_SYS_ADMIN: Final = 1 << 21  # linux/capability.h
_PROGRAMS: Final = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "dpkg-deb": "dpkg",
}


class SandboxError(Exception):
    """The script, or a command in the sandbox, failed; the message is its output."""


class WheelsError(Exception):
    """The wheels of the dependencies cannot be fetched; the message is pip's last line."""


def cache_folder() -> Path:
    """Return the folder for files that outlive a run of the tests, outside the project."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return Path(home) if home.startswith("/") else Path.home() / ".cache"


def why_not() -> str | None:
    """Return the reason why this machine cannot boot a sandbox, or None if it can."""
    if os.geteuid() != 0:
        return "a booted systemd needs root"
    status = dict(line.split(":\t", 1) for line in _read("/proc/self/status").splitlines())
    if not int(status["CapEff"], 16) & _CAP_SYS_ADMIN:
        return "a booted systemd needs CAP_SYS_ADMIN"
    if " - cgroup2 " not in _read("/proc/self/mountinfo"):
        return "a booted systemd needs a cgroup2 mount"
    if platform.freedesktop_os_release().get("ID") != "debian":
        return "the sandbox is made from the machine's own Debian sources, and this is not Debian"
    missing = [package for name, package in _PROGRAMS.items() if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return None if _can_overlay() else "the kernel refuses an overlayfs mount"


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _can_overlay() -> bool:
    """Try an overlay mount where the sandbox makes one, in a separate mount namespace."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        for name in ("lower", "upper", "work", "root"):
            Path(folder, name).mkdir()
        options = "lowerdir=lower,upperdir=upper,workdir=work"
        command = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, "root"]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


class Sandbox:
    """One instance of the sandbox.

    Its name is derived from the project's folder and the process of pytest-xdist (gw0, gw1 …), so
    that a run finds and removes the remains of a killed run in the same folder.

    Args:
        role: Tells several machines of one test apart.
    """

    def __init__(self, role: str = "") -> None:
        process = os.environ.get("PYTEST_XDIST_WORKER", "")
        name = hashlib.sha256(f"{ROOT} {process} {role}".encode()).hexdigest()[:12]
        self._environ: Final = {
            "SYSD_DIR": str(cache_folder() / "chatd-systemd-sandbox"),
            **os.environ,
            "SYSD_NAME": f"chatd-{name}",
        }

    def up(self) -> None:
        """Boot it on an empty disk. The first time on a machine takes 30 s more."""
        self._script("up", "--fresh")

    def reboot(self) -> None:
        """Shut it down and boot it again with the same disk."""
        self._script("reboot")

    def purge(self) -> None:
        """Shut it down and delete its disk."""
        self._script("purge")

    def run(self, *command: str, status: int = 0) -> str:
        """Run a command inside, which must exit with ``status``; return its stdout."""
        return self._script("exec", *command, status=status)

    def install_packages(self, *names: str) -> None:
        """Install packages inside with its own apt, which also starts their services."""
        apt = ("timeout", str(INSTALL_SECONDS), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get")
        self._script("exec-net", *apt, "update", "--quiet")
        install = ("install", "--yes", "--quiet", "--no-install-recommends")
        self._script("exec-net", *apt, *install, *names)

    def download_packages(self, folder: Path, *names: str) -> None:
        """Download packages that are not installed, and what they need, into a new folder."""
        with tempfile.TemporaryDirectory(dir=cache_folder()) as there:
            apt = ("timeout", str(INSTALL_SECONDS), "apt-get")
            self._script("exec-net", *apt, "update", "--quiet")
            get = ("install", "--yes", "--quiet", "--no-install-recommends", "--download-only")
            self._script("exec-net", *apt, *get, *names)
            self.copy_out("/var/cache/apt/archives", Path(there))
            self.run("apt-get", "clean")
            folder.parent.mkdir(parents=True, exist_ok=True)
            Path(there, "archives").rename(folder)

    def install_files(self, folder: Path) -> None:
        """Install the packages in a folder of this machine, which also starts their services."""
        self.copy_in(folder, "/srv")
        options = "--yes --quiet --no-install-recommends"
        self.run(
            *("env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c"),
            f"apt-get install {options} /srv/{folder.name}/*.deb",
        )

    def copy_in(self, source: Path, folder: str) -> None:
        """Copy a file or folder from this machine into a folder inside."""
        self._script("copy-in", str(source), folder)

    def copy_out(self, source: str, folder: Path) -> None:
        """Copy a file or folder from inside into a folder of this machine."""
        self._script("copy-out", source, str(folder))

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        self._script("exec", "tee", path, stdin=text)

    def client(self, *command: str) -> str:
        """Run a program of this machine on the sandbox's network; return its stdout."""
        return self._script("client", *command)

    def start_client(self, *command: str) -> subprocess.Popen[str]:
        """Start a program of this machine on the sandbox's network, with pipes to it."""
        return subprocess.Popen(
            ["bash", str(SCRIPT), "client", *command],
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def on_its_network(self) -> list[str]:
        """Return the prefix that runs a command of this machine on the sandbox's network.

        The command replaces the process of the prefix, so it can receive signals.
        """
        return ["nsenter", "--target", self._pid(), "--net", "--"]

    def open_network(self, address: str) -> None:
        """Open a network that `connect` brings other machines into; this one has the address."""
        self.client("ip", "link", "add", "name", "hub", "type", "bridge")
        self.client("ip", "address", "add", address, "dev", "hub")
        self.client("ip", "link", "set", "hub", "up")

    def connect(self, other: Sandbox, name: str, address: str) -> None:
        """Bring a machine into the network; the cable to it has the name on this side."""
        ends = ("type", "veth", "peer", "name", "eth0", "netns", other._pid())
        self.client("ip", "link", "add", "name", name, *ends)
        self.client("ip", "link", "set", name, "master", "hub", "up")
        other.client("ip", "address", "add", address, "dev", "eth0")
        other.client("ip", "link", "set", "eth0", "up")

    def disconnect(self, name: str) -> None:
        """Pull the cable: the machine is gone, and nothing is sent that would say so."""
        self.client("ip", "link", "delete", name)

    def _pid(self) -> str:
        return self._script("status").split()[1]

    def journal(self, *matches: str) -> list[dict[str, str]]:
        """Return the matching entries of the unit's journal since boot, oldest first."""
        self.run("journalctl", "--sync")
        text = self.run("journalctl", "-u", "chatd", "-b", "-o", "json", "--all", *matches)
        return [json.loads(line) for line in text.splitlines()]

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of a unit, from ``systemctl show``."""
        text = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in text.splitlines())

    def python_version(self) -> str:
        """Return the version of the Python inside, such as 3.11."""
        shown = "import sys; print('%d.%d' % sys.version_info[:2])"
        return self.run("python3", "-c", shown).strip()

    def _script(self, *arguments: str, status: int = 0, stdin: str = "") -> str:
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            env=self._environ,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != status:
            words = f"{' '.join(arguments)}: exit status {done.returncode}, not {status}"
            raise SandboxError(f"{words}\n{done.stdout}{done.stderr}")
        return done.stdout


def fetch_wheels(python_version: str) -> Path:
    """Fetch the wheels that chatd needs to be built and to run; keep them for later runs.

    Raises WheelsError.
    """
    locked = b"".join((LOCK / f"{name}.txt").read_bytes() for name in ("build", "run"))
    key = hashlib.sha256(f"{python_version} {sys.version}".encode() + locked).hexdigest()[:12]
    folder = cache_folder() / "chatd-tests" / f"wheels-{key}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        _download(fetched, "-r", str(LOCK / "build.txt"))
        inside = ("--only-binary=:all:", "--python-version", python_version)
        _download(fetched, *inside, "-r", str(LOCK / "run.txt"))
        with contextlib.suppress(OSError):  # another run has just done the same
            fetched.rename(folder)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return folder


def fetch_packages(machine: Sandbox, *names: str) -> Path:
    """Fetch packages of Debian for a machine, with all that they need; keep them for later runs.

    Raises:
        SandboxError: They cannot be fetched.
    """
    version = machine.run("cat", "/etc/debian_version").strip()
    folder = cache_folder() / "chatd-tests" / f"debian-{version}" / "+".join(names)
    if not folder.is_dir():
        machine.download_packages(folder, *names)
    return folder


def build_wheel(wheels: Path, folder: Path) -> Path:
    """Build chatd's own wheel into ``folder`` with the build requirements in ``wheels``."""
    options = ["--no-deps", "--no-index", "--find-links", str(wheels), "--wheel-dir", str(folder)]
    built = _pip("wheel", *options, str(ROOT))
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("chatd-*.whl")
    return wheel


def build_package(machine: Sandbox, folder_inside: str, wheels: Path, folder: Path) -> Path:
    """Build the Debian package for a machine's suite, in that machine; put it into ``folder``.

    Raises WheelsError if a part cannot be fetched.
    """
    client = cache_folder() / "chatd-tests" / PACKAGE
    if not (client / "LICENSE").is_file():
        try:
            store(verified(fetch(), PACKAGE), client)
        except FetchError as error:
            raise WheelsError(str(error)) from None
    for name in _SOURCES:
        machine.copy_in(ROOT / name, f"{folder_inside}/chatd")
    for source in (wheels, client):
        machine.copy_in(source, folder_inside)
    machine.run("python3", "-m", "venv", f"{folder_inside}/pip")
    environ = {
        "CLIENT": f"{folder_inside}/{client.name}",
        "DEBFULLNAME": "The tests",
        "DEBEMAIL": "tests@example.org",
        "DPKG_DEB_COMPRESSOR_TYPE": "none",  # the package is not kept
    }
    words = " ".join(f"{name}='{value}'" for name, value in environ.items())
    build = f"systemd/deb/build ../pip/bin/python3 ../{wheels.name}"
    built = machine.run("sh", "-euc", f"cd {folder_inside}/chatd; {words} sh {build}")
    machine.copy_out(f"{folder_inside}/chatd/{built.strip()}", folder)
    return folder / Path(built.strip()).name


def with_version(package: Path, version: str) -> Path:
    """Return the same package with another version, written beside it."""
    folder = package.parent / version
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(folder)], check=True)
    control = folder / "DEBIAN" / "control"
    words = re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text())
    control.write_text(words)
    made = package.with_name(f"chatd-{version}.deb")
    pack = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(folder), str(made)]
    subprocess.run(pack, check=True, capture_output=True)
    return made


def _download(folder: Path, *requirements: str) -> None:
    done = _pip("download", "--require-hashes", "--dest", str(folder), *requirements)
    if done.returncode != 0:
        raise WheelsError(f"pip cannot fetch wheels: {(done.stderr.splitlines() or ['?'])[-1]}")


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
