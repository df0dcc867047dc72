from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatd.socketio.rooms import Rooms

ACTS = st.tuples(
    st.sampled_from(["join", "leave", "remove", "add"]),
    st.integers(0, 4),
    st.lists(st.sampled_from("abc"), max_size=2),
)
SOME = st.frozensets(st.sampled_from("abcd"))


@given(st.lists(ACTS), SOME, SOME)
def test_rooms_are_what_a_set_of_pairs_would_be(
    acts: list[tuple[str, int, list[str]]], rooms: frozenset[str], but: frozenset[str]
) -> None:
    index: Rooms[int] = Rooms()
    there: set[int] = set()
    pairs: set[tuple[int, str]] = set()
    for act, member, names in acts:
        if act == "add":
            index.add(member)
            there.add(member)
        elif act == "join":
            index.join(member, names)
            pairs |= {(member, name) for name in names if member in there}
        elif act == "leave":
            index.leave(member, names)
            pairs -= {(member, name) for name in names}
        else:
            index.remove(member)
            there.discard(member)
            pairs = {pair for pair in pairs if pair[0] != member}
    meant = there if not rooms else {member for member, name in pairs if name in rooms}
    left_out = {member for member, name in pairs if name in but}
    chosen = index.select(rooms, but)
    assert len(chosen) == len(set(chosen))
    assert set(chosen) == meant - left_out
    assert {(member, name) for member in there for name in index.of(member)} == pairs
    sizes = {name: sum(pair[1] == name for pair in pairs) for name in {pair[1] for pair in pairs}}
    assert index.sizes() == sizes


def test_members_come_in_the_order_in_which_they_joined() -> None:
    index: Rooms[str] = Rooms()
    for member in "cab":
        index.add(member)
        index.join(member, ["room"])
    assert index.select((), ()) == index.select(("room",), ()) == ["c", "a", "b"]
    assert index.select(("room", "other"), ()) == ["c", "a", "b"]
