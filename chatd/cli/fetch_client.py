"""``chatd fetch-client``: Socket.IO's browser client from npm, for the daemon to serve.

Only one version, with a known sha512, is accepted, wherever the file comes from. The package is not
unpacked: the files that are served are read from it by their names.
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

from chatd.cli.output import fail, write
from chatd.socketio.files import CLIENT_FILES
from chatd.socketio.server import CLIENT_FOLDER

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = [
    "INTEGRITY",
    "PACKAGE",
    "FetchError",
    "add_parser",
    "fetch",
    "fetch_client",
    "run",
    "store",
    "verified",
]

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
"""The files that are kept, by their names in the package."""

# The package has 0.3 MB and its files 1.2 MB; anything larger is something else.
_FILE_BYTES: Final = 16 << 20

# By default npm tries for more than a minute without a network.
_NPM_OPTIONS: Final = ("--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
_NPM_SECONDS: Final = 300
# The error codes of Node.js and npm for a network that cannot be reached.
_NO_NETWORK: Final = re.compile(
    "E(AI_AGAIN|CONN|HOSTUNREACH|NETUNREACH|NOTFOUND|TIMEDOUT)|ERR_SOCKET|FETCH_ERROR"
)


class FetchError(Exception):
    """It cannot be fetched or stored. The message is one line for the user."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "fetch-client",
        help="Fetch Socket.IO's browser client.",
        description=f"Fetch {PACKAGE} with npm, verify its sha512, and store it. The daemon serves "
        "it as /socket.io/socket.io.js and the other names that the Node.js server uses.",
    )
    parser.add_argument(
        "--from",
        dest="file",
        metavar="FILE.tgz",
        type=Path,
        help=f"Use this file, made by `npm pack {PACKAGE}`, instead of the network.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch and store the client and return the exit code."""
    return fetch_client(args.file)


def fetch_client(
    file: Path | None,
    *,
    folder: Path = CLIENT_FOLDER,
    integrity: str = INTEGRITY,
    npm_seconds: float = _NPM_SECONDS,
) -> int:
    """Store the package of a file, or of npm, in ``folder`` and return the exit code.

    It must have this hash. npm is given so many seconds.
    """
    try:
        package = fetch(npm_seconds) if file is None else _read(file)
        store(verified(package, str(file or PACKAGE), integrity), folder)
    except FetchError as error:
        return fail(str(error))
    write(f"{PACKAGE} is stored in {folder}.\n", sys.stdout)
    return 0


def fetch(seconds: float = _NPM_SECONDS) -> bytes:
    """Return the package from npm, which is given so many seconds. Raises FetchError."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            "npm was not found. Install it (Debian: apt install npm), or run "
            f"`npm pack {PACKAGE}` on another machine and give its file with --from."
        )
    with tempfile.TemporaryDirectory(prefix="chatd-") as folder:
        # In a separate folder, so that npm does not use a project's settings.
        command = [npm, "pack", PACKAGE, "--ignore-scripts", *_NPM_OPTIONS]
        try:
            packed = subprocess.run(  # noqa: S603  no part of it comes from outside
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FetchError(f"npm did not fetch {PACKAGE} within {seconds} seconds.") from None
        except OSError as error:
            raise FetchError(f"npm cannot be started: {error}.") from None
        if packed.returncode:
            raise FetchError(_explained(packed.stderr.decode(errors="backslashreplace")))
        files = list(Path(folder).glob("*.tgz"))
        if len(files) != 1:
            raise FetchError(f"npm did not produce a package of {PACKAGE}.")
        return _read(files[0])


def verified(package: bytes, name: str, integrity: str = INTEGRITY) -> dict[str, bytes]:
    """Return the package's files to store, if its sha512 is right. Raises FetchError."""
    found = f"sha512-{base64.b64encode(hashlib.sha512(package).digest()).decode()}"
    if found != integrity:
        raise FetchError(f"{name} is not npm's {PACKAGE}: its hash is {found}, not {integrity}.")
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
        raise FetchError(f"{name} is not an npm package: {error}.") from None
    if missing := sorted(_FILES.values() - files.keys()):
        raise FetchError(f"{name} lacks {', '.join(missing)}.")
    return files


def store(files: Mapping[str, bytes], folder: Path) -> None:
    """Put the files into ``folder``, each in one step, after all have been written.

    Raises:
        FetchError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=folder) as fresh:
            for name, content in files.items():
                # Readable for the daemon's user, which the files of a temporary folder are not.
                path = Path(fresh, name)
                path.write_bytes(content)
                path.chmod(0o644)
            for name in files:
                Path(fresh, name).replace(folder / name)
    except OSError as error:
        why = error.strerror or str(error)
        raise FetchError(
            f"{folder} cannot be written: {why}. Run this as the user that installed chatd."
        ) from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            package = stream.read(_FILE_BYTES + 1)
    except OSError as error:
        raise FetchError(f"{file} cannot be read: {error.strerror or error}.") from None
    if len(package) > _FILE_BYTES:
        raise FetchError(f"{file} is too large to be {PACKAGE}.")
    return package


def _explained(stderr: str) -> str:
    """Return npm's many lines as one."""
    code = re.search(r"^npm (?:error|ERR!) code (\S+)", stderr, re.MULTILINE)
    why = f" ({code[1]})" if code else ""
    if code and _NO_NETWORK.match(code[1]):
        return (
            f"npm cannot reach its registry{why}. Run `npm pack {PACKAGE}` on another machine, and "
            "give its file with --from."
        )
    lines = [line for line in stderr.splitlines() if line.startswith(("npm error", "npm ERR!"))]
    reason = f": {lines[1 if code and len(lines) > 1 else 0]}" if lines else ""
    return f"npm cannot fetch {PACKAGE}{why}{reason}."
