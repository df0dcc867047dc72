"""Import: what is refused and with which line, and what becomes of a file that was broken."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trio.testing import MockClock

from chatd.admin.importing import Importing
from chatd.admin.transfer import LINES, export_room
from chatd.chat.names import Name
from chatd.journal import Journal
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import Retention
from chatd.model import Erase, LogEntry, Operation, Outcome, Post, Refused, Wipe
from chatd.protocol.export import write_lines
from chatd.settings import History, Limits, Settings
from tests.admin.administered import administered

NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000
JSONL = "application/jsonl"


class Pieces:
    """The parts of an upload. Unlike an async generator, they need not be closed."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = iter(parts)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            return part
        raise StopAsyncIteration


def importing(
    journal: Journal, settings: Settings | None = None, *, now: int = NOW, check: bool = False
) -> Importing:
    """Return an import into rooms that nobody is in."""

    async def ask(operation: Operation) -> Outcome:
        return (await journal.commit([operation]))[0]

    @asynccontextmanager
    async def enter(_room: Name) -> AsyncGenerator[None]:
        yield

    return Importing(journal, ask, enter, settings=settings or Settings(), now=now, check=check)


def store(retention: Retention | None = None) -> MemoryJournal:
    return MemoryJournal(now=lambda: NOW, retention=retention)


def line(seq: int = 1, text: str | None = "hi", **fields: Any) -> LogEntry:
    fields = {"room": "Lobby", "at": NOW - DAY + seq, "kind": "message", "user": "u", **fields}
    return LogEntry(seq=seq, nick=fields.pop("nick", "ann"), text=text, **fields)


def raw(**fields: Any) -> bytes:
    """Return a valid line in which some fields are others."""
    valid = {"room": "lobby", "seq": 1, "at": "2023-01-01T00:00:00Z", "on": "message"}
    whole = {**valid, "from": "ann", "user": "u", "text": "hi", **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


def ban(room: str = "", user: str = "", network: str = "", **fields: Any) -> bytes:
    value = {"kind": "ban", "by": "console", "at": 0, "room": room, "user": user, **fields}
    text = json.dumps({**value, "network": network}).replace('"DEEP"', "[" * 20_000)
    return json.dumps(
        {"record": "ban", "name": f"{room}\0{user or network}", "value": text}
    ).encode()


async def refusal(text: bytes, journal: Journal | None = None) -> str:
    with pytest.raises(Refused) as caught:
        await importing(journal or store()).take(Pieces(text))
    return str(caught.value)


async def exported(journal: Journal, room: str = "lobby") -> bytes:
    return b"".join([piece async for piece in export_room(journal, room)])


# Lines that are refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{}", "Line 1: "),
        (b"\n\nnonsense\n", "Line 3: "),
        (b"\xff\n", "Line 1: "),
        (b'{"room":' * 100_000 + b"\n", "Line 1: "),
        (raw(room="*"), "Line 1: Room names"),
        (raw(room="@b,a"), "Line 1: '@b,a' is not a room of two users."),
        (raw(room="@a"), "Line 1: '@a' is not a room of two users."),
        (raw(seq=0), "Line 1: seq must be"),
        (raw(seq=2**53 + 1), "Line 1: seq must be"),
        (raw(seq=10**30), "Line 1: "),
        (raw(at="2026-01-01"), "Line 1: The time 2026-01-01 has no time zone."),
        (raw(at="2062-01-01T00:00:00Z"), "Line 1: The time at lies in the future."),
        (raw(at="9999-12-31T23:59:59.999Z"), "Line 1: The time at lies in the future."),
        (raw(at="9999-12-31T23:59:59-14:00"), "Line 1: The time"),
        (raw(at="0001-01-01T00:00:00+14:00"), "Line 1: The time"),
        (raw(at="0001-01-01T00:00:00Z"), "Line 1: The time at lies before 1970."),
        (raw(edited="2062-01-01T00:00:00Z"), "Line 1: The time edited lies in the future."),
        (raw(**{"from": "a\nb: forged"}), "Line 1: Nicks cannot"),
        (raw(**{"from": "\x1b[31m"}), "Line 1: Nicks cannot"),
        (raw(**{"from": ""}), "Line 1: Nicks have 1 to 32"),
        (raw(**{"from": "x" * 33}), "Line 1: Nicks have 1 to 32"),
        (b'{"record":"ban","name":"","value":"{}"}', "Line 1: "),
        (ban(network="10.0.0.1/8"), "Line 1: '10.0.0.1/8' is not a network."),
        (ban(network="None"), "Line 1: 'None' is not a network."),
        (ban(user="a\0b"), "Line 1: The user cannot be one"),
        (ban(user="ann", room="Lobby"), "Line 1: 'Lobby' is not the key of a room."),
        (ban(user="ann", at=10**17), "Line 1: The time at lies in the future."),
        (ban(user="ann", by_nick="a\nb: forged"), "Line 1: Nicks cannot"),
        (ban(user="ann", nick="a\nb: forged"), "Line 1: Nicks cannot"),
        (ban(user="ann", at=-1), "Line 1: The time at lies before 1970."),
        (ban(user="ann", extra="DEEP"), "Line 1: It is nested too deeply."),
        (
            b'{"record":"ban","name":"","until":"9999-12-31T23:59:59-14:00"}',
            "Line 1: The time 9999-12-31T23:59:59-14:00 is not in years 1 to 9999 of UTC.",
        ),
        (b'{"id":"ann","nick":"Ann","seen":"2062-01-01T00:00:00Z"}', "Line 1: The time seen lies"),
        (b'{"record":"lost","name":"x"}', "Line 1: It is not a record of chatd: 'lost'."),
        (b'{"record":"mark","name":"ann","value":"1"}', "Line 1: Room names"),
        (b'{"record":"mark","name":"ann\\u0000lobby","value":"0"}', "Line 1: value must be"),
        (b'{"record":"mark","name":"ann\\u0000Lobby","value":"1"}', "Line 1: It is not a record"),
        (b'{"record":"direct","name":"eve\\u0000@ann,bob"}', "Line 1: It is not a record"),
        (b'{"record":"mark","what":1}', "Line 1: Object contains unknown field `what`"),
        (b'{"id":"ann","nick":"a b"}', "Line 1: Nicks cannot"),
        (b'{"id":"\\u0000","nick":"ann"}', "Line 1: The user cannot be one"),
        (raw(user=""), "Line 1: The user cannot be one"),
        (raw(user="x" * 256), "Line 1: The user cannot be one"),
        (raw(user="a\0b"), "Line 1: The user cannot be one"),
        (raw(user="\u00e9"), "Line 1: The user cannot be one"),
        (raw(text="a\0b"), "Line 1: Messages cannot be empty or contain control"),
        (raw(text="a\r\nb"), "Line 1: Messages cannot be empty or contain control"),
        (raw(text=""), "Line 1: Messages cannot be empty"),
        (raw(text="x" * 16_385), "Line 1: Messages can have at most 16384 bytes."),
        (raw(text="\ud800"), "Line 1: "),
        (raw(text=None), "Line 1: The text is missing."),
        (raw(deleted=True), "Line 1: Only a message or a topic that is there has a text."),
        (raw(on="topic", text="a\nb"), "Line 1: Topics have a single line"),
        (raw(on="topic", deleted=True, text=None), "Line 1: Only a message can be deleted."),
        (raw(on="edit", text=None), "Line 1: An edit or a delete needs of"),
        (raw(on="edit", of=1, text=None), "Line 1: of must be the number of an earlier message."),
        (raw(of=1, seq=2), "Line 1: An edit or a delete needs of"),
        (raw(reply_to=5), "Line 1: reply_to must be the number of an earlier message."),
        (raw(reply_to=-1), "Line 1: reply_to must be"),
        (raw(key=""), "Line 1: Keys have 1 to 64 bytes."),
        (raw(key="k" * 65), "Line 1: Keys have 1 to 64 bytes."),
        (raw(other=1), "Line 1: "),
    ],
)
async def test_what_no_client_could_say_is_refused_with_its_line(text: bytes, words: str) -> None:
    journal = store()
    assert (await refusal(text, journal)).startswith(words)
    assert await journal.rooms() == []


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (raw(seq=2, at="2022-12-31T23:59:59Z"), "Line 3: its time is before that of the line"),
        (raw(seq=1), "Line 3: number 1 of lobby follows 1."),
        (raw(seq=3), "Line 3: number 3 of lobby follows 1."),
    ],
)
async def test_a_line_that_does_not_follow_the_one_before_it_is_refused(
    second: bytes, words: str
) -> None:
    other = raw(room="den", seq=7, at="2021-01-01T00:00:00Z")
    journal = store()
    assert (await refusal(b"\n".join([raw(), other, second]), journal)).startswith(words)


@pytest.mark.parametrize(
    ("beginning", "words"),
    [
        (b"\x1f\x8b\x08\x00", "zcat FILE"),
        (b"BZh91AY", "bzcat"),
        (b"\xfd7zXZ\x00", "xzcat"),
        (b"\x28\xb5\x2f\xfd", "zstdcat"),
        (b"PK\x03\x04", "zip"),
        ("{".encode("utf-16"), "UTF-16"),
        (b"SQLite format 3\0", "a store or a backup"),
        (b'[{"room":"a"}]', "a line of its own"),
    ],
)
async def test_a_file_of_another_format_is_named(beginning: bytes, words: str) -> None:
    assert words in await refusal(beginning)
    assert words in await refusal(beginning + b"x" * 100)


async def test_a_file_that_was_cut_says_so() -> None:
    whole = write_lines([line(1), line(2)])
    assert await refusal(whole[:-10]) == "Line 2: the file ends in the middle of it: it was cut."


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + raw() + b"\n",
        raw() + b"\r\n" + raw(seq=2) + b"\r\n",
        b"\n\n" + raw() + b"\n \t\r\n\n",
        raw(),
        b"",
        b"\xef\xbb\xbf",
        b"\n",
    ],
)
@pytest.mark.parametrize("size", [1, 2, 1000])
async def test_marks_breaks_and_empty_lines_are_nothing(text: bytes, size: int) -> None:
    journal = store()
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    done = await importing(journal).take(Pieces(*parts))
    assert done.events == text.count(b"room")


async def test_what_a_user_left_who_was_forgotten_is_imported() -> None:
    before, after = store(), store()
    await before.commit([Post("lobby", "Lobby", "u", "ann", "hi")])
    await before.commit([Post("lobby", "Lobby", "u", "ann", "a topic", kind="topic"), Wipe("u")])
    lines = await exported(before)
    assert (await importing(after).take(Pieces(lines))).events == 2
    assert await exported(after) == lines


# Going on


async def test_an_import_that_stopped_goes_on_where_it_stopped() -> None:
    journal = store()
    many = [line(seq) for seq in range(1, 3 * LINES)]
    whole = write_lines(many)
    one = importing(journal)
    cut = write_lines(many[: 2 * LINES - 1]) + b"nonsense\n"
    with pytest.raises(Refused) as caught:
        await one.take(Pieces(cut))
    assert (one.taken, str(caught.value)[:9]) == (LINES, "Line 512:")
    assert one.explain(caught.value).endswith("what is there already is skipped.")
    done = await importing(journal).take(Pieces(whole))
    assert (done.skipped, done.events) == (LINES, 2 * LINES - 1)
    assert await exported(journal) == whole
    done = await importing(journal).take(Pieces(whole))
    assert (done.skipped, done.events) == (3 * LINES - 1, 0)


async def test_a_check_changes_nothing() -> None:
    journal = store()
    epoch = journal.epoch
    lines = write_lines([line(seq) for seq in range(1, 2 * LINES)])
    done = await importing(journal, check=True).take(Pieces(lines))
    assert done.events == 2 * LINES - 1
    assert (await journal.rooms(), journal.epoch) == ([], epoch)
    broken = importing(journal, check=True)
    with pytest.raises(Refused) as caught:
        await broken.take(Pieces(lines + b"nonsense"))
    assert broken.explain(caught.value).endswith(" Nothing was imported.")


async def test_lines_that_were_changed_or_removed_since_are_skipped() -> None:
    journal = store(Retention(keep_events=3))
    lines = write_lines([line(seq) for seq in range(1, 7)])
    await importing(journal).take(Pieces(lines))
    while await journal.sweep():
        pass
    edit = Post("lobby", "Lobby", "u", "ann", "another text", kind="edit", of=5)
    await journal.commit([edit, Wipe("u")])
    done = await importing(journal).take(Pieces(lines))
    assert (done.skipped, done.events) == (6, 0)


async def test_another_history_is_not_continued() -> None:
    journal = store()
    await journal.commit([Post("lobby", "Lobby", "v", "bob", "said here")])
    assert await refusal(write_lines([line(1), line(2)]), journal) == (
        "Line 1: Lobby already has another event 1."
    )
    await journal.commit([Erase("lobby")])
    assert (await refusal(write_lines([line(1), line(2)]), journal)).startswith(
        "Line 1: Lobby had an event 1 that was removed"
    )


async def test_a_gap_after_what_is_there_is_refused_with_its_line() -> None:
    journal = store()
    await importing(journal).take(Pieces(write_lines([line(1)])))
    assert await refusal(b"\n" + write_lines([line(3)]), journal) == (
        "Line 2: Lobby: 3 does not follow 1."
    )


# What is said


async def test_what_retention_will_remove_is_counted() -> None:
    journal = store(Retention(max_bytes=1 << 20))
    settings = Settings(
        history=History(keep_days=100, keep_events=5, max_bytes=1 << 20),
        limits=Limits(message_bytes=2_000_000, send_queue_bytes=1 << 26),
    )
    old = [line(seq, room="old", at=NOW - 300 * DAY) for seq in range(1, 4)]
    new = [line(seq, room="new") for seq in range(1, 10)]
    done = await importing(journal, settings).take(Pieces(write_lines([*old, *new])))
    assert (done.too_old, done.too_many, done.too_big) == (3, 4, False)
    big = write_lines([line(1, "x" * 1_500_000, room="big")])
    assert (await importing(journal, settings).take(Pieces(big))).too_big


async def test_over_the_admin_socket(autojump_clock: MockClock) -> None:
    async with administered() as one:
        lines = write_lines([line(1), line(2)])
        status, _, answer = await one.raw("POST /import?check=", lines, kind=JSONL)
        assert (status, json.loads(answer)["events"]) == (200, 2)
        assert one.chat.logged("import") == []
        status, _, answer = await one.raw("POST /import", lines + b"nonsense\n", kind=JSONL)
        assert status == 422
        assert json.loads(answer)["error"]["message"].endswith(" Nothing was imported.")
        status, _, answer = await one.raw("POST /import", lines, kind=JSONL)
        assert (status, json.loads(answer)["events"]) == (200, 2)
        status, _, answer = await one.raw("POST /import", lines, kind=JSONL)
        assert json.loads(answer)["skipped"] == 2
        await one.chat.client("ann", room="den")
        inside = write_lines([line(1, room="den")])
        for target in ("/import?check=", "/import"):
            status, _, answer = await one.raw(f"POST {target}", inside, kind=JSONL)
            assert status == 422
            assert json.loads(answer)["error"]["message"] == (
                "Line 1: den has members. Import it when it has none. Nothing was imported."
            )
        assert await one.refused("GET /export?user=nobody") == (404, "not_found")
