from __future__ import annotations

from chatd.journal.pace import QUICK_SECONDS, SLOW_SECONDS, CommitPlacement


def returned_after(pace: CommitPlacement) -> int:
    """Give how many quick commits in the thread it takes to come back to the loop."""
    count = 1
    while not pace.in_thread(QUICK_SECONDS):
        count += 1
    return count


def test_quick_commits_stay_in_the_loop() -> None:
    pace = CommitPlacement(always_threaded=False)
    assert not any(pace.inline(SLOW_SECONDS) for _ in range(100))
    assert not pace.threaded


def test_each_return_is_earned_by_more() -> None:
    pace = CommitPlacement(always_threaded=False)
    needed = []
    for _ in range(9):
        assert pace.inline(SLOW_SECONDS * 1.1)
        assert pace.threaded
        needed.append(returned_after(pace))
        assert not pace.threaded
    assert needed == [16, 32, 64, 128, 256, 512, 1024, 1024, 1024]
    for _ in range(1024):
        pace.inline(0.0)
    pace.inline(1.0)
    assert returned_after(pace) == 16


def test_a_slow_one_in_the_thread_begins_the_count_again() -> None:
    pace = CommitPlacement(always_threaded=False)
    pace.inline(1.0)
    for _ in range(15):
        assert not pace.in_thread(0.0)
    assert not pace.in_thread(QUICK_SECONDS * 1.1)
    assert returned_after(pace) == 16


def test_always_in_the_thread() -> None:
    pace = CommitPlacement(always_threaded=True)
    assert not any(pace.in_thread(0.0) for _ in range(2000))
    assert pace.threaded
