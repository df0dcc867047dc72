"""The log's account of tasks when something hangs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.tasks import SIBLINGS, TREE_CHARACTERS, task_tree


async def stands_here() -> None:
    await trio.sleep_forever()


async def calls_it() -> None:
    await stands_here()


@asynccontextmanager
async def inside() -> AsyncIterator[None]:
    yield
    await stands_here()


async def numbers() -> AsyncIterator[int]:
    await stands_here()
    yield 1


def indent(tree: str, words: str) -> int:
    (line,) = (line for line in tree.splitlines() if line.strip().endswith(words))
    return len(line) - len(line.lstrip())


async def test_a_task_is_logged_with_its_stack_and_its_place() -> None:
    async def parent() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(calls_it, name="the child")
            await stands_here()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent, name="the parent")
        await wait_all_tasks_blocked()
        tree = task_tree()
        nursery.cancel_scope.cancel()
    lines = [line.strip() for line in tree.splitlines()]
    child = lines.index("the child")
    assert "tests/test_tasks.py:" in lines[child + 1]
    assert lines[child + 1].endswith(" calls_it")
    assert lines[child + 2].endswith(" stands_here")
    assert "sleep_forever" in lines[child + 3]
    assert indent(tree, "the child") > indent(tree, "the parent")


async def test_what_waits_in_a_generator_is_seen_through_it() -> None:
    async def leaves() -> None:
        async with inside():
            pass

    async def iterates() -> None:
        async for _ in numbers():
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaves, name="leaves")
        nursery.start_soon(iterates, name="iterates")
        await wait_all_tasks_blocked()
        tree = task_tree()
        nursery.cancel_scope.cancel()
    assert tree.count(" stands_here\n") == 2
    assert " inside\n" in tree
    assert " numbers\n" in tree


async def test_tasks_with_the_same_stack_are_logged_once() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(SIBLINGS + 7):
            nursery.start_soon(calls_it, name="client")
        await wait_all_tasks_blocked()
        tree = task_tree()
        nursery.cancel_scope.cancel()
    assert tree.count("client") == 1
    assert f"client ({SIBLINGS} alike)" in tree
    assert "… and 7 more tasks" in tree


async def test_the_text_is_bounded() -> None:
    async with trio.open_nursery() as nursery:
        for number in range(SIBLINGS):
            nursery.start_soon(calls_it, name=f"{number} " + "x" * 500)
        await wait_all_tasks_blocked()
        tree = task_tree()
        nursery.cancel_scope.cancel()
    assert len(tree) < TREE_CHARACTERS + 100
    assert tree.endswith(" characters]")


async def test_a_deep_stack_shows_its_inner_end(autojump_clock: MockClock) -> None:
    async def deeper(levels: int) -> None:
        if levels:
            await deeper(levels - 1)
        else:
            await stands_here()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deeper, 300, name="deep")
        await wait_all_tasks_blocked()
        tree = task_tree()
        nursery.cancel_scope.cancel()
    assert " stands_here\n" in tree
    assert tree.count("deeper\n") < 30
