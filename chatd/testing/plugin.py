"""Fixtures for pytest-trio. Nothing of chatd is imported until one of them is used."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chatd.settings import Settings
    from chatd.testing.harness import Harness

__all__ = ["chat", "chat_settings"]


@pytest.fixture
def chat_settings() -> Settings | None:
    """Give the configuration of `chat`, to be overridden; None: the defaults."""
    return None


@pytest.fixture
def _chat_on_a_virtual_clock() -> None:
    """Tell the hook below that a test uses the `chat` of this module, not one of its own."""


@pytest.fixture
async def chat(
    chat_settings: Settings | None,
    _chat_on_a_virtual_clock: None,
) -> AsyncGenerator[Harness]:
    """Run the whole daemon in memory, on the test's virtual clock."""
    from chatd.testing.harness import open_chat  # noqa: PLC0415  as the module's docstring says

    async with open_chat(chat_settings) as harness:
        yield harness


# Around pytest-trio, which wraps the test too: inside its run a failure comes with its frames.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test that would run `chat` on a real clock, in one line."""
    if isinstance(item, pytest.Function) and "_chat_on_a_virtual_clock" in item.fixturenames:
        from trio.testing import MockClock  # noqa: PLC0415  as above

        # pytest-trio takes the clock from the test's own arguments, and from nowhere else.
        arguments = inspect.signature(item.function).parameters
        if not any(isinstance(item.funcargs.get(name), MockClock) for name in arguments):
            pytest.fail(
                "chat runs on a virtual clock: the test must ask for autojump_clock too",
                pytrace=False,
            )
    return (yield)
