"""Where commits run: in the loop, or in a thread while the disk is slow."""

from __future__ import annotations

from chatd.journal.placement import QUICK_SECONDS, SLOW_SECONDS, Placement


def returned_after(placement: Placement) -> int:
    """Return how many quick commits in the thread it takes to come back to the loop."""
    count = 1
    while not placement.ran_in_thread(QUICK_SECONDS):
        count += 1
    return count


def test_quick_commits_stay_in_the_loop() -> None:
    placement = Placement(always_threaded=False)
    assert not any(placement.ran_inline(SLOW_SECONDS) for _ in range(100))
    assert not placement.threaded


def test_each_return_is_earned_by_more() -> None:
    placement = Placement(always_threaded=False)
    needed = []
    for _ in range(9):
        assert placement.ran_inline(SLOW_SECONDS * 1.1)
        assert placement.threaded
        needed.append(returned_after(placement))
        assert not placement.threaded
    assert needed == [16, 32, 64, 128, 256, 512, 1024, 1024, 1024]
    for _ in range(1024):
        placement.ran_inline(0.0)
    placement.ran_inline(1.0)
    assert returned_after(placement) == 16


def test_a_slow_one_in_the_thread_begins_the_count_again() -> None:
    placement = Placement(always_threaded=False)
    placement.ran_inline(1.0)
    for _ in range(15):
        assert not placement.ran_in_thread(0.0)
    assert not placement.ran_in_thread(QUICK_SECONDS * 1.1)
    assert returned_after(placement) == 16


def test_always_in_the_thread() -> None:
    placement = Placement(always_threaded=True)
    assert not any(placement.ran_in_thread(0.0) for _ in range(2000))
    assert placement.threaded
