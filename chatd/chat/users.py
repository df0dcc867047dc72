"""Users and their nicks: who somebody is, what others call them, and how a guest comes back.

A nick belongs to its user, is unique by its fold among the users present, and is held for a while
after. What must outlive the process (a chosen nick, when its user was last here) is asked of the
journal: ``unsaved`` holds it until somebody publishes it.

A subject is who a token names. Nobody else is called as one is named, and no guest as one was last
called: who was here by a token is kept, and so known after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final, Protocol

import trio
from msgspec import Struct

from chatd.chat.credentials import new_user, open_secret, seal
from chatd.chat.limits import Bucket
from chatd.chat.names import NICK_CHARACTERS, Name, nick_name, usable_nick
from chatd.chat.tokens import Grant
from chatd.journal import Journal, Unavailable
from chatd.model import Refused, UserRecord
from chatd.settings import Limits, Settings

__all__ = ["MARK", "Came", "User", "Users"]

MARK: Final = "mark"
"""The shelf of read marks: by user, a NUL and the room's fold; each is a number."""

GENERATED_CHARACTERS: Final = 5
"""Of a guest's id in the nick we give: 25 bits; another is given where that is taken."""

ALTERNATIVES: Final = 100
"""``ann-2`` to ``ann-99`` are tried before a generated nick is given."""

BURST_SECONDS: Final = 2
"""So many seconds' worth of ``limits.bytes_per_second`` may be said at once."""

DAY_SECONDS: Final = 24 * 60 * 60


class Whereabouts(Protocol):
    """A room, as far as its members' nicks are concerned."""

    def strike(self, user: User) -> None:
        """Take a member off the roll, whose nick is about to change."""

    def rename(self, user: User, old: str) -> None:
        """Put the member back on it, and tell of the nick."""


class Line(Protocol):
    """A connection, as far as its user is concerned."""

    @property
    def op(self) -> bool: ...

    def bind_log(self) -> None:
        """Note the user's present nick for the log."""

    def enter_direct(self, room: Any, /) -> None:
        """Be in a room of direct messages from now on, if it is not."""

    def tell(self, *items: Any) -> None:
        """Say something to this client alone."""


class User:
    """Somebody, over all their connections."""

    __slots__ = (
        "bytes",
        "chosen",
        "connections",
        "held",
        "id",
        "marks",
        "messages",
        "nick",
        "pages",
        "released",
        "rooms",
        "since",
        "subject",
    )

    def __init__(self, user_id: str, nick: Name, *, chosen: bool, subject: bool = False) -> None:
        self.id = user_id
        self.nick = nick
        self.subject = subject
        """Whether a token names this user; else it is a guest."""
        self.chosen = chosen
        """Whether the nick was asked for: only then is it held and kept."""
        self.connections: set[Line] = set()
        self.rooms: dict[Whereabouts, None] = {}
        """Where they are, in the order in which they came in: they tell of a nick in that order."""
        self.marks: dict[str, int] = {}
        """Up to where the user has read, by room."""
        self.since = trio.current_time()
        self.released: float | None = None
        """When the last connection went (trio's clock); None while present."""
        self.held = False
        """Whether it has its place in the line of those to be dropped; one, however often it
        comes and goes."""
        self.messages = Bucket()
        self.bytes = Bucket()
        self.pages = Bucket()

    @property
    def op(self) -> bool:
        """Whether one of the user's connections is an operator's: what others are shown."""
        return any(connection.op for connection in self.connections)

    def has_read(self, marks: Mapping[str, int]) -> None:
        """Take in what the store knows of how far the user has read: never back."""
        for room, seq in marks.items():
            self.marks[room] = max(seq, self.marks.get(room, 0))

    def floods(self, size: int, limits: Limits) -> int:
        """Give the milliseconds until this user may say ``size`` bytes; 0, and they count: now."""
        rate = limits.bytes_per_second
        burst = max(limits.message_bytes, BURST_SECONDS * rate) if rate != "off" else rate
        wait = max(
            self.messages.wait(1, limits.messages_per_second, limits.messages_burst),
            self.bytes.wait(size, rate, burst),
        )
        if not wait:
            self.messages.spend(1)
            self.bytes.spend(size)
        return wait

    def asks(self, limits: Limits) -> int:
        """Give the milliseconds until this user may ask for a page; 0, and it counts: now."""
        wait = self.pages.wait(1, limits.requests_per_second, limits.requests_burst)
        if not wait:
            self.pages.spend(1)
        return wait


class Came(Struct, frozen=True):
    """Who somebody is by a token; ``why_not`` says why they are called otherwise than wished."""

    user: User
    grant: Grant
    why_not: str | None = None


class Users:
    """Everybody present or lately so."""

    def __init__(self, settings: Settings, journal: Journal, now: Callable[[], int]) -> None:
        self.settings = settings
        self.unsaved: dict[str, UserRecord] = {}
        self._journal = journal
        self._now = now
        self._by_id: dict[str, User] = {}
        self._by_fold: dict[str, User] = {}
        self._subjects: dict[str, str] = {}
        """Ids of known subjects, by their own fold."""
        self._called: dict[str, str] = {}
        """The same by the fold of what each is called, or was last."""
        self._held: list[tuple[float, int, User]] = []
        """A heap: when to look again, a number that settles ties, whom to look at."""
        self._order = count()

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def restless(self) -> bool:
        """Whether something is to be swept or saved in a while."""
        return bool(self._held or self.unsaved)

    async def load(self) -> None:
        """Hold the nicks of those who were here shortly before this process was."""
        for record in await self._journal.subjects():
            if name := usable_nick(record.nick):
                self._know(record.user, name)
        now = self._now()
        hold = self.settings.chat.nick_hold_seconds
        for record in await self._journal.present(now - int(hold * 1000)):
            name = usable_nick(record.nick)
            if name is not None and name.fold not in self._by_fold:
                user = User(record.user, name, chosen=True, subject=record.subject)
                self._add(user)
                gone = max(0, now - (record.seen or now)) / 1000
                user.released = trio.current_time() - gone
                self._hold(user, user.released)

    # ---- who

    def get(self, user: str) -> User | None:
        """Give who has this id, if present or lately so."""
        return self._by_id.get(user)

    def called(self, fold: str) -> User | None:
        """Give who has the nick of this fold, if present or lately so."""
        return self._by_fold.get(fold)

    def guest(self, wanted: str | None) -> tuple[User, str | None]:
        """Make a guest; the second value says why ``wanted`` could not be the nick, if so."""
        user_id = new_user()
        if wanted is None:
            return self._add(User(user_id, self._generated(user_id), chosen=False)), None
        try:
            name = nick_name(wanted)
        except Refused as refused:
            user = self._add(User(user_id, self._generated(user_id), chosen=False))
            return user, f"{refused}; you are {user.nick.shown}"
        free = self._free(name, user_id)
        user = self._add(User(user_id, free, chosen=True))
        self._remember(user)
        if free is name:
            return user, None
        return user, f"the nick {name.shown} is taken; you are {free.shown}"

    async def subject(self, grant: Grant, wanted: str | None, instead: User | None = None) -> Came:
        """Give who a token names; ``instead`` is a guest whose nick is free by it.

        Their nick is the one they had, else the one ``wanted``, the token's or their own name.
        The caller attaches them at once.
        """
        if (user := self._by_id.get(grant.user)) is not None and user.connections:
            return Came(user, grant)
        record = None
        marks: dict[str, int] = {}
        try:
            record = await self._journal.user(grant.user)
            marks = await self._marks(grant.user)
        except Unavailable:
            pass  # nobody is kept out for a nick
        if (user := self._by_id.get(grant.user)) is not None:
            user.has_read(marks)
            return Came(user, grant)
        kept = None if record is None else record.nick
        nicks = (kept, wanted, grant.nick, grant.user)
        names = (usable_nick(nick) for nick in nicks if nick is not None)
        name = next(name for name in names if name is not None)
        if instead is not None and self._by_fold.get(name.fold) is instead:
            del self._by_fold[name.fold]
        free = self._free(name, grant.user, subject=True)
        user = User(grant.user, free, chosen=True, subject=True)
        user.marks = marks
        self._know(user.id, free)
        self._remember(self._add(user))
        taken = f"the nick {name.shown} is taken; you are {free.shown}"
        return Came(user, grant, None if free is name else taken)

    async def restore(self, secret_text: str) -> User | None:
        """Give the guest to whom this secret was given; None where it is not good (any more).

        Raises:
            chatd.journal.Unavailable: the store cannot be read now.
        """
        secret = open_secret(self._journal.key, secret_text)
        if secret is None:
            return None
        if (user := self._by_id.get(secret.user)) and user.connections:
            return user
        record = await self._journal.user(secret.user)
        marks = await self._marks(secret.user)
        # The same guest may have come by another connection meanwhile.
        if (user := self._by_id.get(secret.user)) and user.connections:
            return user
        unsaved = self.unsaved.get(secret.user)
        last = max(
            secret.issued * 1000,
            *(
                self._now() if r.seen is None else r.seen
                for r in (record, unsaved)
                if r is not None
            ),
            0,
        )
        if self._now() - last > self.settings.auth.session_days * DAY_SECONDS * 1000:
            return None
        if user is not None:
            user.has_read(marks)
            return user
        kept = None if record is None else usable_nick(record.nick)
        if kept is not None:
            user = User(secret.user, self._free(kept, secret.user), chosen=True)
        else:
            user = User(secret.user, self._generated(secret.user), chosen=False)
        user.marks = marks
        return self._add(user)

    async def _marks(self, user: str) -> dict[str, int]:
        prefix = f"{user}\0"
        records = await self._journal.records(MARK, prefix)
        return {record.name.removeprefix(prefix): int(record.value) for record in records}

    def secret(self, user: User) -> str | None:
        """Give the secret that makes a guest this user again; None for who needs a token."""
        return None if user.subject else self.secret_of(user.id)

    def secret_of(self, guest: str) -> str:
        """Give the secret of the guest with this id."""
        return seal(self._journal.key, guest, self._now() // 1000)

    def attach(self, user: User, connection: Line) -> None:
        if user.released is not None:
            user.released = None
            user.since = trio.current_time()
            if user.chosen:
                self._remember(user)
        user.connections.add(connection)

    def detach(self, user: User, connection: Line) -> None:
        """Note that a connection ended; after the last one the nick is held for a while."""
        user.connections.discard(connection)
        if user.connections:
            return
        user.released = trio.current_time()
        if user.chosen or user.released - user.since > DAY_SECONDS:
            self._remember(user, self._now())
        # Who is still shown in a room is to be the same when back in time.
        if user.chosen or user.rooms:
            self._hold(user, user.released)
        else:
            self._drop(user)

    def forget(self, user: User) -> None:
        """Drop a guest that nobody has seen, because its client turned out to be somebody else."""
        self.unsaved.pop(user.id, None)
        self._drop(user)

    def erase(self, user_id: str) -> None:
        """Let go of a user who is not here and of the nick, and keep nothing of them."""
        self.unsaved.pop(user_id, None)
        self._subjects = {fold: user for fold, user in self._subjects.items() if user != user_id}
        self._called = {fold: user for fold, user in self._called.items() if user != user_id}
        if (user := self._by_id.get(user_id)) is not None:
            self._drop(user)

    def sweep(self) -> None:
        """Let go of the users, and their nicks, whose time is over."""
        now = trio.current_time()
        while self._held and self._held[0][0] <= now:
            user = heappop(self._held)[2]
            user.held = False
            if user.released is None:
                continue
            if self._hold_ends(user, user.released) > now:
                self._hold(user, user.released)
            else:
                self._drop(user)

    # ---- nicks

    def claim(self, user: User, name: Name) -> bool:
        """Set a nick aside for the user, until ``rename`` or ``unclaim``; False if it is taken."""
        if self._is_subjects(name.fold, user.id, subject=user.subject):
            return False
        return self._by_fold.setdefault(name.fold, user) is user

    def unclaim(self, user: User, name: Name) -> None:
        if name.fold != user.nick.fold and self._by_fold.get(name.fold) is user:
            del self._by_fold[name.fold]

    def rename(self, user: User, name: Name) -> None:
        """Give the user the nick that was claimed; the old one is free."""
        old, user.nick = user.nick, name
        user.chosen = True
        self.unclaim(user, old)
        if user.subject:
            if self._called.get(old.fold) == user.id:
                del self._called[old.fold]
            self._know(user.id, name)
        if self._by_id.get(user.id) is not user:
            # Dropped while the store took its time: nobody else would free the nick.
            self._drop(user)
        elif user.released is not None or user.id in self.unsaved:
            # What was to be kept when it came or went has the old nick.
            self._remember(user, None if user.released is None else self._now())

    def _free(self, name: Name, user_id: str, *, subject: bool = False) -> Name:
        holder = self._by_fold.get(name.fold)
        mine = holder is None or holder.id == user_id
        if mine and not self._is_subjects(name.fold, user_id, subject=subject):
            return name
        for number in range(2, ALTERNATIVES):
            other = usable_nick(f"{name.shown[: NICK_CHARACTERS - 3]}-{number}")
            if other is not None and not self._is_taken(other.fold, user_id):
                return other
        return self._generated(user_id)

    def _is_taken(self, fold: str, user_id: str) -> bool:
        return fold in self._by_fold or self._is_subjects(fold, user_id, subject=False)

    def _is_subjects(self, fold: str, user_id: str, *, subject: bool) -> bool:
        """Tell whether it is the name of a subject that this one, ``subject`` or not, is not."""
        owner = self._subjects.get(fold)
        if owner is None and not subject:
            owner = self._called.get(fold)
        if owner is None:
            owner = next(
                (one for one in self.settings.chat.operators if _fold_of(one) == fold), None
            )
        return owner is not None and owner != user_id

    def _know(self, subject: str, nick: Name) -> None:
        self._subjects[_fold_of(subject)] = subject
        self._called[nick.fold] = subject

    def _generated(self, user_id: str) -> Name:
        nick = f"guest-{user_id[1 : 1 + GENERATED_CHARACTERS]}"
        # Ids can be seen, so any nick made of one may have been taken on purpose.
        while self._is_taken(nick, user_id):
            nick = f"guest-{new_user()[1:]}"
        return Name(nick, nick)

    # ---- the registry

    def _add(self, user: User) -> User:
        self._by_id[user.id] = user
        self._by_fold[user.nick.fold] = user
        return user

    def _hold(self, user: User, released: float) -> None:
        if not user.held:
            user.held = True
            heappush(self._held, (self._hold_ends(user, released), next(self._order), user))

    def _hold_ends(self, user: User, released: float) -> float:
        chat = self.settings.chat
        nick = chat.nick_hold_seconds if user.chosen else 0
        return released + max(nick, chat.presence_grace_seconds if user.rooms else 0)

    def _drop(self, user: User) -> None:
        if self._by_id.get(user.id) is user:
            del self._by_id[user.id]
        if self._by_fold.get(user.nick.fold) is user:
            del self._by_fold[user.nick.fold]

    def _remember(self, user: User, seen: int | None = None) -> None:
        self.unsaved[user.id] = UserRecord(user.id, user.nick.shown, seen, user.subject)


def _fold_of(user: str) -> str:
    name = usable_nick(user)
    return user if name is None else name.fold
