"""The ``/`` commands: what each is given, what it is for, and how it is carried out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import trio

from chatd import client
from chatd.cli.durations import duration
from chatd.cli.terminal import lines
from chatd.cli.terminal.grammar import Misread, Parameter, Say, Verb, optional, read
from chatd.cli.terminal.talk import Talk

__all__ = ["VERBS", "carry_out"]

CarryOut: TypeAlias = Callable[..., Coroutine[Any, Any, None]]

_MOST_MEMBERS: Final = 100


def _number(word: str) -> int:
    """Read a message's number, with or without its ``#``. Raises ValueError."""
    return int(word.removeprefix("#"))


def _seconds(word: str) -> int:
    """Read ``0``, or a time. Raises ValueError."""
    return 0 if word == "0" else duration(word)


_NICK: Final = Parameter("NICK")
_ROOM: Final = Parameter("ROOM")
_NUMBER: Final = Parameter("N", _number)
_COUNT: Final = Parameter("N", int)
_TEXT: Final = Parameter("TEXT", rest=True)
_WORDS: Final = Parameter("WORDS", rest=True)
_TIME: Final = Parameter("TIME", duration)
_PAUSE: Final = Parameter("TIME", _seconds)
_REASON: Final = Parameter("REASON", rest=True)

_carried_out: dict[str, CarryOut] = {}
_verbs: dict[str, Verb] = {}

VERBS: Final[Mapping[str, Verb]] = MappingProxyType(_verbs)
"""Every command by its name, in the order in which /help tells of them."""


def _verb(
    name: str, what: str, *parameters: Parameter, operators: bool = False
) -> Callable[[CarryOut], CarryOut]:
    def added(carry_out: CarryOut) -> CarryOut:
        _verbs[name] = Verb(name, parameters, what, operators)
        _carried_out[name] = carry_out
        return carry_out

    return added


async def carry_out(talk: Talk, line: str) -> bool:
    """Carry out a line; tell what it came to. Gives whether it did what was meant.

    Raises `client.Closed`.
    """
    match read(line, VERBS):
        case Misread(message):
            talk.warn(message)
            return False
        case None:
            return True
        case Say(text):
            doing = _say(talk, text)
        case (verb, values):
            doing = _carried_out[verb.name](talk, *values)
    try:
        await doing
    except client.Refused as refused:
        wait = "" if refused.retry_ms is None else f" ({refused.retry_ms / 1000:.0f} s to wait)"
        talk.warn(f"{refused.message}{wait}")
    except trio.TooSlowError:
        talk.warn("no answer came: it may have been done, or not")
    else:
        return True
    return False


async def _say(talk: Talk, text: str) -> None:
    await talk.say(text, room=talk.here())


# ---- people and places


@_verb("help", "what there is to type")
async def _help(talk: Talk) -> None:
    op = talk.chat.identity.op
    shown = [verb for verb in VERBS.values() if op or not verb.operators]
    width = max(len(str(verb)) for verb in shown)
    text = "\n".join(f"{verb!s:{width}}  {verb.help}" for verb in shown)
    talk.note(f"a line is said; // begins one with a slash\n{text}")


@_verb("join", "go to a room, or with @NICK to what you and NICK say to each other", _ROOM)
async def _join(talk: Talk, room: str) -> None:
    room = room.removeprefix("#")
    if room in talk.chat.joined:
        talk.go(room)
        talk.tell_place()
        return
    try:
        await talk.enter(room)
    except (client.Refused, trio.TooSlowError):
        # What is typed behind it is meant for there, and may be for nobody else.
        talk.go("")
        talk.tell_place()
        raise


@_verb("leave", "leave this room, or ROOM", optional(_ROOM))
async def _leave(talk: Talk, room: str | None) -> None:
    if room is None or room.casefold() == talk.place_of(talk.room).casefold():
        room = talk.here()
    if not room.startswith("@"):
        await talk.chat.leave(room)
    talk.note(f"you left {talk.place_of(room)}")
    talk.left(room, then=next((other for other in talk.chat.joined if other != room), ""))


@_verb("rooms", "which rooms there are")
async def _rooms(talk: Talk) -> None:
    rooms = await talk.chat.rooms()
    talk.note("\n".join(map(lines.room, rooms)) or "there are none")


@_verb("who", "who is here, or in ROOM", optional(_ROOM))
async def _who(talk: Talk, room: str | None) -> None:
    found = await talk.chat.who(room or talk.here(), limit=_MOST_MEMBERS)
    nicks = [f"{member.nick} (operator)" if member.op else member.nick for member in found.members]
    more = found.member_count - len(nicks)
    talk.note(", ".join(nicks) + (f" and {more} more" if more > 0 else ""))


@_verb("nick", "be called NICK", _NICK)
async def _nick(talk: Talk, nick: str) -> None:
    talk.note(f"you are {await talk.chat.nick(nick)}")


@_verb("quit", "leave the chat; so do Ctrl-D, and Ctrl-C on an empty line")
async def _quit(talk: Talk) -> None:
    await talk.chat.aclose()


# ---- words


@_verb("me", "say what you do", _TEXT)
async def _me(talk: Talk, text: str) -> None:
    await _say(talk, f"_{text}_")


@_verb("msg", "say it to NICK alone", _NICK, _TEXT)
async def _msg(talk: Talk, nick: str, text: str) -> None:
    await talk.say(text, room=f"@{nick.removeprefix('@')}")


@_verb("reply", "answer message N", _NUMBER, _TEXT)
async def _reply(talk: Talk, seq: int, text: str) -> None:
    await talk.say(text, room=talk.here(), reply_to=seq)


@_verb("edit", "let your message N read otherwise", _NUMBER, _TEXT)
async def _edit(talk: Talk, seq: int, text: str) -> None:
    await talk.chat.edit(talk.here(), seq, text)


@_verb("delete", "take your message N away", _NUMBER)
async def _delete(talk: Talk, seq: int) -> None:
    await talk.chat.delete(talk.here(), seq)


@_verb("history", "what was said before what is shown here", optional(_COUNT))
async def _history(talk: Talk, count: int | None) -> None:
    await talk.older(count)


@_verb("search", "what was said here with all these words", _WORDS)
async def _search(talk: Talk, words: str) -> None:
    found = await talk.chat.search(talk.here(), words)
    messages = [event for event in found.events if isinstance(event, client.Message)]
    for one in reversed(messages):
        talk.screen.show(lines.message(one, f"{one.at.astimezone():%Y-%m-%d}", again=True))
    talk.note(f"found {len(messages)}{', and there are older ones' if found.more else ''}")


@_verb("topic", "say what the room is about; - takes it away", _TEXT)
async def _topic(talk: Talk, text: str) -> None:
    await talk.chat.topic(talk.here(), "" if text == "-" else text)


# ---- what operators do, in the room they are in


@_verb("kick", "put NICK out", _NICK, optional(_REASON), operators=True)
async def _kick(talk: Talk, nick: str, reason: str | None) -> None:
    await talk.chat.kick(room=talk.here(), **_person(nick, reason))


@_verb("ban", "keep NICK out, for TIME", _NICK, optional(_TIME), optional(_REASON), operators=True)
async def _ban(talk: Talk, nick: str, seconds: int | None, reason: str | None) -> None:
    await talk.chat.ban(room=talk.here(), seconds=seconds, **_person(nick, reason))
    talk.note(f"{nick} is banned")


@_verb("unban", "let NICK in again", _NICK, operators=True)
async def _unban(talk: Talk, nick: str) -> None:
    await talk.chat.unban(room=talk.here(), nick=nick)
    talk.note(f"{nick} may come in again")


@_verb(
    "mute",
    "let NICK say nothing, for TIME",
    _NICK,
    optional(_TIME),
    optional(_REASON),
    operators=True,
)
async def _mute(talk: Talk, nick: str, seconds: int | None, reason: str | None) -> None:
    await talk.chat.mute(room=talk.here(), seconds=seconds, **_person(nick, reason))
    talk.note(f"{nick} is muted")


@_verb("unmute", "let NICK speak again", _NICK, operators=True)
async def _unmute(talk: Talk, nick: str) -> None:
    await talk.chat.unmute(room=talk.here(), nick=nick)
    talk.note(f"{nick} may speak again")


@_verb("slow", "have everybody wait TIME between two messages; 0 ends it", _PAUSE, operators=True)
async def _slow(talk: Talk, seconds: int) -> None:
    await talk.chat.slow(talk.here(), seconds)
    talk.note(f"{seconds} s between two messages" if seconds else "nobody has to wait any more")


@_verb(
    "close",
    "shut the room, for TIME; 0 opens it",
    optional(_PAUSE),
    optional(_REASON),
    operators=True,
)
async def _close(talk: Talk, seconds: int | None, reason: str | None) -> None:
    await talk.chat.close_room(talk.here(), seconds=seconds, reason=reason)
    talk.note("the room is open" if seconds == 0 else "the room is shut")


def _person(nick: str, reason: str | None) -> Any:
    return {"nick": nick} | ({} if reason is None else {"reason": reason})
