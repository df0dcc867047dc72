"""Whose data is under the prefix: nobody's yet, this chat's, or somebody else's.

A chat is identified by the issuer and the audience that its tokens must name. If two chats had one
store, a token for one of them would name a user of the other.
"""

from __future__ import annotations

from typing import Final

from chatd.journal import StoreError
from chatd.journal.redis.client import Client
from chatd.journal.redis.damage import damaged
from chatd.journal.redis.layout import Keys

__all__ = ["check_prefix", "claim_prefix"]

_FIELD: Final = "chat"


async def check_prefix(client: Client, keys: Keys, chat: str) -> bool:
    """Check that only this chat has data under the prefix. Return whether the data names a chat.

    Args:
        client: The links to the server.
        keys: The names of the store's keys.
        chat: The issuer and audience that tokens must name, for people; empty if neither is set.

    Raises:
        StoreError: There is other data.
        chatd.journal.Unavailable: The server does not answer.
    """
    types = keys.types
    found = [kind.decode() for kind in await client.ask(*(("TYPE", key) for key in types))]
    made = noted = None
    if found[-1] == "hash":  # `meta`, which the first node makes together with the others
        made, noted = await client.ask_one(("HMGET", keys.meta, "format", _FIELD))
    for key, kind in zip(types, found, strict=True):
        own = kind == types[key] and (made or (noted and key == keys.meta))
        if kind != "none" and not own:
            if made:
                raise StoreError(str(damaged(keys, key)))
            raise StoreError(
                f"history.prefix: the key {key.decode()} in Redis is not chatd's: set another "
                f"history.prefix than {keys.prefix}; or restore a backup of Redis if somebody has "
                f"deleted or changed {keys.meta.decode()}"
            )
    if noted is not None:
        _compare(keys, noted, chat)
    return noted is not None


async def claim_prefix(client: Client, keys: Keys, chat: str) -> None:
    """Do as `check_prefix` does, and write down that the data is this chat's."""
    if not await check_prefix(client, keys, chat) and chat:
        _, noted = await client.ask(
            ("HSETNX", keys.meta, _FIELD, chat), ("HGET", keys.meta, _FIELD)
        )
        _compare(keys, noted, chat)


def _compare(keys: Keys, noted: bytes, chat: str) -> None:
    if noted.decode() != chat:
        tokens = chat or "any issuer and audience"
        raise StoreError(
            f"history.prefix: the chat under {keys.prefix} takes tokens with {noted.decode()}, but "
            f"this configuration takes tokens with {tokens}: set another history.prefix. If this "
            f"is the same chat with other tokens, run `redis-cli HDEL {keys.meta.decode()} "
            f"{_FIELD}`, and start chatd again"
        )
