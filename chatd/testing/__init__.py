"""The whole daemon inside a test: in memory, and on Trio's virtual clock if the test asks for it.

With pytest and pytest-trio the fixture ``chat`` is available once chatd is installed::

    async def test_a_short_outage_loses_nothing(chat, autojump_clock):
        ann = await chat.client("ann")
        bob = await chat.client("bob", protocol="socketio")
        await chat.cut(bob)
        await ann.say("are you there?")
        await trio.sleep(600)
        await bob.reconnect()
        assert (await bob.next("message")).text == "are you there?"

Override the fixture ``chat_settings`` to give it a configuration (`chatd.settings.Settings`).
Without pytest, ``async with open_chat() as chat`` is the same.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatd.testing.clients import (
        HttpClient,
        HttpPage,
        JsonClient,
        SocketIoClient,
        TextClient,
        TextLine,
    )
    from chatd.testing.clients import TextLine as Line
    from chatd.testing.cluster import Cluster, ClusterNode, open_cluster
    from chatd.testing.harness import Harness, open_chat

__all__ = [
    "Cluster",
    "ClusterNode",
    "Harness",
    "HttpClient",
    "HttpPage",
    "JsonClient",
    "Line",
    "SocketIoClient",
    "TextClient",
    "TextLine",
    "open_chat",
    "open_cluster",
]


# pytest imports this package in every run, for its plugin. The daemon is imported when it is used.
def __getattr__(name: str) -> object:
    if name == "Line":
        warnings.warn(
            "chatd.testing.Line is now chatd.testing.TextLine.", DeprecationWarning, stacklevel=2
        )
        name = "TextLine"
    if name in {"Harness", "open_chat"}:
        from chatd.testing import harness as module  # noqa: PLC0415
    elif name in {"Cluster", "ClusterNode", "open_cluster"}:
        from chatd.testing import cluster as module  # type: ignore[no-redef]  # noqa: PLC0415
    elif name in __all__:
        from chatd.testing import clients as module  # type: ignore[no-redef]  # noqa: PLC0415
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Line"})
