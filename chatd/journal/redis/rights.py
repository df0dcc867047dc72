"""The rights that chatd's user needs, which a node checks each time it connects."""

from __future__ import annotations

from collections.abc import Sequence

from chatd.journal import StoreError
from chatd.journal.redis.layout import Keys
from chatd.journal.redis.resp import Command, ErrorReply, Reply
from chatd.journal.redis.scripts import RIGHTS

__all__ = ["check_rights", "is_forbidden", "needing_rights", "too_few_rights"]


def needing_rights(keys: Keys, replicas: int) -> Sequence[Command]:
    """Return commands that need all the rights and change nothing; see `check_rights`.

    Args:
        keys: The names of the store's keys.
        replicas: How many replicas must confirm.
    """
    key = keys.rights
    commands: list[Command] = [
        *(("TYPE", key), ("HSETNX", key, "a", ""), ("HGET", key, "a"), ("HMGET", key, "a")),
        *(("HLEN", key), ("HSCAN", key, 0), ("HRANDFIELD", key, 1)),
        *(("ZRANGE", key, 0, 0), ("ZSCORE", key, "a")),
        ("XREAD", "COUNT", 1, "STREAMS", keys.feed, "0-0"),
        ("PUBLISH", key, ""),  # a channel that nobody listens to
    ]
    if replicas:
        commands.append(("WAIT", 0, 1))
    return [*commands, ("EVALSHA", RIGHTS.sha, 1, key)]


def check_rights(commands: Sequence[Command], replies: Sequence[Reply], server: object) -> None:
    """Check the replies to `needing_rights`.

    Args:
        commands: The commands.
        replies: Their replies.
        server: The server's name in the error.

    Raises:
        StoreError: A right is missing.
    """
    missing = [
        str(command[0])
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, ErrorReply) and is_forbidden(reply)
    ]
    if isinstance(replies[-1], list):  # by RIGHTS
        missing += [name.decode() for name in replies[-1]]
    if missing:
        raise too_few_rights(server, f"it may not run {', '.join(dict.fromkeys(missing))}")


def is_forbidden(reply: ErrorReply) -> bool:
    """Return whether a command was refused, or one within a script, because a right is missing."""
    return reply.code == "NOPERM" or "The user executing the script" in str(reply)


def too_few_rights(server: object, problem: object) -> StoreError:
    """Return the error for a user without a right."""
    return StoreError(
        f"{server}: chatd's user needs more rights: {problem}. Give it those of docs/cluster.md"
    )
