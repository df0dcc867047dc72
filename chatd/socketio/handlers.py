"""Handlers and middleware: what is registered for a namespace, and how it is called.

A handler is an async function, or a plain one if it never waits. Its first argument is the socket,
the others are those of the event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import isawaitable
from typing import Any, Final, Protocol, TypeAlias, TypeVar, overload

from chatd.engineio.hooks import Steps, call

__all__ = ["Acknowledging", "Handler", "Handlers", "Listening", "check_handler"]

Handler: TypeAlias = Callable[..., Any]
"""An async function, or a plain one."""

H = TypeVar("H", bound=Handler)

LIFECYCLE: Final = {"connect": "connect", "connection": "connect", "disconnect": "disconnect"}
"""The names under which handlers of a socket's life are registered; ``connection`` is Node's."""


NEVER_SENT: Final = frozenset({"connect_error", "disconnecting", "newListener", "removeListener"})
"""Reserved names (socket.io-protocol, "Event names"): a handler for them would never run."""


class Registrar(Protocol):
    """A decorator that returns the function that it registers."""

    def __call__(self, handler: H, /) -> H:
        """Register the handler, and return it."""
        ...


class Acknowledging:
    """The acknowledgement of one event: what an ``ack=True`` handler gets as its last argument.

    Call it once, at any time, with any arguments; they are the arguments of the client's callback.
    Later calls do nothing, nor does a call for an event that the client wants no answer to.

    Raises:
        TypeError: An argument is of a type that cannot be sent.
        ValueError: A string is not valid Unicode, or an argument contains itself.
    """

    __slots__ = ("_send",)

    def __init__(self, send: Callable[[Sequence[Any]], None] | None) -> None:
        self._send = send

    @property
    def wanted(self) -> bool:
        """Whether the client asked for an acknowledgement and has not been sent one."""
        return self._send is not None

    def __call__(self, *args: Any) -> None:
        """Send the acknowledgement; see the class."""
        if self._send is not None:
            self._send(args)
            self._send = None  # only now: if sending raised, the caller may send something else

    def returned(self, value: Any) -> None:
        """Acknowledge with what a handler returned.

        None sends nothing, a tuple is several arguments, anything else is one.
        """
        if value is not None:
            self(*(value if type(value) is tuple else (value,)))


def check_handler(what: str, handler: Handler) -> None:
    """Raise TypeError if this is not a function: it would fail for the first client only."""
    if not callable(handler):
        raise TypeError(f"{what} is not a function: {handler!r}")


class Handlers:
    """The handlers of one namespace, or of all namespaces of one pattern."""

    __slots__ = ("_any", "_lifecycle", "_named", "_unhandled", "middleware", "on_events")

    def __init__(self) -> None:
        self._lifecycle: dict[str, list[Handler]] = {}
        self._named: dict[str, list[tuple[Handler, bool]]] = {}
        self._any: list[tuple[Handler, bool]] = []
        self._unhandled: list[tuple[Handler, bool]] = []
        # Middleware for each new socket, and for each event.
        self.middleware: list[Handler] = []
        self.on_events: list[Handler] = []

    def add(self, event: str, handler: Handler, *, ack: bool) -> None:
        """Register a handler; see `Listening.on`."""
        check_handler(f"the handler of {event!r}", handler)
        if event in NEVER_SENT:
            raise ValueError(f"no client can send {event!r}; for the end there is 'disconnect'")
        if event in LIFECYCLE:
            if ack:
                raise ValueError(f"{event!r} has no acknowledgement")
            self._lifecycle.setdefault(LIFECYCLE[event], []).append(handler)
        else:
            self._named.setdefault(event, []).append((handler, ack))

    def add_any(self, handler: Handler, *, ack: bool) -> None:
        """Register a handler of every event; see `Listening.on_any`."""
        check_handler("the handler of every event", handler)
        self._any.append((handler, ack))

    def add_unhandled(self, handler: Handler, *, ack: bool) -> None:
        """Register a handler of other events; see `Listening.on_unhandled`."""
        check_handler("the handler of other events", handler)
        self._unhandled.append((handler, ack))

    async def lifecycle(self, event: str, socket: Any, *args: Any) -> None:
        """Run the handlers of ``connect`` or ``disconnect``. Raises what they raise."""
        for handler in tuple(self._lifecycle.get(event, ())):
            await call(handler, socket, *args)

    def has(self, event: str) -> bool:
        """Return whether an event has handlers of its own."""
        return event in self._named

    def event(
        self, socket: Any, event: str, args: Sequence[Any], ack: Acknowledging
    ) -> Steps[bool]:
        """Run the handlers of an event, those of every event first. Raises what they raise.

        Yields:
            What they return, if it must be awaited.

        Returns:
            Whether one of them got ``ack``, and may call it later.
        """
        passed = False
        for handler, wants_ack in tuple(self._any):
            passed |= wants_ack
            result = handler(socket, event, *args, *([ack] if wants_ack else []))
            if isawaitable(result):
                yield result
        handlers = self._named.get(event)
        if handlers is None:
            handlers = self._unhandled
            args = (event, *args)
        for handler, wants_ack in tuple(handlers):
            passed |= wants_ack
            result = handler(socket, *args, ack) if wants_ack else handler(socket, *args)
            if result is not None and isawaitable(result):
                result = yield result
            if not wants_ack:
                ack.returned(result)
        return passed


class Listening:
    """The methods that register handlers and middleware, for servers and namespaces.

    Each may be an async function, or a plain one if it never waits.
    """

    @property
    def _handlers(self) -> Handlers:
        raise NotImplementedError

    @overload
    def on(self, event: str, /, *, ack: bool = False) -> Registrar: ...

    @overload
    def on(self, event: str, handler: H, /, *, ack: bool = False) -> H: ...

    def on(self, event: str, handler: Handler | None = None, /, *, ack: bool = False) -> Any:
        """Register a handler: ``@io.on("event")``, or ``io.on("event", function)``.

        ``connect`` handlers run when a client is connected, before its events:
        ``handler(socket)``. ``disconnect`` handlers run once, after everything else:
        ``handler(socket, reason)``. All other names are events: ``handler(socket, *args)``. What
        the handler returns is the acknowledgement, if the client asked for one: None sends none, a
        tuple is several arguments, anything else is one.

        The handlers of one connection run one after another. Handlers of the same event run in the
        order in which they were registered.

        Args:
            event: The event's name, ``"connect"`` (or ``"connection"``) or ``"disconnect"``.
            handler: An async function, or a plain one if it never waits. Without it, a decorator
                is returned.
            ack: Pass an `Acknowledging` as the last argument, and ignore what the handler returns;
                default False.

        Returns:
            The handler, or a decorator.

        Raises:
            TypeError: ``handler`` is not callable.
            ValueError: No client can send the event, or it has no acknowledgement.
        """
        if handler is not None:
            self._handlers.add(event, handler, ack=ack)
            return handler

        def register(handler: H) -> H:
            self._handlers.add(event, handler, ack=ack)
            return handler

        return register

    def on_any(self, handler: H, /, *, ack: bool = False) -> H:
        """Register a handler of every event, which runs before the event's own handlers.

        Args:
            handler: Called as ``handler(socket, event, *args)``. Its return value is ignored.
            ack: Pass an `Acknowledging` as the last argument; default False.

        Returns:
            The handler.

        Raises:
            TypeError: ``handler`` is not callable.
        """
        self._handlers.add_any(handler, ack=ack)
        return handler

    def on_unhandled(self, handler: H, /, *, ack: bool = False) -> H:
        """Register a handler of events that have no other handler.

        Args:
            handler: Called as ``handler(socket, event, *args)``. Its return value acknowledges the
                event, as for ``on``. ``on_any`` handlers do not count as the event's own.
            ack: Pass an `Acknowledging` as the last argument instead; default False.

        Returns:
            The handler.

        Raises:
            TypeError: ``handler`` is not callable.
        """
        self._handlers.add_unhandled(handler, ack=ack)
        return handler

    def use(self, middleware: H) -> H:
        """Register middleware that runs for each new socket, before it is connected.

        Args:
            middleware: Called as ``middleware(socket)``. It raises `Refused` to refuse the socket.
                ``socket.handshake`` is there, ``socket.data`` and ``socket.join`` can be used; what
                it emits to the socket is dropped, because the client is not connected yet.

        Returns:
            The middleware.

        Raises:
            TypeError: ``middleware`` is not callable.
        """
        check_handler("the middleware", middleware)
        self._handlers.middleware.append(middleware)
        return middleware

    def use_event(self, middleware: H) -> H:
        """Register middleware that runs for each event, before its handlers.

        ``socket.use`` is the same for one socket.

        Args:
            middleware: Called as ``middleware(socket, event, args)``; ``args`` is a list that it
                may change. It raises `Refused` to drop the event, of which the client is not
                notified.

        Returns:
            The middleware.

        Raises:
            TypeError: ``middleware`` is not callable.
        """
        check_handler("the middleware", middleware)
        self._handlers.on_events.append(middleware)
        return middleware
