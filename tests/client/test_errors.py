from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.client.errors import may_reconnect, unwrapped
from chatd.model import CLOSES


@given(st.integers(1000, 4999))
def test_the_table_counts_first_and_the_range_else(code: int) -> None:
    if code in CLOSES:
        assert may_reconnect(code) is CLOSES[code].reconnect
    else:
        assert may_reconnect(code) is (code < 4500)


def test_one_exception_comes_out_of_its_groups() -> None:
    mine = KeyError("mine")
    with pytest.raises(KeyError) as caught, unwrapped():
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [mine])])
    assert caught.value is mine
    assert mine.__context__ is None


def test_several_stay_a_group() -> None:
    with pytest.RaisesGroup(KeyError, KeyError), unwrapped():
        raise ExceptionGroup("both", [KeyError("one"), KeyError("two")])


def test_the_client_does_not_know_the_server() -> None:
    code = (
        "import sys, chatd.client; "
        "print(*sorted({n.split('.')[1] for n in sys.modules if n.startswith('chatd.')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["client", "model", "protocol"]
