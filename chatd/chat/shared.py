"""The roster of daemons that share a store. Each of these daemons is a node.

A fact is published as an operation of the journal, in a batch with the messages of that moment. The
journal's feed brings it to every node, this one too, as an item, at the same place in the order.
There it is carried out. An item holds the state after the change, so that carrying it out twice
does no harm.

A node knows all members of the rooms that are open at it. Members who are only at other nodes are
users without connections here. For all other users, the node asks the store.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import msgspec
import trio
from msgspec import Struct
from msgspec.structs import replace

from chatd.bus import Submission
from chatd.chat import marks, sanctions
from chatd.chat.acts import Act, Whisper, carry_out, impose, lift
from chatd.chat.marks import MARK, Mark, mark_of
from chatd.chat.names import Name, as_nick, usable_nick
from chatd.chat.pages import PAGE_EVENTS
from chatd.chat.roster import Arrival, unreachable
from chatd.chat.sanctions import KINDS, Sanction, network_of, sanction_of
from chatd.chat.sessions import is_guest
from chatd.journal import Unavailable
from chatd.model import (
    GOING_AWAY,
    Arrive,
    Arrived,
    Claim,
    Depart,
    Enter,
    Entered,
    Event,
    Exit,
    Exited,
    ExitReason,
    Item,
    Missed,
    Named,
    Operation,
    Outcome,
    Record,
    RecordChanged,
    Records,
    Reentered,
    Refusal,
    Relay,
    Relayed,
    Renewed,
)
from chatd.protocol import events
from chatd.protocol.commands import Member
from chatd.protocol.pairs import users_of
from chatd.timers import Timer

if TYPE_CHECKING:
    from chatd.chat.chat import Chat
    from chatd.chat.rooms import Room
    from chatd.chat.user import User
    from chatd.journal.shared import SharedJournal

__all__ = ["LOST_MESSAGES", "SharedRoster"]

RETRY_SECONDS: Final = 1.0
"""A fact that could not be published is published after this time, in its state at that time."""

LOST_MESSAGES: Final = "the server lost its latest messages"
"""The reason for which clients are closed that were shown what the store has lost since."""

ACT: Final = "act"
TYPING: Final = "typing"
RELOAD: Final = "reload"
"""The kinds of `Relayed` that this module publishes. A ``reload`` means nothing to other nodes:
when it comes back by the feed, this node tries again to read what it could not read."""

_ANY_ACT: Final[Any] = Act

_T = TypeVar("_T")

_Subject: TypeAlias = tuple[()] | tuple[str] | tuple[str, str]
"""What a fact is about: nothing (see `RELOAD`), a user, or a room and a user in it."""


class _Typing(Struct, frozen=True):
    room: str
    event: events.Typing


class _Fact(Submission):
    """An operation that must be published again if the store did not confirm it."""

    __slots__ = ("_about", "_roster")

    def __init__(self, roster: SharedRoster, operation: Operation, about: _Subject) -> None:
        super().__init__(operation)
        self._roster = roster
        self._about = about

    def resolve(self, outcome: Outcome) -> None:
        if isinstance(outcome, Refusal):
            self._roster.publish_later(self._about)


class _Rearrival(Submission):
    """The arrival of a user who is already here: this node may not know the present nick."""

    __slots__ = ("_roster", "_user")

    def __init__(self, roster: SharedRoster, user: User) -> None:
        super().__init__(Arrive(user.id, user.nick.display, user.subject))
        self._roster = roster
        self._user = user

    def resolve(self, outcome: Outcome) -> None:
        if isinstance(outcome, Arrived):
            self._roster.rearrived(self._user, outcome.nick)
        else:
            self._roster.publish_later((self._user.id,))


class _Reclaim(Submission):
    """A claim of the nick that a user had before this node's lease ended, or of a similar one."""

    __slots__ = ("_names", "_roster", "_user")

    def __init__(self, roster: SharedRoster, user: User, names: Iterator[Name]) -> None:
        super().__init__(claim(user.id, next(names)))
        self._roster = roster
        self._user = user
        self._names = names

    def resolve(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Refusal):
            return
        if outcome.code == "nick_taken":
            self._roster.publish(_Reclaim(self._roster, self._user, self._names), (self._user.id,))
        else:
            self._roster.publish_later((self._user.id,))


class SharedRoster:
    """The roster of a daemon that shares its store with others.

    Args:
        chat: The chat.
        journal: The store.
    """

    def __init__(self, chat: Chat, journal: SharedJournal) -> None:
        self.shared = True
        self.fan_out_seconds = journal.timeout
        self._chat = chat
        self._journal = journal
        self._opening: dict[str, list[Entered | Exited]] = {}
        """Items about rooms whose members are being read, by the rooms' keys."""
        self._unpublished: dict[_Subject, None] = {}
        self._retry: Timer | None = None
        self._incomplete = False
        """Whether items were missing, and the present state could not be read yet."""

    # ---- users

    async def arrive(self, user_id: str, names: Iterator[Name]) -> Arrival:
        first = next(names)
        try:
            outcome = await self._ask(Arrive(user_id, first.display, not is_guest(user_id)))
            arrived = outcome if isinstance(outcome, Arrived) else Arrived()
            if arrived.nick is not None:
                return Arrival(as_nick(arrived.nick), arrived.debt)
            name = first
            while not await self._take(user_id, name):
                name = next(names)
            return Arrival(name, arrived.debt)
        except BaseException:
            self.depart(user_id)
            raise

    async def _take(self, user_id: str, name: Name) -> bool:
        outcome = await self._chat.bus.submit_and_wait(claim(user_id, name))
        if not isinstance(outcome, Refusal):
            return True
        if outcome.code != "nick_taken":
            raise unreachable()
        return False

    def depart(self, user_id: str, user: User | None = None) -> None:
        here = self._chat.users.get(user_id)
        if here is not None and here.connections:
            return
        hold_until = None
        if user is not None and here is user and user.chosen:
            hold = self._chat.settings.chat.nick_hold_seconds
            hold_until = self._journal.steady_now() + round(hold * 1000)
        debt = b"" if user is None else self._chat.flood.debt(user)
        self._publish(Depart(user_id, hold_until, debt), (user_id,))

    def release(self, user: User) -> None:
        # Only another departure changes the hold of a user who has departed.
        self._publish(Arrive(user.id, user.nick.display), (user.id,))
        self._publish(Depart(user.id), (user.id,))

    async def free(self, user: User) -> None:
        name = f"guest-{user.id[1:]}"
        await self._take(user.id, Name(name, name))

    def renaming(self, user: User, name: Name) -> Operation:
        return claim(user.id, name)

    def renamed(self, user: User, before: str) -> None:
        """Do nothing: the new nick is sent to the rooms when the feed brings the item."""

    async def find(self, name: Name) -> str | None:
        users = self._chat.users
        if (user := users.by_nick(name.key)) is not None and user.connections:
            return user.id
        for look in name.looks:
            holder = await self._journal.holder(look)
            if holder is not None and as_nick(holder.nick).key == name.key:
                users.keep(users.meet(holder.user, holder.nick))
                return holder.user
        return None

    async def is_present(self, user_id: str) -> bool:
        user = self._chat.users.get(user_id)
        if user is not None and user.connections:
            return True
        nick = None if user is None else user.nick
        if nick is None and (record := await self._journal.user(user_id)) is not None:
            nick = as_nick(record.nick)
        if nick is None:
            return False
        holders = [await self._journal.holder(look) for look in nick.looks]
        return any(each.user == user_id and each.present for each in holders if each is not None)

    # ---- rooms

    async def opened(self, room: Room) -> None:
        missed = self._opening[room.key] = []
        try:
            members = await self._journal.members(room.key)
            if self._chat.sanctions.get("slow", room.key, ""):
                now = self._journal.steady_now()
                for event in await self._journal.read_back(room.key, sys.maxsize, PAGE_EVENTS):
                    room.spoke(event.user, (now - event.at) / 1000)
        finally:
            del self._opening[room.key]
        for member in members:
            self._add(room, member)
            room.name = room.feed.name = member.name
            room.members_at = member.position
        for item in missed:
            self._apply(room, item)

    def entered(self, room: Room, user: User) -> None:
        self._publish(
            Enter(room.key, room.name, user.id, user.nick.display, user.is_op_here),
            (room.key, user.id),
        )

    def exited(self, room: Room, user: User, reason: ExitReason) -> None:
        self._publish(Exit(room.key, user.id, reason), (room.key, user.id))

    def ranked(self, user: User) -> None:
        for room in user.rooms:
            if room.has_here(user):
                self.entered(room, user)

    def heard(self, event: Event) -> None:
        chat = self._chat
        room, user = chat.rooms.get(event.room), chat.users.get(event.user)
        if room is not None and chat.sanctions.get("slow", event.room, ""):
            room.spoke(event.user)
        if user is not None and user.connections:
            chat.flood.count(user, len((event.text or "").encode()))

    async def is_in(self, user_id: str, room: str) -> bool:
        return any(member.user == user_id for member in await self._journal.members(room))

    async def is_occupied(self, room: str) -> bool:
        if self._chat.rooms.get(room) is not None:
            return True
        return bool(await self._journal.members(room))

    async def members(self, room: str) -> list[Member]:
        found = await self._journal.members(room)
        found.sort(key=lambda each: as_nick(each.nick).key)
        return [Member(each.nick, each.user, each.op) for each in found]

    async def occupied(self) -> Mapping[str, tuple[str, int]]:
        occupied, rooms = await self._journal.occupied(), self._chat.rooms
        return {key: found for key, found in occupied.items() if rooms.get(key) is None}

    # ---- acts

    async def act(self, act: Act) -> None:
        await self._ask(_relay(act))

    def whispering(self, act: Whisper) -> Operation | None:
        return _relay(act)

    def typing(self, room: Room, event: events.Typing) -> None:
        self._journal.publish(TYPING, msgspec.json.encode(_Typing(room.key, event)))

    def imposed(self, sanctions: Sequence[Sanction]) -> None:
        """Do nothing: they come into force when the feed brings their items."""

    def lifted(self, sanctions: Sequence[Sanction]) -> None:
        """Do nothing, for the same reason."""

    # ---- what comes from the feed

    async def take_in(self, item: Item) -> None:
        """Carry out an item of the feed, at its place in the order."""
        if self._incomplete:
            await self._reload()
        match item:
            case Entered() | Exited():
                await self._moved(item)
            case Named():
                self._named(item)
            case RecordChanged(_, kind, name, record):
                self._record_changed(kind, name, record)
            case Relayed(_, kind, body):
                await self._relayed(kind, body)
            case Renewed(_, epoch, lost):
                if lost:
                    self._begin_anew()
                    await self._reload()
                else:
                    await self._chat.renew(epoch)
            case Missed(position):
                self._chat.forget_senders(position)
                await self._reload()
                self._publish_everything()
            case Reentered():
                self._publish_everything()
            case _:
                pass  # the bus has done everything

    def expects(self, room: str) -> bool:
        """Return whether one of the two users of a room of direct messages is connected here."""
        users = map(self._chat.users.get, users_of(room))
        return any(user is not None and user.connections for user in users)

    async def arriving(self, room: str, seq: int) -> None:
        """Open that room before the event with this number is fanned out."""
        head = None
        with suppress(Unavailable):  # then only its topic is unknown
            head = await self._journal.head(room)
        self._chat.rooms.arrive(room, seq - 1, "" if head is None else head.topic)

    async def _moved(self, item: Entered | Exited) -> None:
        if (missed := self._opening.get(item.room)) is not None:
            missed.append(item)
            return
        rooms = self._chat.rooms
        if (room := rooms.get(item.room)) is not None:
            self._apply(room, item)
        elif item.room.startswith("@") and isinstance(item, Entered) and self.expects(item.room):
            with suppress(Unavailable):
                head = await self._journal.head(item.room)
                seq = await self._journal.seq_at(item.room, item.position)
                rooms.arrive(item.room, seq, "" if head is None else head.topic)
            if (room := rooms.get(item.room)) is not None:
                self._apply(room, item)

    def _apply(self, room: Room, item: Entered | Exited) -> None:
        if item.position <= room.members_at:
            return
        if isinstance(item, Entered):
            user = self._add(room, item)
            if item.first:
                room.announce_joined(user)
            return
        gone = self._chat.users.get(item.user)
        if gone is None or gone not in room.members or not item.last:
            return
        if not room.has_here(gone):  # otherwise the user is in the room again
            if room.direct:
                self._chat.users.keep(gone)  # the other user's messages show the nick
            room.remove(gone)
        room.announce_left(gone, item.reason)

    def _add(self, room: Room, item: Entered) -> User:
        user = self._chat.users.meet(item.user, item.nick)
        self._chat.users.ranks += user.op_elsewhere != item.op
        user.op_elsewhere = item.op
        room.add(user)
        return user

    def _named(self, item: Named) -> None:
        users = self._chat.users
        users.named(item.user, as_nick(item.nick))
        if (user := users.get(item.user)) is not None:
            for room in user.rooms:
                room.announce_nick(user, item.before)

    def _rename(self, user_id: str, nick: str) -> None:
        """Record a user's present nick, and tell the rooms if another one was known here."""
        user = self._chat.users.get(user_id)
        if user is not None and user.nick.display != nick:
            self._named(Named(0, user_id, nick, user.nick.display))

    def rearrived(self, user: User, nick: str | None) -> None:
        """Record the nick that a user still has, or claim one."""
        if nick is None:
            names = self._chat.users.names_like(user)
            self.publish(_Reclaim(self, user, names), (user.id,))
        else:
            self._rename(user.id, nick)

    def _record_changed(self, kind: str, name: str, record: Record | None) -> None:
        readable = self._chat.damage.readable
        changed = [] if record is None else [record]
        for sanction_kind in KINDS:
            if kind == sanction_kind:
                if record is None:
                    lift(self._chat, sanction_kind, name)
                for sanction in readable(changed, sanction_of, sanctions.REMEDY):
                    self._impose(sanction)
        if kind == MARK:
            for mark in readable(changed, mark_of, marks.REMEDY):
                self._read(mark)

    def _impose(self, sanction: Sanction) -> None:
        chat = self._chat
        user = chat.users.get(sanction.user) if sanction.kind == "ban" else None
        # A guest's ban includes the guest's networks. Only this node knows those of its clients.
        found = set() if user is None or user.subject else chat.users.addresses(user)
        networks = {str(network_of(address)) for address in found}
        impose(chat, sanction)
        unknown = [
            replace(sanction, user="", network=network, of=sanction.user)
            for network in sorted(networks)
            if chat.sanctions.get("ban", sanction.room, network) is None
        ]
        if unknown:
            records = tuple(each.record() for each in unknown)
            with suppress(trio.WouldBlock, trio.ClosedResourceError):
                chat.bus.publish_nowait(Submission(Records(records)))

    def _read(self, mark: Mark) -> None:
        user, room = self._chat.users.get(mark.user), self._chat.rooms.get(mark.room)
        if user is None or user.marks.get(mark.room, 0) >= mark.seq:
            return
        user.marks[mark.room] = mark.seq
        for connection in list(user.connections):
            connection.notify(events.Read(mark.room if room is None else room.name, mark.seq))

    async def _relayed(self, kind: str, body: bytes) -> None:
        chat = self._chat
        if kind == TYPING:
            typing = self._decoded(body, _Typing)
            if typing is None:
                return
            room, writer = chat.rooms.get(typing.room), chat.users.get(typing.event.user)
            if room is not None and not room.crowded:
                exclude = () if writer is None else room.subscriptions(writer)
                room.feed.broadcast([typing.event], exclude)
        elif kind == ACT:
            act = self._decoded(body, _ANY_ACT)
            if act is None:
                return
            if isinstance(act, Whisper):
                await chat.rooms.settled(act.room)
                if chat.rooms.get(act.room) is None:
                    if not self.expects(act.room):
                        return
                    chat.rooms.arrive(act.room, 0)
            await carry_out(chat, act)
        elif (handler := chat.relayed.get(kind)) is not None:
            handler(body)

    def _decoded(self, body: bytes, kind: type[_T]) -> _T | None:
        """Return what another node relayed; None if only a newer version of chatd can read it."""
        try:
            return msgspec.json.decode(body, type=kind)
        except (ValueError, RecursionError):
            self._journal.unknown += 1
            return None

    # ---- when items were missed or are gone

    def _begin_anew(self) -> None:
        """Close all clients: events that they were shown are gone."""
        chat = self._chat
        for connection in list(chat.connections):
            for membership in list(connection.memberships.values()):
                connection.exit(membership, "lost")
            connection.end(GOING_AWAY, LOST_MESSAGES)
        chat.rooms.begin_anew()
        chat.forget_senders()
        self._journal.begin_anew()
        self._publish_everything()

    async def _reload(self) -> None:
        """Read the sanctions and the members again, because items are missing."""
        chat = self._chat
        self._incomplete = True
        try:
            await chat.users.load_subjects()
            await chat.sanctions.load(self._journal, chat.damage)
            for room in list(chat.rooms):
                self._compare(room, await self._journal.members(room.key))
        except Unavailable:
            self.publish_later(())  # the next item brings another try
            return
        self._incomplete = False
        for sanction in list(chat.sanctions.all(["ban", "close"])):
            impose(chat, sanction)

    def _compare(self, room: Room, members: Sequence[Entered]) -> None:
        """Record the members of a room, and tell the clients here who came and left meanwhile."""
        before = set(room.members)
        found = {self._add(room, member) for member in members}
        room.members_at = members[0].position if members else 0
        for member in members:
            self._rename(member.user, member.nick)
        for user in found - before:
            room.announce_joined(user)
        for user in before - found:
            if not room.has_here(user):
                room.remove(user)
                room.announce_left(user, "lost")

    # ---- publishing

    async def _ask(self, operation: Operation) -> Outcome:
        if self._journal.down_since is not None:
            raise unreachable()  # at once, not after the batches that wait for the store
        outcome = await self._chat.bus.submit_and_wait(operation)
        if isinstance(outcome, Refusal):
            raise unreachable()
        return outcome

    def _publish(self, operation: Operation, about: _Subject) -> None:
        self.publish(_Fact(self, operation, about), about)

    def publish(self, submission: Submission, about: _Subject) -> None:
        """Publish a fact now, or later if the bus is full."""
        try:
            self._chat.bus.publish_nowait(submission)
        except trio.WouldBlock:
            self.publish_later(about)
        except trio.ClosedResourceError:
            pass  # this node is ending, and so is its lease

    def publish_later(self, about: _Subject) -> None:
        """Publish, after a while, the state at that time of what a fact was about."""
        self._unpublished[about] = None
        if self._retry is None:
            due = trio.current_time() + RETRY_SECONDS
            self._retry = self._chat.timers.add(due, self._publish_again)

    def _publish_again(self, _now: float) -> None:
        self._retry = None
        unpublished, self._unpublished = self._unpublished, {}
        for about in unpublished:
            self._publish_state(about)

    def _publish_everything(self) -> None:
        """Publish all users and members who are here, because the store may not have them."""
        chat = self._chat
        for user in {each.user for each in chat.connections if each.authenticated}:
            self._publish_state((user.id,))
        for room in chat.rooms:
            for user in room.members:
                if room.has_here(user):
                    self._publish_state((room.key, user.id))

    def _publish_state(self, about: _Subject) -> None:
        if not about:
            self._publish(Relay(RELOAD, b""), about)
            return
        chat = self._chat
        user = chat.users.get(about[-1])
        if len(about) == 1:
            if user is None or not user.connections:
                self.depart(about[0], user)
                return
            self.publish(_Rearrival(self, user), about)
        else:
            room = chat.rooms.get(about[0])
            if room is not None and user is not None and user in room.members:
                # Also before an exit: if the store never had the entry, no item would come.
                self.entered(room, user)
            if room is None or user is None or not room.has_here(user):
                self._publish(Exit(about[0], about[1], "lost"), about)


def claim(user_id: str, name: Name) -> Claim:
    """Return the operation with which a user takes a nick."""
    subject = not is_guest(user_id)
    own = usable_nick(user_id) if subject else None
    return Claim(
        user_id,
        name.display,
        tuple(sorted(name.looks)),
        subject,
        () if own is None else tuple(sorted(own.looks)),
    )


def _relay(act: Act) -> Relay:
    return Relay(ACT, msgspec.json.encode(act))
