"""What can happen in a simulation: the actions of which schedules are drawn."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio
from msgspec import structs

from tests.simulation.checks import RoomView
from tests.simulation.people import Link
from tests.simulation.steps import Step, action
from tests.simulation.world import OPERATOR, PROTOCOLS, ROOMS, SCRIPT, SETTINGS, World

__all__ = ["VALUES", "Actions"]

VALUES: Final[Mapping[str, Sequence[Any]]] = {
    "client": range(len(PROTOCOLS)),
    "target": range(len(PROTOCOLS)),
    "room": ROOMS,
    # Some clients use keys again, some use none.
    "key": ("none", "none", "new", "new", "new", "k1", "k2"),
    "nick": ("ann", "Ann", "bob", "cleo", "p1", "p2", "p3"),
    # The longest time is rare: it costs as much as the rest of a run.
    "seconds": (*(0, 0.05, 0.3, 1, 1, 3, 5, 11, 30, 60) * 2, 700),
    "jump": (-90_000, -3600, -2, 2, 3600, 90_000),
    "back": (1, 1, 2, 3, 5),
    "turns": (1, 2, 3, 5, 8, 13),
    "recover": ("no", "yes"),
    "limit": (0, 1, 3, 100),
    "where": ("room", "everywhere"),
}


class Actions(World, ABC):
    """A world in which steps are played."""

    async def play(self, steps: Sequence[Step]) -> None:
        """Play a schedule to its end, and check everything there."""
        async with self.open():
            try:
                for step in steps:
                    self.trace.append(f"{trio.current_time():.3f} STEP {step}")
                    pending = getattr(self, step.do)(**dict(step.args))
                    if pending is not None:
                        await pending
                await self.finish()
            except Exception as violation:  # the boundary of a run: reported once, with the trace
                self.broken(violation)

    def _link(self, client: str) -> Link | None:
        """Return a client's connection, once it has found its user."""
        link = self.people[int(client)].link
        return link if link is not None and link.ready and not link.over else None

    def _speaking(self, client: str) -> Link | None:
        """Return the connection of a client that gives commands."""
        link = self._link(client)
        return link if link is not None and link.person.gives_commands else None

    def _room(self, link: Link, room: str) -> str:
        """Return the room, or another one if the client is not there but elsewhere."""
        return room if room in link.views or not link.views else next(iter(link.views))

    # ---- commands

    @action(70)
    def say(self, client: str, room: str, key: str) -> None:
        link = self._link(client)
        if link is None:
            return
        if key == "new":
            key = f"key-{self.texts}"
        room = self._room(link, room)
        attempt = self.attempt(link.person, room, None if key == "none" else key)
        if link.person.protocol == "text":
            attempt.user, attempt.key = None, None
            self.ledger.attempts[attempt.text] = attempt
            link.write(attempt.text)
        else:
            link.say(attempt)

    @action(2)
    def burst(self, client: str, room: str) -> None:
        """Say so much that a client which does not read becomes too slow."""
        self.lossy = True
        if link := self._speaking(client):
            for _ in range(8):
                key = f"key-{self.texts}"
                link.say(self.attempt(link.person, self._room(link, room), key, 1000))

    @action(5)
    def direct(self, client: str, target: str, key: str) -> None:
        link, nick = self._link(client), self.people[int(target)].nick
        if link is None:
            return
        attempt = self.attempt(link.person, f"@{nick}", f"key-{self.texts}")
        if link.person.protocol == "text":
            attempt.user, attempt.key = None, None
            self.ledger.attempts[attempt.text] = attempt
            link.write(f"/msg {nick} {attempt.text}")
        elif key != "new" or not link.person.gives_commands:
            link.say(attempt)
        else:
            link.join(f"@{nick}")

    def _recent(self, link: Link, room: str, back: str) -> int | None:
        view = link.views.get(self._room(link, room))
        if view is None or view.next is None or view.next <= int(back):
            return None
        return view.next - int(back)

    @action(5)
    def edit(self, client: str, room: str, back: str) -> None:
        link = self._speaking(client)
        if link is not None and (seq := self._recent(link, room, back)) is not None:
            link.edit(self._room(link, room), seq, self.attempt(link.person, room))

    @action(4)
    def delete(self, client: str, room: str, back: str) -> None:
        link = self._speaking(client)
        if link is not None and (seq := self._recent(link, room, back)) is not None:
            link.send("delete", room=self._room(link, room), seq=seq)

    @action(2)
    def topic(self, room: str) -> None:
        if link := self._speaking(str(OPERATOR)):
            self.texts += 1
            link.send("topic", room=room, text=f"topic {self.texts}")

    @action(12)
    def join(self, client: str, room: str, limit: str) -> None:
        link = self._link(client)
        if link is None:
            return
        if link.person.protocol == "text":
            link.write(f"/join {room}")
        elif link.person.gives_commands:
            link.join(room, limit=int(limit))
        else:
            link.person.rooms = {room: link.person.rooms.get(room, RoomView(room))}
            link.person.connect(link.node)

    @action(4)
    def leave(self, client: str, room: str) -> None:
        if link := self._speaking(client):
            if (view := link.views.get(room)) is not None:
                view.leaving = True
            link.send("leave", room=room)

    @action(5)
    def nick(self, client: str, nick: str) -> None:
        if (link := self._link(client)) is None:
            return
        if link.person.protocol == "text":
            link.write(f"/nick {nick}")
        elif link.person.gives_commands:
            link.send("nick", nick=nick)

    @action(2)
    def typing(self, client: str, room: str) -> None:
        if link := self._speaking(client):
            link.mention("typing", room=room, on=True)

    @action(2)
    def read(self, client: str, room: str, back: str) -> None:
        link = self._speaking(client)
        if link is not None and (seq := self._recent(link, room, back)) is not None:
            link.send("read", room=self._room(link, room), seq=seq)

    @action(2)
    def look(self, client: str, room: str) -> None:
        if link := self._speaking(client):
            link.send("who", room=room)
            link.send("rooms")
            link.send("history", room=room, limit=10)

    @action(8)
    def page(self, room: str, back: str, limit: str) -> None:
        """Read a page by HTTP."""
        link = self._link(str(SCRIPT))
        if link is not None and (view := link.views.get(self._room(link, room))) is not None:
            link.page(view, int(back) - 1, int(limit))

    @action(1)
    def kick(self, target: str, room: str, where: str) -> None:
        self._moderate("kick", target, room, where)

    @action(2)
    def ban(self, target: str, room: str, where: str, seconds: str) -> None:
        self._moderate("ban", target, room, where, seconds=max(1.0, float(seconds)))

    @action(2)
    def mute(self, target: str, room: str, where: str, seconds: str) -> None:
        self._moderate("mute", target, room, where, seconds=max(1.0, float(seconds)))

    @action(2)
    def lift(self, target: str, room: str, where: str) -> None:
        if (user := self.people[int(target)].user) is not None:
            self.lifted(user)
        self._moderate("unban", target, room, where)
        self._moderate("unmute", target, room, where)

    def _moderate(self, do: str, target: str, room: str, where: str, **fields: Any) -> None:
        link, user = self._speaking(str(OPERATOR)), self.people[int(target)].user
        if link is not None and user is not None:
            if where == "room":
                fields["room"] = room
            link.send(do, user=user, **fields)

    @action(1)
    def slow(self, room: str, seconds: str) -> None:
        if link := self._speaking(str(OPERATOR)):
            link.send("slow", room=room, seconds=float(seconds))

    @action(1)
    def close(self, room: str, seconds: str) -> None:
        if link := self._speaking(str(OPERATOR)):
            link.send("close", room=room, seconds=float(seconds))

    @action(1)
    def remove(self, room: str) -> None:
        """Remove a room with its events."""
        if (link := self._speaking(str(OPERATOR))) and room != "lobby":
            self.keeps_all = False
            link.send("remove", room=room)

    # ---- connections

    @action(45)
    def come_back(self, client: str, node: str, recover: str) -> None:
        """Connect if there is no connection."""
        if self.people[int(client)].link is None:
            self.connect(client, node, recover)

    @action(5)
    def connect(self, client: str, node: str, recover: str) -> None:
        """Connect, also in place of another connection."""
        self.people[int(client)].connect(int(node), recover=recover == "yes")

    @action(12)
    def cut(self, client: str) -> None:
        if (link := self.people[int(client)].link) is not None:
            link.clean = False
            link.plug.cut()

    @action(3)
    def stall(self, client: str) -> None:
        if (link := self.people[int(client)].link) is not None:
            link.clean = False
            link.plug.stall()

    @action(3)
    def unstall(self, client: str) -> None:
        if (link := self.people[int(client)].link) is not None:
            link.plug.flow()

    @action(2)
    def hang_up(self, client: str) -> None:
        self.people[int(client)].hang_up()

    # ---- time

    @action(25)
    async def go_on(self, turns: str) -> None:
        for _ in range(int(turns)):
            await trio.lowlevel.checkpoint()

    @action(20)
    async def settle(self) -> None:
        await self.idle()

    @action(20)
    async def wait(self, seconds: str) -> None:
        await trio.sleep(float(seconds))
        await self.idle()

    @action(2)
    def jump(self, jump: str) -> None:
        self.clock_ms += int(jump) * 1000

    # ---- daemons

    @action(2)
    def reload(self, node: str, limit: str) -> None:
        """Apply other settings that change nothing that is promised."""
        if self.nodes[int(node)].running:
            chat = structs.replace(SETTINGS.chat, backlog=int(limit))
            self.nodes[int(node)].daemon.apply(structs.replace(SETTINGS, chat=chat))

    @action(1)
    def retain(self, node: str, back: str) -> None:
        """Keep only the last events of each room."""
        if self.nodes[int(node)].running:
            self.keeps_all = False
            history = structs.replace(SETTINGS.history, keep_events=int(back))
            self.nodes[int(node)].daemon.apply(structs.replace(SETTINGS, history=history))
