"""Export, import and forget over the admin socket."""

from __future__ import annotations

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd.admin.transfer import LINES, export_room
from chatd.client import Message
from chatd.journal.memory import MemoryJournal
from chatd.model import LogEntry, Record, Records
from chatd.protocol.export import write_lines
from chatd.settings import Auth, Limits, Settings
from tests.admin.administered import administered
from tests.admin.test_importing import Pieces, importing

FAST = Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")
JSONL = "application/jsonl"


@given(st.data())
def test_the_same_lines_in_any_split(data: st.DataObject) -> None:
    lines = [LogEntry("Lobby", seq, seq, "message", "u", "n", f"text {seq}") for seq in range(1, 9)]
    text = write_lines(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    async def main() -> None:
        journal = MemoryJournal(now=lambda: 0)
        await importing(journal).take(Pieces(*parts))
        exported = [piece async for piece in export_room(journal, "lobby")]
        assert b"".join(exported) == text

    trio.run(main)


async def test_export_import_export_gives_the_same_bytes(autojump_clock: MockClock) -> None:
    async with administered(Settings(limits=FAST)) as one:
        ann = await one.chat.client("ann")
        for number in range(LINES + 10):
            await ann.say(f"text {number}", key=str(number))
        await ann.aclose()
        await trio.sleep(60)
        status, headers, exported = await one.raw("GET /export?room=LOBBY")
        assert (status, headers["content-type"]) == (200, JSONL)
        assert exported.count(b"\n") == LINES + 10
    async with administered() as other:
        status, _, answer = await other.raw("POST /import", exported, kind=JSONL)
        assert (status, json.loads(answer)["events"]) == (200, LINES + 10)
        assert json.loads(answer)["epoch"] == other.chat.daemon.chat.journal.epoch
        assert (await other.raw("GET /export?room=lobby"))[2] == exported
        # A position of the time before is no position now.
        bob = await other.chat.client("bob")
        assert bob.entered is not None
        assert bob.entered.seq == LINES + 10
        assert [name for name, _ in other.chat.log.records if name in ("export", "import")] == [
            "import",
            "export",
        ]


async def test_a_room_with_members_is_not_imported_into(autojump_clock: MockClock) -> None:
    async with administered() as one:
        await one.chat.client("ann", room="Lobby")
        line = write_lines([LogEntry("lobby", 1, 0, "message", "u", "n", "x")])
        status, _, answer = await one.raw("POST /import", line, kind=JSONL)
        assert (status, json.loads(answer)["error"]["code"]) == (422, "forbidden")


async def test_what_is_asked_in_another_way_is_refused(autojump_clock: MockClock) -> None:
    async with administered() as one:
        for line, kind, status in (
            ("POST /import", "application/json", 415),
            ("POST /import", "text/plain", 415),
            ("GET /import", "", 405),
            ("GET /export", "", 400),
            ("GET /export?room=*", "", 400),
            ("GET /export?room=nowhere", "", 404),
            ("GET /backup", "", 503),
            ("POST /backup", "application/json", 405),
        ):
            assert (await one.raw(line, kind=kind))[0] == status, line


async def test_a_user_is_forgotten(autojump_clock: MockClock) -> None:
    settings = Settings(auth=Auth(mode="token", guests=True))
    async with administered(settings) as one:
        ann = await one.chat.client("ann", token=one.chat.token("ann"))
        bob = await one.chat.client("bob")
        await ann.say("my words")
        await bob.say("other words")
        user = "ann"
        await one.done("POST /forget", {"user": user})
        assert (await bob.next("left")).nick == "ann"
        page = await bob.history()
        said = [event for event in page.events if isinstance(event, Message)]
        assert [(event.nick, event.text) for event in said] == [
            ("forgotten", None),
            ("bob", "other words"),
        ]
        assert await one.refused("GET /export?user=ann") == (404, "not_found")
        text = (await one.raw("GET /export?room=lobby"))[2]
        assert b"ann" not in text
        assert b"my words" not in text
        assert await one.refused("POST /forget", {"user": user}) == (404, "not_found")
        assert [fields["target"] for fields in one.chat.logged("forget")] == ["ann"]


async def test_records_that_cannot_be_read_are_not_exported_and_keep_nobody_from_being_forgotten(
    autojump_clock: MockClock,
) -> None:
    damaged = [
        Record("ban", "\0ann", b"garbage"),
        Record("mute", "lobby\0bob", b"{}"),
        Record("mark", "ann\0lobby", b"\xff"),
    ]
    async with administered(Settings(auth=Auth(mode="token", guests=True))) as one:
        journal = one.chat.daemon.chat.journal
        await one.chat.daemon.chat.bus.submit_and_wait(Records(put=tuple(damaged)))
        status, _, exported = await one.raw("GET /export?all=")
        assert (status, exported) == (200, b"")
        await one.done("POST /forget", {"user": "ann"})
        assert await journal.records("ban") == await journal.records("mark") == []
        assert await journal.records("mute") == damaged[1:2]


async def test_a_user_whose_record_is_gone_and_whose_messages_are_far_behind_is_forgotten(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries_of = MemoryJournal.entries_of

    async def in_chunks(
        self: MemoryJournal, user: str, after: int
    ) -> tuple[list[LogEntry], int | None]:
        return await entries_of(self, user, after) if after else ([], 1)

    async def unknown(self: MemoryJournal, user: str) -> None:
        return None

    monkeypatch.setattr(MemoryJournal, "entries_of", in_chunks)
    monkeypatch.setattr(MemoryJournal, "user", unknown)
    async with administered() as one:
        bob = await one.chat.client("bob")
        await bob.say("the first message of the store")
        ann = await one.chat.client("ann")
        await ann.say("my words")
        user = ann.user
        await ann.aclose()
        await bob.next("left")
        await one.done("POST /forget", {"user": user})
        page = await bob.history()
        assert [event.text for event in page.events if isinstance(event, Message)][1] is None


async def test_all_that_a_user_said(autojump_clock: MockClock) -> None:
    async with administered() as one:
        ann = await one.chat.client("ann")
        await ann.say("one")
        await ann.join("den")
        await ann.say("two", room="den")
        text = (await one.raw(f"GET /export?user={ann.user}"))[2]
        lines = [json.loads(line) for line in text.splitlines()]
        assert [(line["room"], line["text"]) for line in lines] == [
            ("lobby", "one"),
            ("den", "two"),
        ]
