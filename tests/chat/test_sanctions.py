"""Sanctions: their targets, their time, and their refusals."""

from __future__ import annotations

import pytest

from chatd.chat.sanctions import Sanction, SanctionKind, Sanctions, network_of
from chatd.journal import Unavailable
from chatd.journal.damage import Damage
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import no_report
from chatd.model import Put, Record

NOW = 1_000_000

NO_DAMAGE = Damage(no_report)


def held(*sanctions: Sanction) -> Sanctions:
    found = Sanctions(lambda: NOW)
    for sanction in sanctions:
        found.add(sanction)
    return found


def ban(**fields: object) -> Sanction:
    return Sanction("ban", by="root", at=1, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sanction", "room", "user", "address", "guest", "applies"),
    [
        (ban(user="u"), "", "u", "", True, True),
        (ban(user="u"), "", "v", "", True, False),
        (ban(user="u"), "lobby", "u", "", True, False),
        (ban(user="u", room="lobby"), "lobby", "u", "", True, True),
        (ban(user="u", room="lobby"), "", "u", "", True, False),
        (ban(user="u", until=NOW + 1), "", "u", "", True, True),
        (ban(user="u", until=NOW), "", "u", "", True, False),
        (ban(network="192.0.2.0/24"), "", "v", "192.0.2.9", False, True),
        (ban(network="192.0.2.0/24"), "", "v", "192.0.3.9", False, False),
        (ban(network="192.0.2.0/24"), "", "v", "", False, False),
        (ban(network="192.0.2.0/24", of="u"), "", "v", "192.0.2.9", True, True),
        (ban(network="192.0.2.0/24", of="u"), "", "v", "192.0.2.9", False, False),
        (ban(network="2001:db8::/64"), "", "v", "2001:db8::/64", True, True),
        (ban(network="2001:db8::/64"), "", "v", "2001:db8:0:1::/64", True, False),
        (ban(network="2001:db8::/96"), "", "v", "2001:db8::/64", True, False),
    ],
)
def test_the_targets_of_a_ban(
    sanction: Sanction, room: str, user: str, address: str, guest: bool, applies: bool
) -> None:
    assert (held(sanction).ban(room, user, address, guest=guest) is sanction) == applies


def test_a_mute_applies_in_its_room_or_everywhere() -> None:
    here = Sanction("mute", by="root", at=1, room="lobby", user="u")
    everywhere = Sanction("mute", by="root", at=1, user="v")
    found = held(here, everywhere)
    assert found.mute("lobby", "u") is here
    assert found.mute("hall", "u") is None
    assert found.mute("hall", "v") is everywhere


@pytest.mark.parametrize(
    ("kind", "code"),
    [("ban", "banned"), ("mute", "muted"), ("close", "forbidden"), ("slow", "forbidden")],
)
def test_the_refusals(kind: SanctionKind, code: str) -> None:
    found = held()
    plain = found.refused(Sanction(kind, by="root", at=1), "You cannot").refusal
    text = "You cannot until further notice."
    assert (plain.code, plain.message, plain.retry_ms) == (code, text, None)
    sanction = Sanction(kind, by="root", by_nick="Root", at=1, reason="enough", until=NOW + 5)
    reasoned = found.refused(sanction, "You cannot").refusal
    text = "You cannot by Root for 1 second: enough"
    assert (reasoned.message, reasoned.retry_ms) == (text, 5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.001, "1 second"),
        (59.5, "1 minute"),
        (60, "1 minute"),
        (61, "61 seconds"),
        (120, "2 minutes"),
        (599, "10 minutes"),
        (3600, "1 hour"),
        (3601, "61 minutes"),
        (7199, "2 hours"),
        (86_400, "1 day"),
        (604_800, "7 days"),
    ],
)
def test_the_rest_of_the_time_is_said_in_words(seconds: float, text: str) -> None:
    muted = Sanction("mute", by="root", at=1, user="u", until=NOW + round(seconds * 1000))
    assert muted.explained("You are muted", NOW) == f"You are muted for {text}."


def test_a_sanction_replaces_the_one_of_the_same_name() -> None:
    first, second = ban(user="u", reason="one"), ban(user="u", reason="two")
    found = held(first, second)
    assert list(found.all()) == [second]
    found.remove(first)
    assert len(found) == 0


def test_a_lifted_network_ban_applies_to_no_address() -> None:
    wide, narrow = ban(network="192.0.2.0/24"), ban(network="192.0.2.9/32")
    found = held(wide, narrow)
    found.remove(wide)
    assert found.ban("", "", "192.0.2.8", guest=True) is None
    assert found.ban("", "", "192.0.2.9", guest=True) is narrow
    found.remove(narrow)
    assert found.ban("", "", "192.0.2.9", guest=True) is None


def test_a_sweep_removes_what_has_ended() -> None:
    found = held(ban(user="u", until=NOW - 1), ban(user="v", until=NOW + 1))
    assert len(found) == 2
    found.sweep()
    assert [one.user for one in found.held.values()] == ["v"]


async def test_they_are_read_from_the_store(mock_clock: object) -> None:
    journal = MemoryJournal(now=lambda: NOW)
    kept = [ban(network="192.0.2.0/24", reason="spam"), Sanction("slow", "root", 1, "lobby")]
    await journal.commit([Put(sanction.record()) for sanction in kept])
    found = held()
    await found.load(journal, NO_DAMAGE)
    assert list(found.all()) == kept
    assert found.ban("", "", "192.0.2.1", guest=True) == kept[0]


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.7/24", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("unix", None),
        ("192.0.2.0/33", None),
        ("", None),
    ],
)
def test_networks(text: str, network: str | None) -> None:
    found = network_of(text)
    assert (None if found is None else str(found)) == network


def test_networks_are_found_by_their_length() -> None:
    now = 0
    held = Sanctions(lambda: now)
    for network, until in (("10.0.0.0/8", None), ("10.1.0.0/16", 5), ("2001:db8::/64", None)):
        held.add(Sanction("ban", by="x", at=0, network=network, until=until))
    assert held.ban("", "", "10.2.3.4", guest=False) is not None
    assert held.ban("", "", "11.2.3.4", guest=False) is None
    assert held.ban("", "", "2001:db8::/64", guest=False) is not None
    assert held.ban("room", "", "10.2.3.4", guest=False) is None
    now = 6
    held.sweep()
    assert len(held) == 2
    for sanction in list(held.all()):
        held.remove(sanction)
    assert (len(held), held._networks) == (0, {})


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4/x"])
def test_what_is_no_network(text: str) -> None:
    assert network_of(text) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"kind":"ban","by":"root","at":"yesterday","user":"u"}',
        b'{"kind":"mute","by":"root","at":1,"user":"u"}',
        b'{"kind":"ban","by":"root","at":1,"user":"other"}',
        b'{"kind":"ban","by":"root","at":1,"user":"u","until":5}',
        b'{"kind":"ban","by":"root","at":1,"user":"u","network":"None"}',
        b'{"kind":"ban","by":"root","at":1,"user":"u","network":"192.0.2.1/24"}',
    ],
)
async def test_what_was_changed_by_hand_is_left_out_and_reported(value: bytes) -> None:
    journal = MemoryJournal(now=lambda: NOW)
    kept = ban(user="v")
    await journal.commit([Put(kept.record()), Put(Record("ban", "\0u", value))])
    reported: list[object] = []

    def report(_event: str, /, **fields: object) -> None:
        reported.append(fields["detail"])

    found = held()
    await found.load(journal, Damage(report))
    assert list(found.all()) == [kept]
    [detail] = reported
    assert detail == (
        "the record ban '\\x00u' of the store is not as chatd has written it, and is left out: "
        "impose this sanction again, or restore a backup"
    )


async def test_sanctions_stay_in_force_while_they_are_read_again() -> None:
    class Failing(MemoryJournal):
        async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
            assert found.held == {("ban", one.name): one}
            if kind == "mute":
                raise Unavailable("gone")
            return await super().records(kind, prefix, limit)

    one = ban(user="u")
    found = held(one)
    with pytest.raises(Unavailable):
        await found.load(Failing(now=lambda: NOW), NO_DAMAGE)
    assert found.held == {("ban", one.name): one}
