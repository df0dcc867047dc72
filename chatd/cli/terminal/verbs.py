"""The ``/`` commands: their arguments, their help and what they do."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import trio

from chatd import client
from chatd.cli.durations import duration
from chatd.cli.terminal import lines
from chatd.cli.terminal.grammar import Invalid, Parameter, Say, Verb, optional, read
from chatd.cli.terminal.talk import Talk

__all__ = ["VERBS", "attempt", "carry_out"]

CarryOut: TypeAlias = Callable[..., Coroutine[Any, Any, None]]

_MOST_MEMBERS: Final = 100


def _number(word: str) -> int:
    """Parse a message's number, with or without ``#``. Raises ValueError."""
    return int(word.removeprefix("#"))


def _seconds(word: str) -> int:
    """Parse ``0`` or a duration. Raises ValueError."""
    return 0 if word == "0" else duration(word)


_NICK: Final = Parameter("NICK")
_ROOM: Final = Parameter("ROOM")
_NUMBER: Final = Parameter("N", _number)
_COUNT: Final = Parameter("N", int)
_TEXT: Final = Parameter("TEXT", rest=True)
_WORDS: Final = Parameter("WORDS", rest=True)
_FROM: Final = "from:"
_TIME: Final = Parameter("TIME", duration)
_PAUSE: Final = Parameter("TIME", _seconds)
_REASON: Final = Parameter("REASON", rest=True)

_carried_out: dict[str, CarryOut] = {}
_verbs: dict[str, Verb] = {}

VERBS: Final[Mapping[str, Verb]] = MappingProxyType(_verbs)
"""Every command by its name, in the order of /help."""


def _verb(
    name: str, what: str, *parameters: Parameter, operators: bool = False
) -> Callable[[CarryOut], CarryOut]:
    def added(carry_out: CarryOut) -> CarryOut:
        _verbs[name] = Verb(name, parameters, what, operators)
        _carried_out[name] = carry_out
        return carry_out

    return added


async def carry_out(talk: Talk, line: str) -> bool:
    """Carry out a typed line and show its result. Return whether it succeeded.

    Raises `client.Closed`.
    """
    match read(line, VERBS):
        case Invalid(message):
            talk.warn(message)
            return False
        case None:
            return True
        case Say(text):
            doing = talk.say_here(text)
        case (verb, values):
            doing = _carried_out[verb.name](talk, *values)
    return await attempt(talk, doing)


async def attempt(talk: Talk, doing: Coroutine[Any, Any, None], what: str = "") -> bool:
    """Await a command and show why it was refused, after ``what``. Return whether it succeeded.

    Raises `client.Closed`.
    """
    try:
        await doing
    except client.Refused as refused:
        wait = "" if refused.retry_ms is None else f" (wait {refused.retry_ms / 1000:.0f} s)"
        talk.warn(f"{what}{refused.message}{wait}")
    except trio.TooSlowError:
        talk.warn(f"{what}No answer came. It may or may not have been done.")
    else:
        return True
    return False


# ---- people and rooms


@_verb("help", "Show this list.")
async def _help(talk: Talk) -> None:
    op = talk.chat.identity.op
    shown = [verb for verb in VERBS.values() if op or not verb.operators]
    width = max(len(str(verb)) for verb in shown)
    text = "\n".join(f"{verb!s:{width}}  {verb.help}" for verb in shown)
    talk.answer(f"Type a message and press Enter; // begins one with a slash.\n{text}")


@_verb("join", "Go to a room, or with @NICK to your direct messages with NICK.", _ROOM)
async def _join(talk: Talk, room: str) -> None:
    room = room.removeprefix("#")
    if room in talk.chat.joined:
        talk.go(room)
        talk.notify_room()
        return
    try:
        await talk.enter(room)
    except (client.Refused, trio.TooSlowError):
        # The next lines are meant for that room, and must not go to another one.
        talk.go("")
        talk.notify_room()
        raise


@_verb("leave", "Leave this room, or ROOM.", optional(_ROOM))
async def _leave(talk: Talk, room: str | None) -> None:
    if room is None or room.casefold() == talk.label(talk.room).casefold():
        room = talk.here()
    if not room.startswith("@"):
        await talk.chat.leave(room)
    talk.answer(f"You left {talk.label(room)}.")
    talk.left(room, then=next((other for other in talk.chat.joined if other != room), ""))


@_verb("rooms", "List the rooms.")
async def _rooms(talk: Talk) -> None:
    rooms = await talk.chat.rooms()
    talk.answer("\n".join(map(lines.room, rooms)) or "There are no rooms.")


@_verb("who", "List the members of this room, or of ROOM.", optional(_ROOM))
async def _who(talk: Talk, room: str | None) -> None:
    found = await talk.chat.who(room or talk.here(), limit=_MOST_MEMBERS)
    nicks = [f"{member.nick} (operator)" if member.op else member.nick for member in found.members]
    more = found.member_count - len(nicks)
    talk.answer(", ".join(nicks) + (f" and {more} more" if more > 0 else ""))


@_verb("nick", "Change your name to NICK.", _NICK)
async def _nick(talk: Talk, nick: str) -> None:
    talk.answer(f"You are now {await talk.chat.nick(nick)}.")


@_verb("quit", "Leave the chat; so do Ctrl-D, and Ctrl-C on an empty line.")
async def _quit(talk: Talk) -> None:
    await talk.chat.aclose()


# ---- messages


@_verb("me", "Say what you are doing.", _TEXT)
async def _me(talk: Talk, text: str) -> None:
    await talk.say_here(f"_{text}_")


@_verb("msg", "Send a direct message to NICK.", _NICK, _TEXT)
async def _msg(talk: Talk, nick: str, text: str) -> None:
    await talk.say(text, room=f"@{nick.removeprefix('@')}")


@_verb("reply", "Reply to message N.", _NUMBER, _TEXT)
async def _reply(talk: Talk, seq: int, text: str) -> None:
    await talk.say(text, room=talk.here(), reply_to=seq)


@_verb("edit", "Change your message N.", _NUMBER, _TEXT)
async def _edit(talk: Talk, seq: int, text: str) -> None:
    await talk.chat.edit(talk.here(), seq, text)


@_verb("delete", "Delete your message N.", _NUMBER)
async def _delete(talk: Talk, seq: int) -> None:
    await talk.chat.delete(talk.here(), seq)


@_verb("history", "Show N earlier messages.", optional(_COUNT))
async def _history(talk: Talk, count: int | None) -> None:
    await talk.show_history(count)


@_verb(
    "search",
    "Find the messages here with words that begin so; add from:NICK. Alone: the older ones.",
    optional(_WORDS),
)
async def _search(talk: Talk, words: str | None) -> None:
    if words is None:
        await talk.search_on()
        return
    rest = [word for word in words.split() if not word.startswith(_FROM)]
    nick = next((word[len(_FROM) :] for word in words.split() if word.startswith(_FROM)), None)
    await talk.search(words if nick is None else " ".join(rest), nick)


@_verb("topic", "Set the room's topic; - removes it.", _TEXT)
async def _topic(talk: Talk, text: str) -> None:
    await talk.chat.topic(talk.here(), "" if text == "-" else text)


# ---- operators' commands, for the current room


@_verb("kick", "Remove NICK from this room.", _NICK, optional(_REASON), operators=True)
async def _kick(talk: Talk, nick: str, reason: str | None) -> None:
    await talk.chat.kick(room=talk.here(), **_person(nick, reason))


@_verb(
    "ban",
    "Keep NICK out, for TIME.",
    _NICK,
    optional(_TIME),
    optional(_REASON),
    operators=True,
)
async def _ban(talk: Talk, nick: str, seconds: int | None, reason: str | None) -> None:
    done = await talk.chat.ban(room=talk.here(), seconds=seconds, **_person(nick, reason))
    no_address = done.networks is not None and not done.networks
    evades = " Their address is not known, so they may come back as another guest."
    talk.answer(f"{nick} is banned.{evades if no_address else ''}")


@_verb("unban", "Let NICK in again.", _NICK, operators=True)
async def _unban(talk: Talk, nick: str) -> None:
    await talk.chat.unban(room=talk.here(), nick=nick)
    talk.answer(f"{nick} is no longer banned.")


@_verb(
    "mute",
    "Keep NICK from sending messages, for TIME.",
    _NICK,
    optional(_TIME),
    optional(_REASON),
    operators=True,
)
async def _mute(talk: Talk, nick: str, seconds: int | None, reason: str | None) -> None:
    await talk.chat.mute(room=talk.here(), seconds=seconds, **_person(nick, reason))
    talk.answer(f"{nick} is muted.")


@_verb("unmute", "Let NICK send messages again.", _NICK, operators=True)
async def _unmute(talk: Talk, nick: str) -> None:
    await talk.chat.unmute(room=talk.here(), nick=nick)
    talk.answer(f"{nick} is no longer muted.")


@_verb("slow", "Make members wait TIME between two messages; 0 ends it.", _PAUSE, operators=True)
async def _slow(talk: Talk, seconds: int) -> None:
    await talk.chat.slow(talk.here(), seconds)
    talk.answer(
        f"Slow mode is on: one message every {seconds} s." if seconds else "Slow mode is off."
    )


@_verb(
    "close",
    "Close the room, for TIME; 0 opens it.",
    optional(_PAUSE),
    optional(_REASON),
    operators=True,
)
async def _close(talk: Talk, seconds: int | None, reason: str | None) -> None:
    await talk.chat.close_room(talk.here(), seconds=seconds, reason=reason)
    talk.answer("The room is open." if seconds == 0 else "The room is closed.")


@_verb(
    "remove",
    "Remove ROOM: its members leave it, and its messages are deleted.",
    _ROOM,
    optional(_REASON),
    operators=True,
)
async def _remove(talk: Talk, room: str, reason: str | None) -> None:
    await talk.chat.remove_room(room, reason=reason)
    talk.answer(f"The room {room} is removed.")


@_verb("bans", "List bans, mutes, slow modes and closed rooms.", operators=True)
async def _bans(talk: Talk) -> None:
    found = await talk.chat.bans()
    talk.answer("\n".join(map(lines.sanction, found.bans)) or "Nobody is banned or muted.")


def _person(nick: str, reason: str | None) -> Any:
    return {"nick": nick} | ({} if reason is None else {"reason": reason})
