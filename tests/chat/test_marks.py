"""Read marks and their records."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from chatd.chat.marks import MARK, Mark, mark_of
from chatd.journal.memory import MemoryJournal
from chatd.model import Put, Record
from chatd.protocol import commands
from tests.chat.room import Wall, open_room


def test_a_record_holds_its_mark() -> None:
    mark = Mark("ann", "lobby", 7)
    assert mark.record(5) == Record(MARK, "ann\0lobby", b"7", 5)
    assert mark_of(mark.record(None)) == mark


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1_0", b"1.5", "\u0661".encode(), b"9" * 17])
def test_anything_but_a_number_is_no_mark(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a read mark"):
        mark_of(Record(MARK, "ann\0lobby", value))


async def test_a_user_with_a_damaged_mark_comes_back(autojump_clock: MockClock) -> None:
    journal = MemoryJournal(now=Wall())
    async with open_room(journal=journal) as room:
        ann = room.client("ann")
        user = ann.connection.user
        session = room.chat.users.session(user)
        for name in ("lobby", "den"):
            await ann.join(name)
            await ann.say("x", name)
            await ann.do(commands.Read(room=name, seq=1))
        ann.close()
        await journal.commit([Put(Record(MARK, f"{user.id}\0den", b"garbage"))])
    async with open_room(journal=journal) as room:
        back = room.client()
        await back.do(commands.Auth(session=session))
        assert (await back.join("lobby")).read == 1
        assert (await back.join("den")).read is None
        [detail] = [fields["detail"] for name, fields in room.log.records if name == "store"]
        assert detail.endswith("left out: the user's next read mark in that room replaces it")
        await back.do(commands.Read(room="den", seq=1))
        records = await journal.records(MARK, f"{user.id}\0den")
        assert [record.value for record in records] == [b"1"]
