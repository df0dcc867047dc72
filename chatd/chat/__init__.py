"""The chat: users, sessions, rooms, commands and limits, once for all protocols."""

from __future__ import annotations

from chatd.chat.chat import Chat, ChatStatistics
from chatd.chat.connection import Connection, Traffic
from chatd.chat.membership import Outbox
from chatd.chat.rules import perform
from chatd.chat.users import Login

__all__ = [
    "Chat",
    "ChatStatistics",
    "Connection",
    "Login",
    "Outbox",
    "Traffic",
    "perform",
]
