"""``chatd fetch-client`` keeps what it knows the hash of, and says in one line why not."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from chatd.__main__ import main
from chatd.cli.fetch_client import PACKAGE, FetchError, fetch_client, store, verified
from chatd.socketio.files import CLIENT_FILES

NPM: TypeAlias = Callable[[str], None]

SERVED = {*CLIENT_FILES, *(f"{name}.map" for name in CLIENT_FILES)}


def member(name: str, content: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def package(*more: tuple[tarfile.TarInfo, bytes], without: str = "") -> bytes:
    """Make a package as npm's is, with members more or without one."""
    members = [member(f"package/dist/{name}", name.encode()) for name in sorted(SERVED)]
    members += [member("package/LICENSE", b"(The MIT License)"), member("package/package.json")]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for info, content in (*members, *more):
            if (info, content) in more or info.name != without:
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def integrity(content: bytes) -> str:
    """Return the hash of a package as npm writes it."""
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "library" / "client"


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NPM:
    """Return a function that makes a shell script the only npm."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def script(text: str) -> None:
        program = programs / "npm"
        program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        program.chmod(0o755)

    return script


def test_it_fetches_with_npm(
    folder: Path,
    npm: NPM,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    packed = tmp_path / "packed"
    content = package()
    packed.write_bytes(content)
    npm(f'echo "$@" > "{tmp_path}/words"\nexec /bin/cp "{packed}" client.tgz')
    assert fetch_client(None, folder=folder, integrity=integrity(content)) == 0
    assert (tmp_path / "words").read_text().startswith(f"pack {PACKAGE} ")
    assert capsys.readouterr() == (f"{PACKAGE} is stored in {folder}.\n", "")
    assert {path.name for path in folder.iterdir()} == {*SERVED, "LICENSE"}
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert path.name == "LICENSE" or path.read_bytes() == path.name.encode()


def test_it_takes_a_file_and_needs_no_npm(folder: Path, npm: object, tmp_path: Path) -> None:
    file = tmp_path / "client.tgz"
    content = package()
    file.write_bytes(content)
    folder.mkdir(parents=True)
    (folder / "socket.io.js").write_bytes(b"an older one")
    assert fetch_client(file, folder=folder, integrity=integrity(content)) == 0
    assert fetch_client(file, folder=folder, integrity=integrity(content)) == 0
    assert (folder / "socket.io.js").read_bytes() == b"socket.io.js"
    assert {path.name for path in folder.iterdir()} == {*SERVED, "LICENSE"}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", "cannot reach its registry (ENOTFOUND)"),
        ("echo 'npm ERR! code ECONNREFUSED' >&2; exit 1", "cannot reach its registry (ECONN"),
        (
            "printf 'npm warn x\\nnpm error code ETARGET\\nnpm error notarget None\\n' >&2; exit 1",
            "(ETARGET): npm error notarget None",
        ),
        ("echo segmentation >&2; exit 139", f"npm cannot fetch {PACKAGE}.\n"),
        ("exit 0", "npm did not produce a package"),
        ("echo else > client.tgz", f"{PACKAGE} is not npm's"),
    ],
)
def test_npm_fails(
    script: str,
    said: str,
    folder: Path,
    npm: NPM,
    capsys: pytest.CaptureFixture[str],
) -> None:
    npm(script)
    assert fetch_client(None, folder=folder) == 1
    assert_one_line(capsys, said)
    assert not folder.exists()


def test_npm_that_cannot_be_run(folder: Path, npm: NPM, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_client(None, folder=folder) == 1
    assert_one_line(capsys, "npm was not found")
    npm("")
    program = Path(os.environ["PATH"], "npm")
    program.write_bytes(b"\x7fELF of no machine")
    assert fetch_client(None, folder=folder) == 1
    assert_one_line(capsys, "npm cannot be started")
    assert not folder.exists()


def test_npm_that_hangs(
    npm: NPM,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    npm("exec /bin/cat /dev/zero")
    assert fetch_client(None, folder=folder, npm_seconds=0.01) == 1
    assert_one_line(capsys, "did not fetch")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is not npm's"),
        (package(member("package/more")), "is not npm's"),
        (b"\0" * ((16 << 20) + 1), "is too large"),
    ],
)
def test_a_wrong_file(
    content: bytes | None,
    said: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "client.tgz"
    if content is not None:
        file.write_bytes(content)
    assert fetch_client(file, folder=folder) == 1
    assert_one_line(capsys, said)
    assert not folder.exists()


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fetch-client", "--from"])
    assert ended.value.code == 2
    assert "--from" in capsys.readouterr().err


def test_what_is_not_served_is_not_taken(tmp_path: Path) -> None:
    link, _ = member("package/dist/../../escaped")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    content = package(
        (link, b""),
        member("../../escaped", b"x"),
        member("/escaped", b"x"),
        member("package/dist/../../../escaped", b"x"),
        member("package/dist/else.js", b"x"),
    )
    files = verified(content, "it", integrity(content))
    assert files.keys() == {*SERVED, "LICENSE"}
    store(files, tmp_path / "client")
    assert [path.name for path in tmp_path.iterdir()] == ["client"]


def test_a_link_is_no_file() -> None:
    link, _ = member("package/LICENSE")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    content = package((link, b""), without="package/LICENSE")
    with pytest.raises(FetchError, match="it lacks LICENSE"):
        verified(content, "it", integrity(content))


@pytest.mark.parametrize("content", [b"no package", package()[:-40], package()[:200]])
def test_what_is_no_package(content: bytes) -> None:
    with pytest.raises(FetchError, match=r"it is not an npm package|it lacks"):
        verified(content, "it", integrity(content))


def test_a_file_is_missing() -> None:
    content = package(without="package/dist/socket.io.min.js.map")
    with pytest.raises(FetchError, match=r"^it lacks socket\.io\.min\.js\.map\.$"):
        verified(content, "it", integrity(content))


def test_a_folder_that_cannot_be_written(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "client.tgz"
    content = package()
    file.write_bytes(content)
    folder.parent.write_bytes(b"")  # root may write anywhere, but not below a file
    assert fetch_client(file, folder=folder, integrity=integrity(content)) == 1
    assert_one_line(capsys, f"{folder} cannot be written: Not a directory")


def test_a_full_disk_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store({"socket.io.js": b"old", "LICENSE": b"old"}, folder)
    written = Path.write_bytes

    def write_bytes(path: Path, content: bytes) -> int:
        if path.name == "LICENSE":
            raise OSError(28, "No space left on device")
        return written(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(FetchError, match="No space left"):
        store({"socket.io.js": b"new", "LICENSE": b"new"}, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "socket.io.js": b"old",
        "LICENSE": b"old",
    }


def assert_one_line(capsys: pytest.CaptureFixture[str], said: str) -> None:
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("chatd: ")
    assert err.count("\n") == 1
    assert said in err
