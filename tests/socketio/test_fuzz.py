"""Garbage at ``/socket.io/`` causes no internal error and leaves nothing behind."""

from __future__ import annotations

import random
from typing import Final

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from chatd import socketio
from chatd.logs import Log, open_log
from chatd.settings import Settings
from chatd.socketio import Refused, Socket
from chatd.testing.recording import Recording
from chatd.wire.server import HttpServer
from chatd.wire.transport import StreamTransport
from tests.wire.served import HANDSHAKE, KEY, MEMORY, Client, masked

SEEDS: Final = range(12)
ATTACKERS: Final = 40

_QUERY: Final = [
    *("EIO=4", "EIO=3", "EIO=", "EIO=4444", "EIO", "transport=polling", "transport=websocket"),
    *("transport=", "transport=flashsocket", "t=%00", "t=%ff%fe", "j=0", "j=%27;alert(1)", "b64=1"),
    *("sid=", "sid=nobody", "sid=%2e%2e", "a=" + "b" * 3000, "%", "=", "&&", "sid=a&sid=b", "é"),
]
_PACKETS: Final = [
    *("0", "1", "2", "3", "4", "5", "6", "7", "2probe", "5", "40", "41", "40/x,", "40{}", "40[]"),
    *('40{"token":', "40/" + "x" * 400, '42["x"]', '42["x",1]', "42[]", "42{}", '42["connect"]'),
    *('420["x"]', "43", "430[]", "43999999999999999999[]", '44{"message":"x"}', "46", "451-"),
    *('451-["x",{"_placeholder":true,"num":0}]', '452-["x",{"_placeholder":true,"num":-1}]'),
    *('459999999-["x"]', "4" + "[" * 4000, '42["x",' + "9" * 400 + "]", '42["x","\\ud800"]'),
    *("42[NaN]", '42["x",1e999]', "b", "bAQID", "b====", "bé", "\x1e", "\x00", "é€\U0001f600"),
    *(
        "1:2",
        "6:4hello",
        "2:40",
        "9999:4",
        "-1:4",
        "1:",
        ":",
        "0:",
        "10:b4AQIDBA==",
        "99999999999:",
    ),
]
_HEADERS: Final = [
    *(
        "Origin: null",
        "Origin: http://evil.example",
        "Origin: \x01",
        "Cookie: io=x",
        "Expect: 100-continue",
    ),
    *("Content-Type: application/octet-stream", "Content-Type: text/plain;charset=UTF-8"),
    *("Accept-Encoding: gzip, deflate;q=0", "Accept-Encoding: \xff", "Transfer-Encoding: chunked"),
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: 99999999", "Content-Length: x"),
    *(
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Connection: close",
        "Sec-WebSocket-Version: 12",
    ),
    *(
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        "X-Forwarded-For: 1.2.3.4",
        "No colon",
    ),
    *("Host: other", ": x", "A" * 9000 + ": x"),
]
_METHODS: Final = (
    ["GET"] * 6
    + ["POST"] * 6
    + [
        *("PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "CONNECT", "get", "", "G\x00T"),
    ]
)


class Attacker:
    """One client, by a source of chance: it knows the rules, and keeps few of them."""

    def __init__(self, chance: random.Random, client: Client, sids: list[str]) -> None:
        self.chance = chance
        self.client = client
        self.sids = sids

    async def run(self) -> None:
        try:
            for _ in range(self.chance.randrange(1, 8)):
                await self.chance.choice((self.request, self.session, self.websocket, self.noise))()
        except (trio.BrokenResourceError, EOFError, ValueError, IndexError):
            pass  # it was thrown out, or reads what is no HTTP
        finally:
            if self.chance.random() < 0.7:
                await trio.aclose_forcefully(self.client.stream)

    def body(self) -> bytes:
        chance = self.chance
        kind = chance.randrange(4)
        if kind == 0:
            return chance.randbytes(chance.randrange(200))
        if kind == 1:  # revision 3's binary form, more or less
            return b"".join(
                bytes((chance.randrange(3), chance.randrange(12), 255)) + chance.randbytes(3)
                for _ in range(chance.randrange(5))
            )
        packets = chance.choices(_PACKETS, k=chance.randrange(1, 5))
        if kind == 2:
            return "".join(f"{len(packet)}:{packet}" for packet in packets).encode()
        return "\x1e".join(packets).encode()

    def line(self, *fields: str) -> str:
        chance = self.chance
        query = [*fields, *chance.choices(_QUERY, k=chance.randrange(2 if fields else 5))]
        if self.sids and chance.random() < 0.4:
            query.append(f"sid={chance.choice(self.sids)}")
        chance.shuffle(query)
        return "&".join(query)

    async def request(self) -> None:
        chance = self.chance
        path = chance.choice(("/socket.io/", "/socket.io", "/socket.io//", "/socket.io/../x"))
        head = f"{chance.choice(_METHODS)} {path}?{self.line()} HTTP/1.1\r\nHost: localhost\r\n"
        head += "".join(f"{line}\r\n" for line in chance.choices(_HEADERS, k=chance.randrange(4)))
        body = self.body()
        if chance.random() < 0.8:
            head += f"Content-Length: {len(body)}\r\n"
        await self.client.send(
            f"{head}\r\n".encode() + body[: chance.randrange(len(body) + 1) or None]
        )
        await self.hear()

    async def session(self) -> None:
        """Open a session, and misuse it."""
        chance = self.chance
        revision = chance.choice("43")
        target = f"/socket.io/?EIO={revision}&transport=polling"
        _, _, body = await self.client.ask(f"GET {target} HTTP/1.1")
        _, found, rest = body.decode(errors="replace").partition('"sid":"')
        if not found:
            return
        sid = rest.partition('"')[0]
        self.sids.append(sid)
        for _ in range(chance.randrange(1, 6)):
            data = self.body()
            method = chance.choice(("GET", "POST", "POST"))
            size = f"Content-Length: {len(data)}\r\n" if method == "POST" else ""
            head = f"{method} {target}&sid={sid} HTTP/1.1\r\nHost: localhost\r\n{size}\r\n"
            await self.client.send(head.encode() + (data if method == "POST" else b""))
            await self.hear()

    async def websocket(self) -> None:
        chance = self.chance
        line = self.line(f"EIO={chance.choice('43')}", "transport=websocket")
        await self.client.send(HANDSHAKE.replace(b"/ws", f"/socket.io/?{line}".encode()))
        if (await self.client.answer())[0] != 101:
            return
        for _ in range(chance.randrange(1, 8)):
            data = self.body() if chance.random() < 0.3 else chance.choice(_PACKETS).encode()
            head = chance.choice((0x81, 0x81, 0x81, 0x82, 0x82, 0x88, 0x89, 0x01, 0x80, 0xC1, 0x83))
            await self.client.send(masked(head, data))

    async def noise(self) -> None:
        await self.client.send(self.chance.randbytes(self.chance.randrange(1, 300)))

    async def hear(self) -> None:
        """Wait for an answer, sometimes, and not for long."""
        if self.chance.random() < 0.8:
            with trio.move_on_after(self.chance.choice((0, 1, 60))):
                await self.client.answer()


def odd_server(log: Log) -> socketio.Server:
    """Make one whose handlers do what handlers do."""
    io = socketio.Server(
        allow_eio3=True,
        recovery=True,
        cors_origins=["http://ours.example"],
        max_payload=5000,
        log=log,
    )

    @io.on("x")
    async def x(socket: Socket, *args: object) -> tuple[object, ...]:
        await socket.broadcast.emit("x", *args)
        return args

    @io.of("/x").use
    async def refuse(_socket: Socket) -> None:
        raise Refused("never", {"é": 1})

    return io


async def storm(seed: int) -> None:
    """Attack one server with many clients, and check that nothing is left."""
    recording = Recording()
    log = open_log(sink=recording)
    io = odd_server(log)
    wire = HttpServer(Settings(), io.routes, log)
    chance = random.Random(seed)
    sids: list[str] = []
    streams: list[trio.abc.AsyncResource] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(io.run)

        def dial() -> Client:
            ours, theirs = memory_stream_pair()
            transport = StreamTransport(theirs, MEMORY, listener_loopback=True)
            nursery.start_soon(wire.handle, transport)
            streams.append(ours)
            return Client(ours)

        tasks = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as attackers:
            for _ in range(ATTACKERS):
                attackers.start_soon(Attacker(chance, dial(), sids).run)
        await trio.sleep(300)  # each limit in time is over
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert io.engine.sessions == {}
        assert io.statistics().connections == 0
        opened = await dial().ask("GET /socket.io/?EIO=4&transport=polling HTTP/1.1")
        assert opened[0] == 200
        nursery.cancel_scope.cancel()
    for stream in streams:
        await trio.aclose_forcefully(stream)
    assert [fields for name, fields in recording.records if name == "fault"] == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_stays_of_an_attack(seed: int, autojump_clock: MockClock) -> None:
    await storm(seed)
