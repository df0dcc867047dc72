"""``chatd fetch-client``: Socket.IO's browser client from npm, to be served beside the protocol.

One version, and only what has its sha512, whoever gives the file. Nothing is unpacked: the files
that are served are read out of it by their names.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd.cli.check import say
from chatd.socketio.files import CLIENT_FILES
from chatd.socketio.server import CLIENT_FOLDER

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["INTEGRITY", "PACKAGE", "FetchError", "add_parser", "fetch", "keep", "run", "verified"]

PACKAGE: Final = "socket.io-client@4.8.4"
INTEGRITY: Final = (  # npm view socket.io-client@4.8.4 dist.integrity
    "sha512-7wjKAvVXYOJsbmUgkWbnhPD4bFpkqrUR0++XOjpGFmqDqsqV1CI93VTraeExLxpjxEqrWgFoSRZu1ihjLWfkAA=="
)

LICENSE: Final = "LICENSE"
_FILES: Final = {
    "package/LICENSE": LICENSE,
    **{f"package/dist/{name}": name for name in CLIENT_FILES},
    **{f"package/dist/{name}.map": f"{name}.map" for name in CLIENT_FILES},
}
"""What is kept, by its name in the package."""

# The package has 0.3 MB, its files 1.2 MB: more than this is something else.
_FILE_BYTES: Final = 16 << 20

# npm's own patience is above a minute where there is no network.
_NPM_OPTIONS: Final = ("--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
_NPM_SECONDS: Final = 300
# What Node.js and npm call a network that is not there.
_NO_NETWORK: Final = re.compile(
    "E(AI_AGAIN|CONN|HOSTUNREACH|NETUNREACH|NOTFOUND|TIMEDOUT)|ERR_SOCKET|FETCH_ERROR"
)


class FetchError(Exception):
    """It cannot be fetched or kept; the text is one line for the user."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "fetch-client",
        help="fetch Socket.IO's browser client",
        description=f"Fetch {PACKAGE} with npm, verify its sha512, and keep it to be served as "
        "/socket.io/socket.io.js and the other names that Node's server has.",
    )
    parser.add_argument(
        "--from",
        dest="file",
        metavar="FILE.tgz",
        type=Path,
        help=f"take this file, which `npm pack {PACKAGE}` made, and no network",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch the client and keep it; give the exit code."""
    try:
        package = fetch() if args.file is None else _read(args.file)
        keep(verified(package, str(args.file or PACKAGE)), CLIENT_FOLDER)
    except FetchError as error:
        say(f"chatd: {error}\n", sys.stderr)
        return 1
    say(f"{PACKAGE} is in {CLIENT_FOLDER}\n", sys.stdout)
    return 0


def fetch() -> bytes:
    """Give the package as npm has it. Raises FetchError."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            "there is no npm here; install it (Debian: apt install npm), or run "
            f"`npm pack {PACKAGE}` where there is one and give its file with --from"
        )
    with tempfile.TemporaryDirectory(prefix="chatd-") as folder:
        # In a folder of its own, so that no project's settings are taken for ours.
        command = [npm, "pack", PACKAGE, "--ignore-scripts", *_NPM_OPTIONS]
        try:
            packed = subprocess.run(  # noqa: S603  no word of it comes from outside
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_NPM_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FetchError(f"npm did not fetch {PACKAGE} in {_NPM_SECONDS} seconds") from None
        except OSError as error:
            raise FetchError(f"npm does not start: {error}") from None
        if packed.returncode:
            raise FetchError(_told(packed.stderr.decode(errors="backslashreplace")))
        files = list(Path(folder).glob("*.tgz"))
        if len(files) != 1:
            raise FetchError(f"npm made no package of {PACKAGE}")
        return _read(files[0])


def verified(package: bytes, name: str) -> dict[str, bytes]:
    """Give the files to keep of the package, if it has the sha512. Raises FetchError."""
    found = f"sha512-{base64.b64encode(hashlib.sha512(package).digest()).decode()}"
    if found != INTEGRITY:
        raise FetchError(f"{name} is not npm's {PACKAGE}: its hash is {found}, not {INTEGRITY}")
    files = {}
    try:
        with tarfile.open(fileobj=BytesIO(package), mode="r:gz") as archive:
            for member in archive:
                kept = _FILES.get(member.name)
                if kept is None or not member.isreg() or member.size > _FILE_BYTES:
                    continue
                if (content := archive.extractfile(member)) is not None:
                    files[kept] = content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise FetchError(f"{name} is no package of npm: {error}") from None
    if missing := sorted(_FILES.values() - files.keys()):
        raise FetchError(f"{name} has no {', '.join(missing)}")
    return files


def keep(files: Mapping[str, bytes], folder: Path) -> None:
    """Put the files into ``folder``, each in one step, and only once all are written.

    Raises FetchError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=folder) as fresh:
            for name, content in files.items():
                # Readable for whoever the daemon runs as: a temporary folder's files are not.
                path = Path(fresh, name)
                path.write_bytes(content)
                path.chmod(0o644)
            for name in files:
                Path(fresh, name).replace(folder / name)
    except OSError as error:
        why = error.strerror or str(error)
        raise FetchError(
            f"{folder} cannot be written: {why}; it is for who installed chatd to fetch the client"
        ) from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            package = stream.read(_FILE_BYTES + 1)
    except OSError as error:
        raise FetchError(f"{file}: {error.strerror or error}") from None
    if len(package) > _FILE_BYTES:
        raise FetchError(f"{file} is too large to be {PACKAGE}")
    return package


def _told(stderr: str) -> str:
    """Say in one line what npm says in many."""
    code = re.search(r"^npm (?:error|ERR!) code (\S+)", stderr, re.MULTILINE)
    why = f" ({code[1]})" if code else ""
    if code and _NO_NETWORK.match(code[1]):
        return (
            f"npm cannot reach its registry{why}; run `npm pack {PACKAGE}` where it can, and give "
            "its file with --from"
        )
    words = [line for line in stderr.splitlines() if line.startswith(("npm error", "npm ERR!"))]
    said = f": {words[1 if code and len(words) > 1 else 0]}" if words else ""
    return f"npm cannot fetch {PACKAGE}{why}{said}"
