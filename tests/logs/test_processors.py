from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.logs import AddressPolicy, Level, Output
from chatd.logs.processors import (
    TRACEBACK_CHARACTERS,
    Renderer,
    clean,
    console_renderer,
    mask_address,
    render_journal,
    render_json,
)
from chatd.testing.recording import Recording

HOSTILE = [
    "a\r\nlevel=error",
    "\x1b[2J\x1b]0;title\x07",
    "a\u2028b\u2029c\x85d",
    "\u202e evil",
    "\x7f\x80\x9b",
    "\ud800 half",
    '" } {',
    "back\\slash\\n",
    "",
    "🙂\u200d\U000e0001",
]


def render(renderer: Renderer, event: dict[str, Any], level: Level = "info") -> bytes:
    return renderer(Output(Recording()), level, event)


def cleaned(field: str, value: str) -> str:
    shown: str = clean(Output(Recording()), "info", event(**{field: value}))[field]
    return shown


def event(**fields: object) -> dict[str, Any]:
    return {"event": "message", "level": "info", "at": "2026-01-02T03:04:05.678Z", **fields}


def journal_fields(entry: bytes) -> list[tuple[str, bytes]]:
    """Read an entry as journald does."""
    fields = []
    while entry:
        line, _, rest = entry.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value = rest[8 : 8 + length]
            assert rest[8 + length : 9 + length] == b"\n"
            rest = rest[9 + length :]
        fields.append((key.decode(), value))
        entry = rest
    return fields


def test_json_holds_the_name_level_time_and_fields_in_order() -> None:
    line = render(render_json, event(nick="änn", seq=7, seconds=0.5))
    assert (
        line
        == (
            '{"event":"message","level":"info","at":"2026-01-02T03:04:05.678Z",'
            '"nick":"änn","seq":7,"seconds":0.5}\n'
        ).encode()
    )


@pytest.mark.parametrize(
    "renderer", [render_json, console_renderer(colours=False)], ids=["json", "console"]
)
@given(value=st.text() | st.sampled_from(HOSTILE) | st.text(alphabet=st.characters()))
def test_whatever_a_field_holds_a_line_is_one_line_and_printable(
    renderer: Renderer, value: str
) -> None:
    line = render(renderer, event(nick=value)).decode()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert len(line.splitlines()) == 1


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_json_gives_the_value_back(value: str) -> None:
    assert json.loads(render(render_json, event(nick=value)))["nick"] == value


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_journal_gets_the_value_as_it_is_and_a_message_of_one_line(value: str) -> None:
    fields = dict(journal_fields(render(render_journal, event(nick=value, seq=3))))
    assert fields["CHATD_NICK"].decode() == value
    assert fields["CHATD_SEQ"] == b"3"
    assert fields["MESSAGE"].decode().isprintable()


def test_a_journal_entry_has_the_fields_queries_ask_for() -> None:
    entry = render(render_journal, event(nick="ann", reason="a\nb", code=1000))
    assert journal_fields(entry) == [
        ("MESSAGE", rb"message nick=ann reason='a\nb' code=1000"),
        ("PRIORITY", b"6"),
        ("SYSLOG_IDENTIFIER", b"chatd"),
        ("CHATD_EVENT", b"message"),
        ("CHATD_NICK", b"ann"),
        ("CHATD_CODE", b"1000"),
        ("CHATD_REASON", b"a\nb"),
    ]


@pytest.mark.parametrize(
    "renderer",
    [render_json, console_renderer(colours=False), render_journal],
    ids=["json", "console", "journal"],
)
@pytest.mark.parametrize("value", ["\ud800", 2**70, object(), ["a"], b"bytes", float("nan")])
def test_an_unexpected_value_is_not_an_error(renderer: Renderer, value: object) -> None:
    line = render(renderer, event(nick=value))
    assert line.count(b"\n") == line.strip().count(b"\n") + 1


def test_json_gives_half_a_surrogate_pair_and_a_huge_integer_as_text() -> None:
    line = render(render_json, event(nick="\ud800x", seq=2**70, seconds=None))
    decoded = json.loads(line)
    assert (decoded["nick"], decoded["seq"]) == ("\\ud800x", str(2**70))


def test_the_console_is_for_people_and_coloured_only_if_asked() -> None:
    plain = render(console_renderer(colours=False), event(nick="ann", text="hello you"))
    assert plain == (b"2026-01-02T03:04:05.678Z [info     ] message    nick=ann text='hello you'\n")
    assert b"\x1b[" in render(console_renderer(colours=True), event(nick="ann"))


def test_long_values_are_cut_and_say_so() -> None:
    shown = cleaned("nick", "x" * 1_000_000)
    assert shown == "x" * 1000 + "… [1000000 characters]"
    assert cleaned("nick", "x" * 1000) == "x" * 1000


def test_our_own_text_is_shown_unchanged() -> None:
    tree = "main\n  chatd/daemon.py:1 run\n" * 500
    assert cleaned("tasks", tree) == tree
    fields = dict(journal_fields(render(render_journal, event(tasks=tree, seconds=7.5), "error")))
    assert fields["CHATD_TASKS"].decode() == tree
    assert fields["MESSAGE"].decode() == f"message seconds=7.5\n{tree}"
    assert fields["CHATD_SECONDS"] == b"7.5"


def test_of_a_long_traceback_the_end_stays() -> None:
    shown = cleaned("traceback", "x" * 100_000 + "ValueError: the end")
    assert shown.endswith("ValueError: the end")
    assert len(shown) < TRACEBACK_CHARACTERS + 100


@pytest.mark.parametrize(
    "value",
    [
        "/v1?token=SECRET&x=1",
        "/v1?access_token=SECRET",
        "Authorization: Bearer SECRET",
        "authorization: SECRET",
        "bearer SECRET",
        "{'cookie': 'SECRET'}",
        '{"session": "SECRET", "nick": "ann"}',
        "password = SECRET",
        "/socket.io/?EIO=4&sid=SECRET",
        "eyJhbGciOi.SECRET.SECRET",
    ],
)
def test_tokens_are_hidden_in_free_words(value: str) -> None:
    for field in ("path", "reason", "error", "detail", "traceback", "origin"):
        shown = cleaned(field, value)
        assert "SECRET" not in shown
        assert "[hidden]" in shown


def test_a_token_is_hidden_before_a_traceback_is_cut() -> None:
    value = "token=" + "SECRET" * 5000
    assert "SECRET" not in cleaned("traceback", value)


def test_hiding_leaves_other_words_alone() -> None:
    value = "http.origins lacks https://a.example, tokens expired"
    assert cleaned("reason", value) == value


@pytest.mark.parametrize(
    ("address", "addresses", "shown"),
    [
        ("203.0.113.7", "full", "203.0.113.7"),
        ("203.0.113.7", "prefix", "203.0.113.0/24"),
        ("203.0.113.7", "off", None),
        ("2001:db8:1:2:3:4:5:6", "prefix", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "prefix", "203.0.113.0/24"),
        ("fe80::1%eth0", "prefix", "fe80::/64"),
        ("unix", "prefix", "unix"),
        ("203.0.113.7:80", "prefix", None),
    ],
)
def test_addresses_are_masked_as_configured(
    address: str, addresses: AddressPolicy, shown: str | None
) -> None:
    event = mask_address(Output(Recording(), addresses=addresses), "info", {"address": address})
    assert event == ({} if shown is None else {"address": shown})
