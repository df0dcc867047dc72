from __future__ import annotations

import json

import pytest

from chatd.engineio import payloads
from chatd.engineio.packets import Revision
from chatd.socketio.blocks import block_of
from chatd.socketio.packets import Decoder, Packet, PacketType, encode

PACKETS = [
    Packet(PacketType.EVENT, "/", ["é", {"ключ": "\U0001f600"}], 7),
    Packet(PacketType.ACK, "/комната", ["日本"], 0),
    Packet(PacketType.CONNECT_ERROR, "/", "nicht für dich"),
    Packet(PacketType.EVENT, "/комната", ["é", b"\xe9", "é"]),
]


@pytest.mark.parametrize("packet", PACKETS)
@pytest.mark.parametrize("revision", [3, 4])
def test_a_packet_says_the_same_in_each_revision(packet: Packet, revision: Revision) -> None:
    payload, octets = payloads.encode([block_of(encode(packet), revision)], revision, base64=True)
    assert not octets
    decoder = Decoder()
    came = [decoder.add(part.data) for part in payloads.decode(payload, revision)]
    assert came[-1] == packet


def test_revision_3_is_given_json_in_ascii() -> None:
    said = ["hello", "é € \U0001f600"]
    (text,) = encode(Packet(PacketType.EVENT, "/", said))
    plain, _ = payloads.encode([block_of([text], 4)], 4, base64=False)
    escaped, _ = payloads.encode([block_of([text], 3)], 3, base64=False)
    assert not plain.isascii()
    assert escaped.isascii()
    assert json.loads(escaped.partition(b"42")[2]) == said
