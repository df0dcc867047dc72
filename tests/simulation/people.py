"""The simulated clients: a `Person` over any number of connections, each of them a `Link`.

A person keeps what a real client keeps: the session, the rooms with their positions, the messages
that were not answered. A link takes what arrives, checks it, and does what a client has to do by
itself: becoming the same guest again, joining its rooms from their positions, sending again what
was not answered, with the same keys.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import Struct

from chatd.testing.cable import Plug
from tests.simulation.checks import LOGGED, Attempt, Fields, RoomView, expect
from tests.simulation.wires import WIRES, SocketIoWire

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Link", "Person"]

FINAL: Final = frozenset({4500, 4501, 4502})
"""Close codes after which a client gives up who it was."""

TEMPORARY: Final = frozenset({"unavailable", "rate_limited"})


class Pending(Struct):
    """A command without an answer."""

    command: Fields
    sent: float
    attempt: Attempt | None = None
    since: Fields | None = None


class Person:
    """A client as its user sees it.

    Attributes:
        number: Which of the simulation's people this is.
        protocol: What it speaks.
        link: The connection; None while there is none.
        rooms: The rooms that it wants to be in, with the last view of each.
        unanswered: Messages that are sent again, with the same keys.
    """

    def __init__(self, world: World, number: int, protocol: str, *, subject: str | None) -> None:
        self.world = world
        self.number = number
        self.protocol = protocol
        self.subject = subject
        self.link: Link | None = None
        self.node = 0
        self.nick = subject or f"p{number}"
        self.user: str | None = None
        self.session: str | None = None
        self.recovery: tuple[str, str | None] | None = None
        self.rooms: dict[str, RoomView] = {"lobby": RoomView("lobby")}
        self.direct: dict[str, RoomView] = {}
        self.unanswered: list[Attempt] = []
        self.commands = itertools.count(1)

    def __repr__(self) -> str:
        return f"{self.protocol} client {self.number}"

    @property
    def gives_commands(self) -> bool:
        """Whether it can do more than say things and follow a room."""
        return self.protocol not in {"text", "http"}

    def connect(self, node: int, *, recover: bool = False) -> None:
        """Connect to a node, in place of the connection that there is."""
        self.hang_up()
        if self.protocol == "socketio2":  # it has no place for a session
            self.forget()
        self.node = node
        self.link = Link(self, node, recover=recover)
        self.world.links.append(self.link)
        self.world.people_tasks.start_soon(self.link.run)

    def hang_up(self) -> None:
        """Drop the connection without notice."""
        if self.link is not None:
            self.link.drop()

    def forget(self) -> None:
        """Become somebody else at the next connection, as the daemon knows this user no more."""
        self.user = self.session = self.recovery = None
        self.rooms = {"lobby": RoomView("lobby")}
        self.direct = {}
        pending = [] if self.link is None else self.link.pending.values()
        given_up = [*self.unanswered, *(each.attempt for each in pending)]
        for attempt in given_up:
            if attempt is not None:
                attempt.doubtful = True
        for each in pending:
            each.attempt = None  # another user's key would not be the same
        self.unanswered = []


class Link:
    """One connection of a person.

    Attributes:
        ready: Whether it is who it was and its commands count.
        clean: Whether it was never cut or stalled, so that answers have to come in time.
        views: The rooms that it is in, direct messages apart.
        direct: The rooms of direct messages.
        user: Who it is for the daemon: a guest before it logs in. None until the daemon said so.
        doubtful: Rooms that it may be in, because the store failed when it joined again.
    """

    def __init__(self, person: Person, node: int, *, recover: bool) -> None:
        self.person = person
        self.world = person.world
        self.node = node
        self.answered_at = trio.current_time()
        self.ready = False
        self.clean = True
        self.over = False
        self.bye_came = False
        self.epoch: str | None = None
        self.user: str | None = None
        self.views: dict[str, RoomView] = {}
        self.direct: dict[str, RoomView] = {}
        self.doubtful: set[str] = set()
        self.pending: dict[int, Pending] = {}
        self.lines: list[str] = []
        self.room = ""  # of plain text, and the first one of Socket.IO
        self._since: Fields | None = None
        self._recovered = False
        self._resumed: dict[str, Fields | None] = {}
        self._missed: list[tuple[str, Fields]] = []
        dial = self.world.nodes[node].dial
        self.plug = Plug(dial)
        self.wire = WIRES[person.protocol](self.plug, self, self._hello(recover=recover))

    def _hello(self, *, recover: bool) -> Fields:
        person = self.person
        hello: Fields = {"nick": person.nick}
        if person.protocol == "text":
            hello["room"] = self.room = next(iter(person.rooms), "lobby")
        elif person.protocol != "json":
            self.room = next(iter(person.rooms), "lobby")
            hello["room"] = self.room
            hello["limit"] = 5
            if person.subject is not None:
                hello["token"] = self.world.token(person.subject)
            elif person.session is not None:
                hello["session"] = person.session
                del hello["nick"]
            view = person.rooms.get(self.room)
            if view is not None and view.position is not None:
                self._since = hello["since"] = view.position
            if recover and person.recovery is not None:
                hello["pid"], offset = person.recovery
                if offset is not None:
                    hello["offset"] = offset
        return hello

    def __repr__(self) -> str:
        return f"{self.person}"

    async def run(self) -> None:
        """Be connected until the end."""
        try:
            await self.wire.run()
        finally:
            self._ended()

    def drop(self) -> None:
        self.wire.drop()
        self._ended()

    def _ended(self) -> None:
        if self.over:
            return
        self.over = True
        person = self.person
        if person.link is self:
            person.link = None
        if isinstance(self.wire, SocketIoWire) and self.wire.pid is not None:
            person.recovery = self.wire.pid, self.wire.offset
        for pending in self.pending.values():
            if pending.attempt is not None:
                self._unanswered(pending.attempt)

    def _unanswered(self, attempt: Attempt) -> None:
        attempt.doubtful = True
        if attempt.key is not None and attempt not in self.person.unanswered:
            self.person.unanswered.append(attempt)

    # ---- commands

    def send(self, do: str, **fields: Any) -> None:
        """Send a command."""
        self._send({"do": do, **fields})

    def say(self, attempt: Attempt) -> None:
        """Send a message, whose room may be ``@nick``."""
        self.world.ledger.attempts[attempt.text] = attempt
        command = {"do": "say", "room": attempt.room, "text": attempt.text}
        if attempt.key is not None:
            command["key"] = attempt.key
        self._send(command, attempt)

    def edit(self, room: str, seq: int, attempt: Attempt) -> None:
        """Send an edit."""
        self.world.ledger.attempts[attempt.text] = attempt
        self._send({"do": "edit", "room": room, "seq": seq, "text": attempt.text}, attempt)

    def join(self, room: str, since: Fields | None = None, limit: int | None = None) -> None:
        """Join a room."""
        command: Fields = {"do": "join", "room": room}
        if since is not None:
            command["since"] = since
        if limit is not None:
            command["limit"] = limit
        self._send(command, since=since)

    def _send(
        self, command: Fields, attempt: Attempt | None = None, since: Fields | None = None
    ) -> None:
        number = next(self.person.commands)
        self.pending[number] = Pending(command, trio.current_time(), attempt, since)
        self.wire.send({**command, "id": number})

    def page(self, view: RoomView, back: int, limit: int) -> None:
        """Read what follows one of the last events of a room, or the room's newest events."""
        command: Fields = {"do": "history", "room": view.room, "limit": limit}
        since = view.position
        if since is not None and since["seq"] > back:
            command["shown"] = since["seq"]
            command["since"] = {**since, "seq": since["seq"] - back}
        self._send(command, since=command.get("since"))

    def mention(self, do: str, **fields: Any) -> None:
        """Send a command that has no answer."""
        self.wire.send({"do": do, **fields})

    def write(self, line: str) -> None:
        """Send a frame of plain text."""
        self.wire.send({"line": line})

    # ---- what arrives

    def opened(self, *, recovered: bool) -> None:
        if self.over:
            return
        self.world.note(self, "opened", f"recovered={recovered}")
        self._recovered = recovered
        if recovered:
            self.views = self.person.rooms
            self.direct = self.person.direct
            for view in (*self.views.values(), *self.direct.values()):
                view.roll = None
                view.leaving = True  # until the daemon shows that it is not
            self._resumed = self._positions

    def line(self, text: str) -> None:
        if self.over:
            return  # a client that has gone reads nothing
        if not self.ready:
            self.ready = True
        self.world.note(self, "line", text)
        self.lines.append(text)

    def followed(self, epoch: str, *, reset: bool) -> None:
        with self.world.noting(self, "followed", {"epoch": epoch, "reset": reset}):
            view = self._keep(self.room)
            view.epoch = epoch
            if self._since is not None and not reset:
                view.next = self._since["seq"] + 1
            self.world.entered(self, view, self._since, recovered=not reset)
            self.ready = True
            self._say_again()

    def placed(self, epoch: str, seq: int) -> None:
        view = self.views.get(self.room)
        if view is not None and not self.over:
            view.epoch, view.next = epoch, view.next or seq + 1

    def event(self, name: str, fields: Fields) -> None:
        if self.over:
            return
        with self.world.noting(self, name, fields):
            self._event(name, fields)

    def _event(self, name: str, fields: Fields) -> None:
        expect(not self.bye_came, f"nothing follows bye: {name} {fields}")
        match name:
            case "hello":
                self._greeted(fields)
            case "message" | "edit" | "delete" | "topic":
                self._logged(name, fields)
            case "joined" | "left" | "nick":
                self._presence(name, fields)
            case "epoch":
                self._continued(self._positions, fields["epoch"])
            case "bye":
                self.bye_came = True
                if fields["code"] in FINAL:
                    self.person.forget()
            case "typing" | "presence":
                self._view_of(name, fields)

    def _greeted(self, fields: Fields) -> None:
        person = self.person
        self.user = fields["user"]
        if person.protocol == "json":
            if person.subject is not None:
                self.send("auth", token=self.world.token(person.subject))
            elif person.session is not None:
                self.send("auth", session=person.session)
            else:
                self._identified(fields)
            return
        joined = fields.get("joined")
        if joined is not None:
            self.world.listed(joined)
        if person.user is not None and person.user != fields["user"]:
            self.world.not_restored(self)
        if joined is not None and not self._recovered:
            self.room = joined["room"]
            view = self._keep(joined["room"])
            view.entered(joined, self._since, page_follows=True)
            self.world.entered(self, view, self._since, recovered=joined["recovered"])
        elif joined is not None:  # what was missed came before
            view = self._view_of("hello", joined) or self._keep(joined["room"])
            view.leaving = False
            view.take_members(joined)
            self._continued(self._resumed, joined["epoch"])
            for name, event in self._missed:
                self.world.ledger.shown(joined["epoch"], name, event)
        self._identified(fields)

    def _identified(self, fields: Fields) -> None:
        """Go on as this user."""
        person = self.person
        same = person.user in {None, fields["user"]}
        person.user, person.nick = fields["user"], fields["nick"]
        if person.user != self.user:
            self.user = person.user
            self.direct.clear()  # they were the guest's
        if fields.get("session"):
            person.session = fields["session"]
        if not same:
            for attempt in person.unanswered:
                attempt.doubtful = True
            person.unanswered = []
        self.ready = True
        for room, view in list(person.rooms.items()):
            if room not in self.views and not view.leaving:
                self.join(room, view.position)
        self._say_again()

    def _say_again(self) -> None:
        unanswered, self.person.unanswered = self.person.unanswered, []
        for attempt in unanswered:
            self.say(attempt)

    def _keep(self, room: str) -> RoomView:
        self.doubtful.discard(room)
        view = RoomView(room)
        if room.startswith("@"):
            self.direct[room] = self.person.direct[room] = view
        else:
            self.views[room] = self.person.rooms[room] = view
        return view

    def _logged(self, name: str, fields: Fields) -> None:
        room, view = fields["room"], self._view_of(name, fields)
        if "seq" not in fields or room in self.doubtful:
            return
        if view is None:
            view = self._keep(room)
        if self._recovered and not self.ready:  # `hello` will name the epoch, and the rooms
            self._missed.append((name, fields))
        else:
            view.leaving = False
            view.epoch = fields.get("epoch") or view.epoch or self.epoch
            self.world.ledger.shown(view.epoch, name, fields)
        view.logged(fields["seq"], name)

    def _view_of(self, name: str, fields: Fields) -> RoomView | None:
        """Return the view of the room of an event; None for direct messages that were not read."""
        room = fields["room"]
        if room.startswith("@"):
            users = {self.user, self.person.user}  # two until a login is answered
            expect(
                not users.isdisjoint(room[1:].split(",")),
                f"direct messages are for two users only: {room}",
            )
            return self.direct.get(room)
        if room in self.doubtful:
            return None
        if self._recovered and room not in self.views:
            return self._keep(room)  # the daemon's first hello was lost
        expect(room in self.views, f"only members get events: {name} {fields}")
        return self.views[room]

    def _presence(self, name: str, fields: Fields) -> None:
        view, mine = self._view_of(name, fields), fields["user"] == self.person.user
        if name == "nick" and mine:
            self.person.nick = fields["to"]
        if view is None:
            return
        if mine and name != "nick":
            expect(
                name == "left" and fields["reason"] in {"kicked", "banned"},
                f"nobody gets `joined` or `left` of itself: {name} {fields}",
            )
            self.views.pop(view.room, None)
            self.person.rooms.pop(view.room, None)
            return
        if self.clean and not self.world.lossy:
            view.presence(name, fields, exact=self.world.exact)

    @property
    def _positions(self) -> dict[str, Fields | None]:
        """The position in each room."""
        views = (*self.views.values(), *self.direct.values())
        return {view.room: view.position for view in views}

    def _continued(self, positions: dict[str, Fields | None], epoch: str) -> None:
        """Go on from these positions; from here on the numbers are under this epoch."""
        for room, since in positions.items():
            self.world.continued(self, room, since, epoch)
        self.epoch = epoch
        for view in (*self.views.values(), *self.direct.values()):
            view.epoch = epoch

    # ---- answers

    def answer(self, number: int | None, ok: Fields | None, error: Fields | None) -> None:
        if self.over:
            return
        with self.world.noting(self, "answer", ok if ok is not None else error or {}):
            if number is None:
                return  # a command that wanted none was refused
            pending = self.pending.pop(number, None)
            expect(pending is not None, f"one answer to each command: {number}, {ok}, {error}")
            assert pending is not None
            if self.clean:
                self.world.in_time(self, pending)
            self.answered_at = trio.current_time()
            if ok is not None:
                self._done(pending, ok)
            elif error is not None:
                self._refused(pending, error)

    def _done(self, pending: Pending, ok: Fields) -> None:
        command, person, ledger = pending.command, self.person, self.world.ledger
        match command["do"]:
            case "auth":
                if person.user not in {None, ok["user"]}:
                    self.world.not_restored(self)
                self._identified(ok)
            case "join":
                self.world.listed(ok)
                view = self._keep(ok["room"])
                view.entered(ok, pending.since)
                for event in ok["events"]:
                    if event["on"] in LOGGED:
                        ledger.shown(ok["epoch"], event["on"], event)
                self.world.entered(self, view, pending.since, recovered=ok["recovered"])
            case "leave":
                self.views.pop(ok["room"], None)
                person.rooms.pop(ok["room"], None)
            case "say" if pending.attempt is not None:
                if person.protocol == "http":
                    person.user, person.nick = ok["user"], ok["nick"]
                self.world.may_speak(self, pending)
                ledger.said(pending.attempt, ok)
            case "edit" | "delete" | "topic":
                room = self._canonical(command["room"])
                if room is not None:
                    ledger.changed(room, ok["seq"], command["do"], command.get("seq"))
            case "nick":
                person.nick = ok["nick"]
            case "read" if person.user is not None and not self.world.forgetful:
                ledger.marked(person.user, ok["room"], ok["seq"])
            case "who":
                self.world.listed(ok)
            case "history":
                for event in ok["events"]:
                    ledger.shown(ok["epoch"], event["on"], event)
                if pending.since is not None:
                    self._paged(ok, command, pending.since)
            case "ban" | "mute" | "unban" | "unmute":
                self.world.sanctioned(pending, ok)

    def _paged(self, ok: Fields, command: Fields, since: Fields) -> None:
        """Check a page that was to follow a position."""
        view = RoomView(command["room"])
        view.epoch = ok["epoch"]
        view.paged(ok, since)
        self.world.entered(self, view, since, recovered=ok["recovered"])
        if ok["recovered"] and ok["epoch"] == since["epoch"]:
            shown = command["shown"]
            expect(
                ok["more"] or ok["seq"] >= shown,
                f"a page has what was shown before: {self} in {view.room}, {ok['seq']} of {shown}",
            )

    def _canonical(self, room: str) -> str | None:
        return None if room.startswith("@") else room

    def _refused(self, pending: Pending, error: Fields) -> None:
        code, command, person = error["code"], pending.command, self.person
        attempt = pending.attempt
        if attempt is not None:
            if code == "unavailable":
                self._unanswered(attempt)
            else:
                attempt.refused = True
        match command["do"]:
            case "auth" if code in TEMPORARY:
                self.drop()
            case "auth":
                person.forget()
                self.drop()
            case "join" if code not in TEMPORARY:
                person.rooms.pop(command["room"], None)
                self.views.pop(command["room"], None)
            case "join":
                self.views.pop(command["room"], None)
                self.doubtful.add(command["room"])
                if command["room"] in person.rooms:
                    person.rooms[command["room"]] = RoomView(command["room"])
