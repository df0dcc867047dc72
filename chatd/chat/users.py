"""Users and their nicks: who a user is, what others see, and how a guest comes back.

A user's nick is unique among the users present, and is held for a while after the user left. What
must outlive the process, the nick and the last visit, is published to the journal a moment later.
The ids and nicks of subjects, the users that tokens name, are read from the journal at startup.
"""

from __future__ import annotations

import hashlib
import math
from base64 import b32encode
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final

import trio
from msgspec import Struct

from chatd.budgets import NICKS_OF_A_PLACE
from chatd.bus import Submission
from chatd.chat.marks import MARK, REMEDY, mark_of
from chatd.chat.names import (
    NICK_CHARACTERS,
    Name,
    as_nick,
    nick_name,
    nick_of,
    usable_nick,
)
from chatd.chat.nicks import Nicks
from chatd.chat.sessions import (
    FORGOTTEN_GUESTS,
    derived_user,
    forgotten_record,
    is_guest,
    new_user,
    sign_session,
    verify_session,
)
from chatd.chat.subjects import Subjects
from chatd.chat.tokens import Grant
from chatd.chat.user import User
from chatd.journal import Unavailable
from chatd.model import Refused, Remember, UserRecord
from chatd.timers import Timer

if TYPE_CHECKING:
    from chatd.chat.chat import Chat
    from chatd.chat.connection import Connection

__all__ = ["Login", "Users"]

GENERATED_CHARACTERS: Final = 5
"""The part of a guest's id in a generated nick: 25 bits. If it is taken, another one is made."""

ALTERNATIVES: Final = 100
"""``ann-2`` to ``ann-99`` are tried before a nick is generated."""

VISIT_SECONDS: Final = 60.0
"""The last visit of a user who makes single requests is saved at most this often."""

DAY_SECONDS: Final = 24 * 60 * 60

SAVE_SECONDS: Final = 1.0
"""Changes are saved together after this time, because many users leave and return quickly."""


class Login(Struct, frozen=True):
    """Who a client is before it is connected.

    Attributes:
        user: The user.
        grant: What the token grants that names the user; None for a guest.
        nick_notice: Why the nick is not the one that the client asked for.
    """

    user: User
    grant: Grant | None = None
    nick_notice: str | None = None


class Users:
    """All users who are present, or were recently."""

    def __init__(self, chat: Chat) -> None:
        self.unsaved: dict[str, UserRecord] = {}
        self.ranks = 0
        """Grows whenever somebody becomes an operator, or is no longer one."""
        self._chat = chat
        self._journal = chat.journal
        self._now = chat.journal.steady_now
        self._saving: Timer | None = None
        self._by_id: dict[str, User] = {}
        self._nicks = Nicks()
        self._subjects = Subjects(lambda: chat.settings.chat.operators)
        self._held: dict[User, str] = {}
        """Guests who left and whose nick is held, the first who left first, with their address."""
        self._held_from: dict[str, dict[User, None]] = {}
        """The same by address."""
        self._guests_of: dict[str, set[User]] = {}
        """The guests who chose a nick by HTTP, by place."""

    def __len__(self) -> int:
        return len(self._by_id)

    async def load(self) -> None:
        """Read the subjects, and hold the nicks of users who were here shortly before a restart."""
        await self.load_subjects()
        if self._chat.roster.shared:
            return  # the store holds them
        now = self._now()
        hold = self._chat.settings.chat.nick_hold_seconds
        for record in await self._journal.present(now - int(hold * 1000)):
            name = usable_nick(record.nick)
            if name is not None and self._nicks.is_free(name, record.user):
                user = User(record.user, name, chosen=True, subject=record.subject)
                self._add(user)
                gone = max(0, now - (record.seen or now)) / 1000
                user.released = trio.current_time() - gone
                self._hold(user, user.released, "")

    async def load_subjects(self) -> None:
        """Read which ids and nicks belong to subjects."""
        for record in await self._journal.subjects():
            if name := usable_nick(record.nick):
                self._subjects.learn(record.user, name)

    # ---- who

    def get(self, user_id: str) -> User | None:
        """Return the user of an id, if present now or recently."""
        return self._by_id.get(user_id)

    def by_nick(self, key: str) -> User | None:
        """Return the user whose nick has this key, if present now or recently."""
        return self._nicks.get(key)

    async def guest(self, wanted: str | None, check: Callable[[], None]) -> Login:
        """Return a new guest. The caller attaches a connection at once.

        Args:
            wanted: The nick that the client asked for.
            check: Called last, and raises Refused if the guest may not enter.

        Raises:
            Refused: The guest may not enter, or the store did not confirm the nick.
        """
        user_id = new_user()
        name = why = None
        if wanted is not None:
            try:
                name = nick_name(wanted)
            except Refused as refused:
                why = str(refused)
        user = await self._arrive(user_id, self._like(name, user_id), check)
        user.chosen = name is not None
        if user.chosen:
            self._remember(user)
        if why is not None:
            return Login(user, None, f"{why} You are {user.nick.display}.")
        return Login(user, None, None if name is None else _taken(name, user.nick))

    async def guest_of(self, place: str, wanted: str | None, check: Callable[[str], None]) -> User:
        """Return the guest that a place and a nick stand for: the same two are the same guest.

        The caller attaches a connection at once, or calls `visit`.

        Args:
            place: Where the client is: `Peer.place`.
            wanted: The nick that the client asked for. Without one the nick is generated.
            check: Called with the guest's id when the store was read, and raises Refused if the
                guest may not enter.

        Raises:
            Refused: The nick is invalid or somebody else's, or the place has too many of them.
            chatd.journal.Unavailable: The store cannot be read now.
        """
        name = None if wanted is None else nick_name(wanted)
        user_id, forgotten = "", True
        times = 0
        while forgotten:
            user_id = derived_user(self._journal.key, place, name.key if name else "", times)
            forgotten = user_id not in self._by_id and await self._is_forgotten(user_id)
            times += 1
        check(user_id)
        if (user := self._by_id.get(user_id)) is not None and user.connections:
            return user
        if user is None and name is not None:
            if self._is_taken(name, user_id):
                raise Refused("nick_taken", self.taken(user_id, name))
            self._check_place(place)
        if name is not None:
            names = self._only(name, user_id)
        else:
            names = self._like(None, user_id) if user is None else self.names_like(user)
        user = await self._arrive(user_id, names, partial(check, user_id))
        # The nick is held in both cases, so that operators can name whoever speaks.
        user.chosen = True
        if name is not None:
            user.place = place
            self._guests_of.setdefault(place, set()).add(user)
        return user

    def _check_place(self, place: str) -> None:
        """Raise Refused if guests of a place have as many nicks as they may."""
        here = self._guests_of.get(place, set())
        if len(here) < NICKS_OF_A_PLACE:
            return
        gone = [user.released for user in here if user.released is not None]
        hold = self._chat.settings.chat.nick_hold_seconds
        free_in = min(gone) + hold - trio.current_time() if gone else hold
        raise Refused(
            "rate_limited",
            f"Your address has {NICKS_OF_A_PLACE} nicks already. Use one of them.",
            max(1, math.ceil(free_in * 1000)),
        )

    async def _is_forgotten(self, user_id: str) -> bool:
        name = forgotten_record(self._journal.key, user_id, 0).name
        return bool(await self._journal.records(FORGOTTEN_GUESTS, name, 1))

    async def subject(
        self,
        grant: Grant,
        wanted: str | None,
        replaced: User | None,
        check: Callable[[], None],
    ) -> Login:
        """Return the user that a token names. The caller attaches a connection at once.

        The nick is the user's last one, else the wanted one, the token's, the user's id, or one
        that is made up.

        Args:
            grant: The rights from the token.
            wanted: The nick that the client asked for.
            replaced: A guest whose nick becomes free by this login.
            check: Called when the store was read, and raises Refused if the user may not enter.

        Raises:
            Refused: The user may not enter, or the store did not confirm the nick.
        """
        if (user := self._by_id.get(grant.user)) is not None and user.connections:
            return Login(user, grant)
        record = None
        marks: dict[str, int] = {}
        try:
            record = await self._journal.user(grant.user)
            marks = await self._marks(grant.user)
        except Unavailable:
            pass  # the user comes without the last nick and the read marks
        if (user := self._by_id.get(grant.user)) is not None:
            user.merge_marks(marks)
            return Login(await self._return(user, check), grant)
        saved = None if record is None else record.nick
        nicks = (saved, wanted, grant.nick, nick_of(grant.user))
        names = (usable_nick(nick) for nick in nicks if nick is not None)
        name = next((name for name in names if name is not None), None) or self._made_up(grant.user)
        if replaced is not None and not replaced.nick.looks.isdisjoint(name.looks):
            await self._chat.roster.free(replaced)
            self._nicks.release(replaced, replaced.nick)
        user = await self._arrive(grant.user, self._like(name, grant.user), check)
        user.merge_marks(marks)
        self._subjects.learn(user.id, user.nick)
        self._remember(user)
        return Login(user, grant, _taken(name, user.nick))

    async def restore(self, session: str, check: Callable[[str], None]) -> User | None:
        """Return the guest to whom a session was issued; None if it is invalid or has expired.

        Args:
            session: The session.
            check: Called with the guest's id when the store was read, and raises Refused if the
                guest may not enter.

        Raises:
            chatd.journal.Unavailable: the store cannot be read now.
        """
        verified = verify_session(self._journal.key, session)
        if verified is None:
            return None
        user_id = verified.user
        if (user := self._by_id.get(user_id)) and user.connections:
            check(user_id)
            return user
        record = await self._journal.user(user_id)
        marks = await self._marks(user_id)
        if await self._is_forgotten(user_id):
            return None
        check(user_id)
        # The same guest may have come by another connection meanwhile.
        if (user := self._by_id.get(user_id)) and user.connections:
            return user
        last = verified.issued * 1000
        for each in (record, self.unsaved.get(user_id)):
            if each is not None:
                last = max(last, self._now() if each.seen is None else each.seen)
        if self._now() - last > self._chat.settings.auth.session_days * DAY_SECONDS * 1000:
            return None
        if user is not None:
            user.merge_marks(marks)
            return await self._return(user, partial(check, user_id))
        saved = None if record is None else usable_nick(record.nick)
        user = await self._arrive(user_id, self._like(saved, user_id), partial(check, user_id))
        user.chosen = saved is not None
        user.merge_marks(marks)
        return user

    async def _return(self, user: User, check: Callable[[], None]) -> User:
        """Bring a user back who is known here, but has no connection."""
        return await self._arrive(user.id, self.names_like(user), check)

    async def _arrive(self, user_id: str, names: Iterator[Name], check: Callable[[], None]) -> User:
        """Return a user who comes, under the first of these nicks that nobody else has.

        ``check`` is called last, and raises Refused if the user may not enter.
        """
        roster = self._chat.roster
        arrival = await roster.arrive(user_id, names)
        try:
            check()
        except Refused:
            roster.depart(user_id)
            raise
        user = self._by_id.get(user_id)
        if user is None:
            subject = not is_guest(user_id)
            user = self._add(User(user_id, arrival.nick, chosen=subject, subject=subject))
        elif user.nick != arrival.nick:
            self.rename(user, arrival.nick)
        self._chat.flood.resume(user, arrival.debt)
        return user

    async def _marks(self, user_id: str) -> dict[str, int]:
        records = await self._journal.records(MARK, f"{user_id}\0")
        marks = self._chat.damage.readable(records, mark_of, REMEDY)
        return {mark.room: mark.seq for mark in marks}

    def session(self, user: User) -> str | None:
        """Return a guest's session, with which the guest can come back; None for a subject."""
        return None if user.subject else self.session_of(user.id)

    def session_of(self, guest: str) -> str:
        """Return the session of the guest with this id."""
        return sign_session(self._journal.key, guest, self._now() // 1000)

    def attach(self, user: User, connection: Connection) -> None:
        """Record that a connection is the user's."""
        if user.hold is not None:
            user.hold.cancel()
            user.hold = None
        self._forget_held(user)
        if user.released is not None:
            user.released = None
            user.since = trio.current_time()
            if user.chosen:
                self._remember(user)
        user.connections.add(connection)
        self.ranks += connection.op

    def detach(self, user: User, connection: Connection) -> None:
        """Record that a connection ended. After the last one the nick is reserved for a while."""
        user.connections.discard(connection)
        self.ranks += connection.op
        if user.forgotten:
            self.unlisted(user)
            self._chat.roster.depart(user.id)
            return
        user.note_addresses(connection.addresses)
        if user.connections:
            return
        user.released = trio.current_time()
        if user.chosen or user.released - user.since > DAY_SECONDS:
            self._remember(user, self._now())
        # A user whom a room still lists must be the same one if back in time.
        if user.chosen or user.rooms:
            self._hold(user, user.released, connection.limit_key)
        else:
            self._drop(user)
        self._chat.roster.depart(user.id, user)

    def visit(self, user: User, address: str) -> None:
        """Record that a user makes a single request: the nick is held from now on.

        ``address`` is the one that limits and bans see; empty if none applies.
        """
        user.note_addresses((address,) if address else ())
        if user.connections:
            return
        now = trio.current_time()
        if user.chosen and (user.released is None or now - user.since > VISIT_SECONDS):
            user.since = now
            self._remember(user, self._now())
        user.released = now
        if user.hold is not None:
            user.hold.cancel()
        self._forget_held(user)
        self._hold(user, now, address)

    def visited(self, user: User) -> None:
        """Record that the request of a `visit` is answered."""
        if not user.connections:
            self._chat.roster.depart(user.id, user)

    def forget(self, user: User) -> None:
        """Drop a guest that was never seen, because its client turned out to be another user."""
        self.unsaved.pop(user.id, None)
        self._drop(user)
        self._chat.roster.depart(user.id)

    def erase(self, user_id: str) -> None:
        """Drop a user, free the nick, and save nothing of the user."""
        self.unsaved.pop(user_id, None)
        self._subjects.forget(user_id)
        if (user := self._by_id.get(user_id)) is not None:
            user.forgotten = True
            if not user.rooms:  # otherwise a room drops it when the user has left elsewhere
                self._drop(user)
            self._chat.roster.depart(user_id)

    # ---- who is elsewhere

    def meet(self, user_id: str, nick: str) -> User:
        """Return a user who is at another daemon, too or only.

        A new one has to be listed by a room, or be kept: see `keep` and `unlisted`.
        """
        if (user := self._by_id.get(user_id)) is not None:
            return user
        subject = not is_guest(user_id)
        name = as_nick(nick)
        return self._add(User(user_id, name, chosen=subject, subject=subject))

    def keep(self, user: User) -> None:
        """Keep what is known of a user for a while."""
        if not user.connections and user.hold is None:
            hold = self._chat.settings.chat.nick_hold_seconds
            user.hold = self._chat.timers.add(trio.current_time() + hold, partial(self._fire, user))

    def unlisted(self, user: User) -> None:
        """Drop a user whom a room does not list any longer, if there is no other reason to know."""
        if not user.connections and not user.rooms and user.hold is None:
            self._drop(user)

    def named(self, user_id: str, name: Name) -> None:
        """Record that a user, who may be anywhere, has another nick now."""
        holder = self._nicks.get(name.key)
        if holder is not None and holder.id != user_id and not holder.connections:
            self._nicks.release(holder, holder.nick)
        user = self._by_id.get(user_id)
        if user is not None and user.nick != name:
            user.chosen = True
            self.rename(user, name)
        elif user is None and not is_guest(user_id):
            self._subjects.forget_nicks(user_id)
            self._subjects.learn(user_id, name)

    def _only(self, name: Name, user_id: str) -> Iterator[Name]:
        """Yield a nick, and raise Refused if that cannot be had."""
        yield name
        raise Refused("nick_taken", self.taken(user_id, name))

    def names_like(self, user: User) -> Iterator[Name]:
        """Yield the user's nick, and then others that may be had in its place."""
        return chain((user.nick,), self._like(user.nick, user.id))

    def addresses(self, user: User) -> frozenset[str]:
        """Return the addresses and networks of a user, also those of a while ago.

        The last one counts as long as the user is known, and earlier ones as long as nicks are
        held.
        """
        here = {address for each in user.connections for address in each.addresses}
        since = trio.current_time() - self._chat.settings.chat.nick_hold_seconds
        recent = {address for address, ended in user.addresses.items() if ended >= since}
        last = () if here or not user.addresses else (next(reversed(user.addresses)),)
        return frozenset({*here, *recent, *last})

    # ---- nicks

    def claim(self, user: User, name: Name) -> bool:
        """Reserve a nick until `rename` or `unclaim`. Return False if it is taken."""
        if self._subjects.is_anothers(name, user.id, subject=user.subject):
            return False
        if not self._nicks.is_free(name, user.id):
            return False
        self._nicks.take(user, name)
        return True

    def taken(self, user_id: str, name: Name) -> str:
        """Return why a user cannot have a nick, and one like it that is free."""
        holder, free = self._nicks.get(name.key), next(self._like(name, user_id)).display
        if holder is None and not self._nicks.is_free(name, user_id):
            return f"The nick {name.display} looks like another user's. Try {free}."
        if holder is None or holder.released is None:
            return f"The nick {name.display} is taken. Try {free}."
        return f"The nick {name.display} is reserved for a user who left recently. Try {free}."

    def unclaim(self, user: User, name: Name) -> None:
        """Free a nick that was reserved."""
        present = self._nicks.get(user.nick.key) is user
        self._nicks.release(user, name)
        if present:  # the two may look alike
            self._nicks.take(user, user.nick)

    def rename(self, user: User, name: Name) -> None:
        """Give the user another nick, and free the old one."""
        for room in user.rooms:
            room.remove_from_index(user)
        old, user.nick = user.nick, name
        self._nicks.take(user, name)
        self.unclaim(user, old)
        for room in user.rooms:
            room.add_to_index(user)
        for connection in user.connections:
            connection.bind_log()
        if user.subject:
            self._subjects.forget_nicks(user.id)
            self._subjects.learn(user.id, name)
        if self._by_id.get(user.id) is not user:
            # Dropped while the store was busy: no other code would free the nick.
            self._drop(user)
        elif user.released is not None or user.id in self.unsaved:
            # The unsaved record has the old nick.
            self._remember(user, None if user.released is None else self._now())

    def _like(self, name: Name | None, user_id: str) -> Iterator[Name]:
        """Yield nicks that a user may have: the name itself, others like it, generated ones."""
        if name is not None:
            if self._nicks.is_free(name, user_id) and not self._subjects.is_anothers(
                name, user_id, subject=not is_guest(user_id)
            ):
                yield name
            for number in range(2, ALTERNATIVES):
                other = usable_nick(f"{name.display[: NICK_CHARACTERS - 3]}-{number}")
                if other is not None and not self._is_taken(other, user_id):
                    yield other
        part = user_id[1 : 1 + GENERATED_CHARACTERS]
        while True:
            nick = f"guest-{part}"
            # Ids are public, so any nick made of one may have been taken on purpose.
            if not self._is_taken(Name(nick, nick), user_id):
                yield Name(nick, nick)
            part = new_user()[1:]

    def _is_taken(self, name: Name, user_id: str) -> bool:
        """Return whether anybody has a nick, this user too, or it is reserved."""
        return not self._nicks.is_free(name, "") or self._subjects.is_anothers(
            name, user_id, subject=False
        )

    def _made_up(self, user_id: str) -> Name:
        """Return a nick for a subject whose id cannot be one, such as a UUID."""
        digest = b32encode(hashlib.sha256(user_id.encode()).digest()).decode().lower()
        nick = f"user-{digest[:GENERATED_CHARACTERS]}"
        return Name(nick, nick)

    # ---- the registry

    def _add(self, user: User) -> User:
        self._by_id[user.id] = user
        self._nicks.take(user, user.nick)
        return user

    def _hold(self, user: User, released: float, address: str) -> None:
        """Drop a user when neither the nick nor a place in a room is held any longer.

        ``address`` is that of the last connection; empty if limits by address do not apply.
        """
        if user.chosen and not user.subject:
            self._held[user] = address
            self._held_from.setdefault(address, {})[user] = None
        self._drop_when_due(user, released)
        limits = self._chat.settings.limits
        most = limits.held_nicks_per_address
        # Several where the limits were lowered.
        while address and most != "off" and len(self._held_from.get(address, ())) > most:
            self._release(next(iter(self._held_from[address])))
        while len(self._held) > limits.held_nicks:
            self._release(next(iter(self._held)))

    def _release(self, user: User) -> None:
        """Stop holding the nick of a guest who left."""
        self._forget_held(user)
        self._chat.roster.release(user)
        if not user.rooms:
            self._drop(user)
        elif user.hold is not None and user.released is not None:
            user.hold.cancel()
            self._drop_when_due(user, user.released)

    def _forget_held(self, user: User) -> None:
        address = self._held.pop(user, None)
        if address is not None:
            held = self._held_from[address]
            del held[user]
            if not held:
                del self._held_from[address]

    def _drop_when_due(self, user: User, released: float) -> None:
        def ends() -> float:
            chat = self._chat.settings.chat
            held = user in self._held or (user.chosen and user.subject)
            nick = chat.nick_hold_seconds if held else 0
            return released + max(nick, chat.presence_grace_seconds if user.rooms else 0)

        def fire(now: float) -> float | None:
            if (due := ends()) > now:
                return due
            self._fire(user, now)
            return None

        user.hold = self._chat.timers.add(ends(), fire)

    def _fire(self, user: User, _now: float) -> None:
        user.hold = None
        self.unlisted(user)

    def _drop(self, user: User) -> None:
        if user.hold is not None:
            user.hold.cancel()
            user.hold = None
        self._forget_held(user)
        if self._by_id.get(user.id) is user:
            del self._by_id[user.id]
        self._nicks.release(user, user.nick)
        here = self._guests_of.get(user.place, set())
        if user in here:
            here.discard(user)
            if not here:
                del self._guests_of[user.place]

    # ---- what is saved

    def _remember(self, user: User, seen: int | None = None) -> None:
        self.unsaved[user.id] = UserRecord(user.id, user.nick.display, seen, user.subject)
        if self._saving is None:
            due = trio.current_time() + SAVE_SECONDS
            self._saving = self._chat.timers.add(due, self._save)

    def _save(self, now: float) -> float | None:
        saving, self._saving = self._saving, None
        while self.unsaved:
            user_id, record = next(iter(self.unsaved.items()))
            try:
                self._chat.bus.publish_nowait(Submission(Remember(record)))
            except trio.WouldBlock:
                self._saving = saving
                return now + SAVE_SECONDS
            del self.unsaved[user_id]
        return None

    async def save(self) -> None:
        """Publish everything that is not saved yet. If cancelled, the rest is left to do.

        A record that the store refuses is saved when that user next connects or leaves.
        """
        while self.unsaved:
            user_id, record = next(iter(self.unsaved.items()))
            await self._chat.bus.publish(Submission(Remember(record)))
            if self.unsaved.get(user_id) is record:
                del self.unsaved[user_id]


def _taken(wanted: Name, given: Name) -> str | None:
    """Return the notice for a user whose wanted nick was taken."""
    if given is wanted:
        return None
    return f"The nick {wanted.display} is taken. You are {given.display}."
