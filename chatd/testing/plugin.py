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
    """Return the configuration of `chat`. Override it in a module, class or conftest.py.

    None, as here, means the defaults.
    """
    return None


@pytest.fixture
def _chat_on_a_virtual_clock() -> None:
    """Mark a test, for the hook below, as one that uses this module's `chat`."""


@pytest.fixture
async def chat(
    chat_settings: Settings | None,
    _chat_on_a_virtual_clock: None,
) -> AsyncGenerator[Harness]:
    """Yield a `chatd.testing.Harness`: the whole daemon in memory, on a virtual clock.

    The test has to ask for ``autojump_clock`` or ``mock_clock`` too.
    """
    from chatd.testing.harness import open_chat  # noqa: PLC0415  as the module's docstring says

    async with open_chat(chat_settings) as harness:
        yield harness


# Around pytest-trio, which wraps the test too: inside of that a failure would have its frames.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test that would run `chat` on a real clock, with a message of one line."""
    if isinstance(item, pytest.Function) and "_chat_on_a_virtual_clock" in item.fixturenames:
        from trio.testing import MockClock  # noqa: PLC0415  as above

        # pytest-trio takes the clock from the test's own arguments only.
        arguments = inspect.signature(item.function).parameters
        if not any(isinstance(item.funcargs.get(name), MockClock) for name in arguments):
            pytest.fail(
                "The fixture chat needs a virtual clock: let the test take autojump_clock too.",
                pytrace=False,
            )
    return (yield)
