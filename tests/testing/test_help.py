"""``help()`` is enough to use ``chatd.client`` and ``chatd.testing``."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from chatd import client, testing


def public(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every public function of a module, and every public method of its classes."""
    for name in module.__all__:
        if name == "Line":
            continue  # deprecated
        value = getattr(module, name)
        if inspect.isclass(value):
            assert value.__doc__, name
            for method, function in inspect.getmembers(value, inspect.isfunction):
                if not method.startswith("_"):
                    yield f"{module.__name__}.{name}.{method}", function
        elif inspect.isfunction(value):
            yield f"{module.__name__}.{name}", value


FUNCTIONS = dict([*public(client), *public(testing)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_names_every_argument(name: str) -> None:
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    assert text
    for argument in inspect.signature(function).parameters.keys() - {"self"}:
        assert f" {argument}: " in text


@pytest.mark.parametrize("module", [client, testing])
def test_help_shows_everything(module: ModuleType) -> None:
    text = pydoc.plain(pydoc.render_doc(module))
    for name in module.__all__:
        assert name in text
