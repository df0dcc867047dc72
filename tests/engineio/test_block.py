from __future__ import annotations

import pytest

from chatd.engineio.block import Block
from chatd.wire import frames


def test_one_block_is_frames_and_payload() -> None:
    block = Block(["hello", b"\x01\x02", bytearray(b"\x03")])
    assert len(block) == 3
    assert block.binary
    assert block.size == 6 + 2 + 1
    assert block.frames == (
        frames.text(b"4hello") + frames.binary(b"\x01\x02") + frames.binary(b"\x03")
    )
    assert block.text_frames == (
        frames.text(b"4hello") + frames.text(b"bAQI=") + frames.text(b"bAw==")
    )
    assert block.payload == b"4hello\x1ebAQI=\x1ebAw=="


def test_revision_3_has_a_type_before_binary_data() -> None:
    block = Block(["€", memoryview(b"\x01")], 3)
    assert block.frames == frames.text("4€".encode()) + frames.binary(b"\x04\x01")
    assert block.text_frames == frames.text("4€".encode()) + frames.text(b"b4AQ==")
    assert block.payload == "2:4€6:b4AQ==".encode()
    assert block.octets == b"\x00\x04\xff4\xe2\x82\xac\x01\x02\xff\x04\x01"


def test_each_form_is_made_once() -> None:
    block = Block(["x"], 3)
    assert block.frames is block.frames
    assert block.payload is block.payload
    assert block.octets is block.octets
    with pytest.raises(AttributeError):
        block.nothing  # type: ignore[attr-defined]  # noqa: B018 - that is the test


def test_a_block_of_nothing_is_nothing() -> None:
    assert not Block([])
    assert Block([]).frames == b""


def test_what_is_no_unicode_is_refused_at_once() -> None:
    with pytest.raises(UnicodeEncodeError):
        Block(["\ud800"])


def test_a_control_packet() -> None:
    assert Block.control("2", 4).frames == b"\x81\x012"
    assert Block.control("6", 3).payload == b"1:6"


def test_a_long_block_is_cut_into_pieces() -> None:
    block = Block(["a", b"b", "c", "d", "e"], 3)
    pieces = block.pieces(2)
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert [piece.binary for piece in pieces] == [True, False, False]
    assert sum(piece.size for piece in pieces) == block.size
    assert b"".join(piece.payload for piece in pieces) == block.payload
    assert b"".join(piece.frames for piece in pieces) == block.frames
    assert block.pieces(5) == [block]
