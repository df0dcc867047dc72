"""Commands that only operators may give."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from chatd.chat.rules import moderation
from chatd.model import Refused
from chatd.protocol import commands
from tests.chat.room import member

COMMANDS = [
    commands.Kick(nick="eve"),
    commands.Ban(nick="eve"),
    commands.Unban(nick="eve"),
    commands.Mute(nick="eve"),
    commands.Unmute(nick="eve"),
    commands.Slow(room="lobby", seconds=1),
    commands.Close(room="lobby"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
async def test_others_are_refused(
    command: commands.Sanction | commands.Slow | commands.Close, mock_clock: MockClock
) -> None:
    connection, _ = await member()
    with pytest.raises(Refused, match="Only operators can do this") as refused:
        await moderation.moderate(connection, command)
    assert refused.value.refusal.code == "forbidden"
    assert len(connection.chat.sanctions) == 0


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (commands.Kick(), "bad_request"),
        (commands.Kick(nick="nobody"), "not_found"),
        (commands.Kick(nick="a b"), "bad_request"),
        (commands.Kick(nick="ann"), "bad_request"),
        (commands.Kick(user="nobody"), "not_found"),
        (commands.Mute(nick="eve", room="a b"), "bad_request"),
        (commands.Mute(nick="eve", reason="x" * 513), "too_large"),
        (commands.Mute(nick="eve", seconds=0), "bad_request"),
        (commands.Mute(nick="eve", seconds=1e12), "bad_request"),
        (commands.Unmute(nick="eve"), "not_found"),
        (commands.Unban(network="192.0.2.0/24"), "not_found"),
        (commands.Ban(network="x"), "bad_request"),
        (commands.Slow(room="lobby", seconds=-1), "bad_request"),
        (commands.Slow(room="lobby", seconds=1e6), "bad_request"),
    ],
)
async def test_what_an_operator_is_refused(
    command: commands.Sanction | commands.Slow | commands.Close,
    code: str,
    mock_clock: MockClock,
) -> None:
    connection, _ = await member(op=True)
    await connection.chat.new_guest("", "eve")
    with pytest.raises(Refused) as refused:
        await moderation.moderate(connection, command)
    assert refused.value.refusal.code == code
    assert len(connection.chat.sanctions) == 0
