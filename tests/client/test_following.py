"""A room's log, however its events arrive: each once, in order; gaps are reported."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chatd.client.changes import Gap
from chatd.client.following import Following, Take
from chatd.protocol.commands import Entered, Page, Position
from chatd.protocol.events import Message

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def message(seq: int) -> Message:
    return Message(room="lobby", seq=seq, at=NOW, nick="bob", user="g2", text=str(seq))


def entered(*seqs: int, seq: int | None = None, epoch: str = "e", **fields: Any) -> Entered:
    last = seqs[-1] if seqs else 0
    return Entered("lobby", epoch, last if seq is None else seq, list(map(message, seqs)), **fields)


def test_a_page_ends_where_live_events_begin() -> None:
    # The answer's number may be past the page's end: the rest follows.
    following = Following(entered(3, 4, seq=6), None)
    assert following.position == Position("e", 4)
    assert following.take(4, fits=True) is Take.SEEN
    assert following.take(5, fits=True) is Take.NOW


def test_an_empty_page_begins_where_the_first_event_is() -> None:
    following = Following(entered(seq=7), None)
    assert following.take(8, fits=True) is Take.NOW
    empty = Following(entered(seq=0), None)
    assert empty.take(2, fits=True) is Take.LATE
    resumed = Following(entered(seq=7, recovered=True), Position("e", 5))
    assert resumed.position == Position("e", 5)


def test_what_does_not_fit_comes_from_the_log() -> None:
    following = Following(entered(1), None)
    assert following.take(2, fits=False) is Take.LATE
    # Room again, but what was left out comes first.
    assert following.take(3, fits=True) is Take.LATE
    given_now = following.read(Page("e", [message(2)]), following.newest)
    assert [one for one in given_now if isinstance(one, Message)] == [message(2)]
    assert following.late
    following.read(Page("e", [message(3)]), following.newest)
    assert not following.late
    assert following.take(4, fits=True) is Take.NOW


def test_removed_events_are_reported_as_a_gap() -> None:
    following = Following(entered(1), None)
    assert following.take(9, fits=True) is Take.LATE
    assert following.read(Page("e", []), 9) == [Gap("lobby", Position("e", 1))]
    assert not following.late
    assert following.take(10, fits=True) is Take.NOW


def test_a_page_of_another_log() -> None:
    following = Following(entered(5), None)
    assert following.take(7, fits=True) is Take.LATE
    given_now = following.read(Page("f", [message(2)]), 7)
    assert given_now == [Gap("lobby", Position("e", 5)), message(2)]


def test_a_new_epoch_whose_numbers_go_on_is_no_gap() -> None:
    following = Following(entered(5), None)
    assert following.take(7, fits=True) is Take.LATE
    following.renewed("f")
    assert following.position == Position("f", 5)
    assert following.read(Page("f", [message(6), message(7)]), 7) == [message(6), message(7)]
    unknown = Following(entered(seq=3, epoch=""), None)
    unknown.renewed("f")
    assert unknown.position.epoch == ""  # its number came without one, and may be of either


def test_a_recovered_position_of_an_earlier_epoch_goes_on_under_the_new_one() -> None:
    following = Following(entered(5), None)
    following.rejoining()
    following.rejoined(entered(6, epoch="f", recovered=True))
    assert following.position == Position("f", 5)
    assert following.pending_gap() == []


@given(st.data())
def test_each_once_in_order(data: st.DataObject) -> None:
    """Live events, pages and lost connections in any order, with and without room for them."""
    head = data.draw(st.integers(0, 5))
    following = Following(entered(*range(1, head + 1)), None)
    taken = list(range(1, head + 1))
    live = head
    for _ in range(data.draw(st.integers(0, 30))):
        match data.draw(st.sampled_from(["said", "live", "again", "page", "lost"])):
            case "said":
                head += 1
            case "live" if live < head:
                live += 1
                fits = data.draw(st.booleans())
                if following.take(live, fits=fits) is Take.NOW:
                    taken.append(live)
            case "again" if live:
                seq = data.draw(st.integers(1, live))
                if following.take(seq, fits=True) is Take.NOW:
                    taken.append(seq)
            case "page" if following.late:
                after = following.position.seq
                upto = min(head, after + data.draw(st.integers(1, 3)))
                page = Page("e", [message(seq) for seq in range(after + 1, upto + 1)], upto < head)
                taken += _seqs(following.read(page, following.newest))
            case "lost":
                since = following.rejoining().seq
                upto = min(head, since + data.draw(st.integers(0, 3)))
                following.rejoined(entered(*range(since + 1, upto + 1), seq=head, recovered=True))
                fits = data.draw(st.booleans())
                taken += [
                    seq
                    for seq in range(since + 1, upto + 1)
                    if following.take(seq, fits=fits) is Take.NOW
                ]
                live = max(upto, since)
    while live < head:
        live += 1
        if following.take(live, fits=True) is Take.NOW:
            taken.append(live)
    while following.late:
        after = following.position.seq
        page = Page("e", [message(seq) for seq in range(after + 1, head + 1)])
        taken += _seqs(following.read(page, following.newest))
    assert taken == list(range(1, head + 1))


def _seqs(events: Any) -> list[int]:
    return [event.seq for event in events]
