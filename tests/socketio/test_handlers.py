from __future__ import annotations

from typing import Any

import pytest

from chatd.engineio.hooks import call
from chatd.socketio.handlers import Acknowledging, Handlers


async def test_functions_are_called_async_or_plain() -> None:
    async def slow(x: int) -> int:
        return x

    assert await call(slow, 1) == await call(lambda x: x, 1) == 1


@pytest.mark.parametrize("name", ["connect", "connection"])
async def test_connect_has_nodes_name_too(name: str) -> None:
    handlers = Handlers()
    seen: list[Any] = []
    handlers.add(name, seen.append, ack=False)
    await handlers.lifecycle("connect", "socket")
    assert seen == ["socket"]


def test_what_cannot_be_registered_is_refused() -> None:
    handlers = Handlers()
    with pytest.raises(TypeError, match="not a function"):
        handlers.add("x", 5, ack=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no acknowledgement"):
        handlers.add("disconnect", print, ack=True)


def test_an_ack_sends_once() -> None:
    sent: list[Any] = []
    ack = Acknowledging(sent.append)
    ack.returned(None)
    assert sent == []
    ack.returned((1, 2))
    ack(3)
    assert sent == [(1, 2)]
    Acknowledging(None)(1)


@pytest.mark.parametrize("event", ["disconnecting", "connect_error", "newListener"])
def test_a_handler_that_would_never_run_is_refused(event: str) -> None:
    with pytest.raises(ValueError, match="no client can send"):
        Handlers().add(event, print, ack=False)


async def test_unhandled_events_go_to_the_fallback_after_the_catch_alls() -> None:
    handlers = Handlers()
    seen: list[Any] = []
    sent: list[Any] = []
    handlers.add("known", lambda _socket, *args: seen.append(("known", *args)), ack=False)
    handlers.add_any(lambda _socket, *args: seen.append(("any", *args)), ack=False)
    handlers.add_unhandled(lambda _socket, event, *args: (event, *args), ack=False)
    list(handlers.event("socket", "known", [1], Acknowledging(sent.append)))
    list(handlers.event("socket", "unknown", [2], Acknowledging(sent.append)))
    assert seen == [("any", "known", 1), ("known", 1), ("any", "unknown", 2)]
    assert sent == [("unknown", 2)]


async def test_a_fallback_can_take_the_acknowledgement() -> None:
    handlers = Handlers()
    sent: list[Any] = []
    handlers.add_unhandled(lambda _socket, _event, ack: ack("no such event"), ack=True)
    list(handlers.event("socket", "unknown", [], Acknowledging(sent.append)))
    assert sent == [("no such event",)]
