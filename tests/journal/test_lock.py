from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatd.journal import StoreError
from chatd.journal.lock import BootMarker, StoreLock


def test_a_claim_is_held_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "made" / "chat.db"
    lock = StoreLock.take(path)
    assert path.with_name("chat.db.lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(StoreError, match=f"process {os.getpid()}: stop that one"):
        StoreLock.take(path)
    lock.release()
    StoreLock.take(path).release()


def test_what_another_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "chat.db.lock").write_text("123456789012345\nand more\n")
    lock = StoreLock.take(tmp_path / "chat.db")
    assert (tmp_path / "chat.db.lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_an_unusable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="give the folder"):
        StoreLock.take(tmp_path / "file" / "chat.db")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        StoreLock.take(tmp_path / "folder")


def test_a_marker_is_for_one_epoch_of_one_file(tmp_path: Path) -> None:
    store = tmp_path / "chat.db"
    store.write_text("")
    marker = BootMarker(tmp_path / "run", store)
    assert not marker.exists("e")
    marker.create("e")
    assert marker.exists("e")
    assert not marker.exists("f")
    assert not BootMarker(tmp_path / "run", tmp_path / "other.db").exists("e")
    (tmp_path / "copy").write_text("")
    (tmp_path / "copy").rename(store)
    assert not marker.exists("e")
    marker.remove()
    marker.remove()
    assert list((tmp_path / "run").iterdir()) == []


def test_without_a_folder_nothing_is_known(tmp_path: Path) -> None:
    marker = BootMarker(None, tmp_path / "chat.db")
    marker.create("e")
    assert not marker.exists("e")
    marker.remove()


def test_an_invalid_runtime_folder_is_reported(tmp_path: Path) -> None:
    store = tmp_path / "chat.db"
    store.write_text("")
    with pytest.raises(StoreError, match="give the folder"):
        BootMarker(store, store).create("e")
