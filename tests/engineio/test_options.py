from __future__ import annotations

import pytest

from chatd import engineio, socketio
from chatd.engineio import Cookie


@pytest.mark.parametrize(
    ("cookie", "over_tls", "written"),
    [
        (Cookie(), False, "io=x; Path=/; HttpOnly; SameSite=Lax"),
        (Cookie(), True, "io=x; Path=/; HttpOnly; Secure; SameSite=Lax"),
        (Cookie(secure=True), False, "io=x; Path=/; HttpOnly; Secure; SameSite=Lax"),
        (
            Cookie(name="n", path="/p", http_only=False, same_site="None", max_age=9),
            False,
            "n=x; Path=/p; Max-Age=9; SameSite=None",
        ),
    ],
)
def test_a_cookie_is_written(cookie: Cookie, over_tls: bool, written: str) -> None:
    assert cookie.written("x", over_tls=over_tls) == written


def test_the_keyword_arguments_are_the_options() -> None:
    options = set(engineio.Options.__struct_fields__)
    assert set(engineio.OptionsDict.__annotations__) == options - {"path"}
    assert set(engineio.Tunable.__annotations__) <= options
    options = set(socketio.Options.__struct_fields__)
    assert set(socketio.OptionsDict.__annotations__) == options
    assert set(socketio.Tunable.__annotations__) <= options
