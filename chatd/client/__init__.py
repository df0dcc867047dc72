"""A client of the chat for programs. It reconnects by itself, misses nothing and repeats nothing.

    async with client.connect("ws://localhost:3000", nick="ann") as chat:
        await chat.join("lobby")
        await chat.say("hello")
        async for event in chat:
            match event:
                case client.Message():
                    print(event.nick, event.text)

It speaks ``chatd.v1`` (JSON over WebSocket) on any Trio stream.
"""

from __future__ import annotations

from chatd.client.changes import Gap, Lost, Reconnected, RoomLost
from chatd.client.chat import AnyEvent, Chat, Statistics, Token, connect
from chatd.client.connection import Deadlines
from chatd.client.dialing import Address, Backoff, Dial, dial_url
from chatd.client.errors import ChatError, Closed, ConnectError, Ending, Garbled, Refused
from chatd.client.moderation import Person
from chatd.protocol.commands import (
    Changed,
    Entered,
    Found,
    Identity,
    Member,
    Members,
    Page,
    Position,
    RoomInfo,
    Said,
    Sanctioned,
    SanctionInfo,
    SanctionList,
)
from chatd.protocol.events import (
    Bye,
    Delete,
    Edit,
    Epoch,
    Hello,
    Joined,
    Left,
    Limits,
    Message,
    NickChange,
    Notice,
    Presence,
    Read,
    Topic,
    Typing,
    Unknown,
)

__all__ = [
    "Address",
    "AnyEvent",
    "Backoff",
    "Bye",
    "Changed",
    "Chat",
    "ChatError",
    "Closed",
    "ConnectError",
    "Deadlines",
    "Delete",
    "Dial",
    "Edit",
    "Ending",
    "Entered",
    "Epoch",
    "Found",
    "Gap",
    "Garbled",
    "Hello",
    "Identity",
    "Joined",
    "Left",
    "Limits",
    "Lost",
    "Member",
    "Members",
    "Message",
    "NickChange",
    "Notice",
    "Page",
    "Person",
    "Position",
    "Presence",
    "Read",
    "Reconnected",
    "Refused",
    "RoomInfo",
    "RoomLost",
    "Said",
    "SanctionInfo",
    "SanctionList",
    "Sanctioned",
    "Statistics",
    "Token",
    "Topic",
    "Typing",
    "Unknown",
    "connect",
    "dial_url",
]
