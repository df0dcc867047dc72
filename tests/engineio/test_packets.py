from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.engineio.block import Block
from chatd.engineio.packets import MESSAGE, PING, Packet, PacketError, Revision, decode_frame

REVISIONS: tuple[Revision, ...] = (3, 4)
TEXT = st.text(st.characters(codec="utf-8"))


@given(TEXT | st.binary(), st.sampled_from(REVISIONS))
def test_a_message_comes_back(message: str | bytes, revision: Revision) -> None:
    frame = Block((message,), revision).frames
    size = {126: 4, 127: 10}.get(frame[1], 2)
    said = frame[size:]
    packet = decode_frame(said.decode() if isinstance(message, str) else said, revision)
    assert packet == Packet(MESSAGE, message)


@given(TEXT | st.binary(), st.sampled_from(REVISIONS))
def test_any_frame_gives_a_packet_or_the_one_error(
    message: str | bytes, revision: Revision
) -> None:
    try:
        packet = decode_frame(message, revision)
    except PacketError:
        return
    binary = isinstance(message, bytes) or message[0] == "b"
    assert isinstance(packet.data, bytes) is binary


def test_frames() -> None:
    assert decode_frame("2probe", 4) == Packet(PING, "probe")
    assert decode_frame(b"\x01", 4) == Packet(MESSAGE, b"\x01")
    assert decode_frame(b"\x04\x01", 3) == Packet(MESSAGE, b"\x01")
    for message in ("", "x", "٤a", b"", b"\x02"):
        with pytest.raises(PacketError):
            decode_frame(message, 3)


@pytest.mark.parametrize(("revision", "mark"), [(4, "b"), (3, "b4")])
@pytest.mark.parametrize(
    "text",
    [
        "+/79/AAB",
        # Java's clients break the lines.
        "+/79\r\n/AAB\n",
        "+/79/A\nAB",
    ],
)
def test_binary_messages_may_be_base64_in_text(revision: Revision, mark: str, text: str) -> None:
    assert decode_frame(mark + text, revision) == Packet(MESSAGE, b"\xfb\xfe\xfd\xfc\x00\x01")


def test_an_empty_binary_message_is_empty_base64() -> None:
    assert decode_frame("b", 4) == Packet(MESSAGE, b"")
    assert decode_frame("b4", 3) == Packet(MESSAGE, b"")


@pytest.mark.parametrize(
    ("text", "revision"),
    [("b!", 4), ("bAQI", 4), ("bA", 4), ("bAé", 4), ("bAQI=", 3), ("b", 3), ("b2AQI=", 3)],
)
def test_invalid_base64_is_an_error(text: str, revision: Revision) -> None:
    with pytest.raises(PacketError):
        decode_frame(text, revision)
