"""Handlers and middleware: what a namespace's users registered, and how it is called.

A handler is an async function, or a plain one that has nothing to wait for. It is given the socket
first, then what its event brings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, overload

__all__ = ["Acknowledging", "Handler", "Handlers", "Listening", "call"]

Handler: TypeAlias = Callable[..., Any]
"""An async function, or a plain one."""

H = TypeVar("H", bound=Handler)

LIFECYCLE: Final = {"connect": "connect", "connection": "connect", "disconnect": "disconnect"}
"""What the library tells of a socket's life. ``connection`` is what Node's servers call it."""


NEVER_SENT: Final = frozenset({"connect_error", "disconnecting", "newListener", "removeListener"})
"""Names that are no event's (socket.io-protocol, "Event names"): a handler would never run."""


class Registrar(Protocol):
    """A decorator that gives back what it is given."""

    def __call__(self, handler: H, /) -> H: ...


class Acknowledging:
    """The acknowledgement of one event: what an ``ack=True`` handler gets as its last argument.

    Call it once, at any time, with any arguments; they are the arguments of the client's callback.
    Later calls do nothing, nor does a call for an event that the client wants no answer to.

    Raises:
        TypeError: An argument is of a type that cannot be sent.
        ValueError: A string is not valid Unicode.
    """

    __slots__ = ("_send",)

    def __init__(self, send: Callable[[Sequence[Any]], None] | None) -> None:
        self._send = send

    @property
    def wanted(self) -> bool:
        """Whether the client asked for an acknowledgement and has not been sent one."""
        return self._send is not None

    def __call__(self, *args: Any) -> None:
        send, self._send = self._send, None
        if send is not None:
            send(args)

    def returned(self, value: Any) -> None:
        """Acknowledge with what a handler returned: None is nothing, a tuple several arguments."""
        if value is not None:
            self(*(value if type(value) is tuple else (value,)))


async def call(function: Handler, *args: Any) -> Any:
    """Call an async function, or a plain one."""
    result = function(*args)
    return await result if inspect.isawaitable(result) else result


class Handlers:
    """What is registered for one namespace, or for all that one pattern makes."""

    __slots__ = ("_any", "_lifecycle", "_named", "_unhandled", "middleware", "on_events")

    def __init__(self) -> None:
        self._lifecycle: dict[str, list[Handler]] = {}
        self._named: dict[str, list[tuple[Handler, bool]]] = {}
        self._any: list[tuple[Handler, bool]] = []
        self._unhandled: list[tuple[Handler, bool]] = []
        # Middleware: what a socket passes before it is let in, and what each event passes.
        self.middleware: list[Handler] = []
        self.on_events: list[Handler] = []

    def add(self, event: str, handler: Handler, *, ack: bool) -> None:
        """Register a handler.

        Raises TypeError for what cannot be called, ValueError for ``ack`` on what is no event.
        """
        if not callable(handler):
            raise TypeError(f"the handler of {event!r} is not a function: {handler!r}")
        if event in NEVER_SENT:
            raise ValueError(f"no client can send {event!r}; what ends a socket is 'disconnect'")
        if event in LIFECYCLE:
            if ack:
                raise ValueError(f"{event!r} is not acknowledged")
            self._lifecycle.setdefault(LIFECYCLE[event], []).append(handler)
        else:
            self._named.setdefault(event, []).append((handler, ack))

    def add_any(self, handler: Handler, *, ack: bool) -> None:
        self._any.append((handler, ack))

    def add_unhandled(self, handler: Handler, *, ack: bool) -> None:
        self._unhandled.append((handler, ack))

    async def lifecycle(self, event: str, socket: Any, *args: Any) -> None:
        """Run what is registered for ``connect`` or ``disconnect``. Raises what that raises."""
        for handler in tuple(self._lifecycle.get(event, ())):
            await call(handler, socket, *args)

    async def event(self, socket: Any, event: str, args: Sequence[Any], ack: Acknowledging) -> None:
        """Run an event's handlers, the catch-alls first. Raises what they raise."""
        for handler, wants_ack in tuple(self._any):
            await call(handler, socket, event, *args, *([ack] if wants_ack else []))
        handlers = self._named.get(event)
        if handlers is None:
            handlers = self._unhandled
            args = (event, *args)
        for handler, wants_ack in tuple(handlers):
            if wants_ack:
                await call(handler, socket, *args, ack)
            else:
                ack.returned(await call(handler, socket, *args))


class Listening:
    """The decorators that register handlers: one face for servers and namespaces."""

    @property
    def _handlers(self) -> Handlers:
        raise NotImplementedError

    @overload
    def on(self, event: str, /, *, ack: bool = False) -> Registrar: ...

    @overload
    def on(self, event: str, handler: H, /, *, ack: bool = False) -> H: ...

    def on(self, event: str, handler: Handler | None = None, /, *, ack: bool = False) -> Any:
        """Register a handler: ``@io.on("event")``, or ``io.on("event", function)``.

        ``connect(socket)`` runs when a client is in, before any event of its. ``disconnect(socket,
        reason)`` runs last and once. Everything else is an event that clients send: ``handler(
        socket, *args)``. What it returns is its acknowledgement, if the client asked for one: None
        acknowledges nothing, a tuple is several arguments, anything else is one. With ``ack=True``
        the handler is given ``ack(*args)`` as its last argument instead, to call once, at any
        time; what it returns then means nothing.

        One connection's handlers run one after another. Several handlers of one event run in the
        order in which they were registered.
        """
        if handler is not None:
            self._handlers.add(event, handler, ack=ack)
            return handler

        def register(handler: H) -> H:
            self._handlers.add(event, handler, ack=ack)
            return handler

        return register

    def on_any(self, handler: H, /, *, ack: bool = False) -> H:
        """Register a handler of every event, run before its own: ``handler(socket, event, *args)``.

        What it returns means nothing. With ``ack=True`` it is given ``ack(*args)`` as its last
        argument, to call for events that have no handler of their own.
        """
        self._handlers.add_any(handler, ack=ack)
        return handler

    def on_unhandled(self, handler: H, /, *, ack: bool = False) -> H:
        """Register a handler of events that have no handler of their own.

        Args:
            handler: Called as ``handler(socket, event, *args)``. What it returns acknowledges the
                event, as for ``on``. ``on_any`` handlers do not count as the event's own.
            ack: Pass an `Acknowledging` as the last argument instead; default False.

        Returns:
            The handler.
        """
        self._handlers.add_unhandled(handler, ack=ack)
        return handler

    def use(self, middleware: H) -> H:
        """Register middleware that each socket passes before it is let in: ``middleware(socket)``.

        It raises `Refused` to refuse it. ``socket.handshake`` is there, ``socket.data`` is to be
        filled, and what it would emit is dropped: the client is not in yet.
        """
        self._handlers.middleware.append(middleware)
        return middleware

    def use_event(self, middleware: H) -> H:
        """Register middleware that each event passes before its handlers.

        ``middleware(socket, event, args)``: ``args`` is a list that it may change. Raising
        `Refused` drops the event without a word; ``socket.use`` is the same for one socket.
        """
        self._handlers.on_events.append(middleware)
        return middleware
