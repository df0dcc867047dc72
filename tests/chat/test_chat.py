"""The log lines about messages and connections."""

from __future__ import annotations

from chatd.protocol import commands, events
from chatd.settings import Log as LogSettings
from chatd.settings import Settings
from tests.chat.room import Room, open_room


async def test_the_log_has_what_is_done_to_messages_where_it_has_not_them() -> None:
    async with open_room(Settings(log=LogSettings(messages=False))) as room:
        ann = room.client("ann")
        await ann.join()
        for number in (1, 2):
            await ann.say(str(number))
        await ann.do(commands.Edit(room="lobby", seq=1, text="new"))
        await ann.do(commands.Delete(room="lobby", seq=2))
        await ann.until(lambda: ann.told(events.Delete))
        names = [name for name, _ in room.log.records]
        assert [name for name in names if name in ("message", "edit", "delete")] == [
            "edit",
            "delete",
        ]


async def test_the_log_has_connect_message_and_disconnect(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()
    await ann.say("secret words")
    await bob.until(bob.texts)
    ann.close()
    lines = {name: fields for name, fields in room.log.records if fields.get("nick") == "ann"}
    who = {"connection": "c1", "nick": "ann", "address": "192.0.2.1", "transport": "memory"}
    for name in ("connect", "join", "message", "disconnect"):
        assert who.items() <= lines[name].items(), name
    assert {"room": "lobby", "seq": 1, "bytes": 12, "receivers": 2}.items() <= lines[
        "message"
    ].items()
    assert {"code": 1006, "reason": "the connection was lost"}.items() <= lines[
        "disconnect"
    ].items()
    assert not any("secret words" in str(fields) for _, fields in room.log.records)
