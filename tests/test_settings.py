"""Every error of a configuration is reported with its place; valid ones are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.settings import Limits, Listen, Rule, Settings, SettingsError, WebSocket, load

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "chatd.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def faults(
    path: Path | None = None, overrides: list[str] | None = None, listen: list[str] | None = None
) -> list[tuple[int, int, str]]:
    with pytest.raises(SettingsError) as caught:
        load(path, overrides or [], listen or [])
    return [(fault.line, fault.column, fault.message) for fault in caught.value.faults]


def one(*args: Any) -> str:  # passed on
    [(_, _, message)] = faults(*args)
    return message


def test_nothing_given_is_the_defaults() -> None:
    assert load() == Settings()


def test_an_empty_file_is_the_defaults(write: Write) -> None:
    assert load(write("")) == Settings()


def test_a_byte_order_mark_and_other_line_ends_are_read(write: Write) -> None:
    path = write(b"\xef\xbb\xbf[limits]\r\nrooms = 7\r\n")
    assert load(path).limits.rooms == 7


def test_the_wrong_place_is_right_with_other_line_ends(write: Write) -> None:
    assert faults(write(b"[limits]\r\nrooms = 0\r\n"))[0][:2] == (2, 9)


def test_what_a_file_sets_is_set(write: Write) -> None:
    settings = load(
        write(
            '[listen]\naddresses = ["unix:/run/x"]\n[drain]\nseconds = 3\n'
            '[history]\nkeep_days = "off"\n'
        )
    )
    assert settings.listen.addresses == ("unix:/run/x",)
    assert settings.drain.seconds == 3.0
    assert isinstance(settings.drain.seconds, float)
    assert settings.history.keep_days == "off"


def test_every_error_is_reported_with_its_place(write: Write) -> None:
    found = faults(
        write(
            """\
rooms = 5
[listen]
addresses = [
  "localhost:3000", # ok
  "[::g]:1", "3000",
]
[limts]
rooms = 5
[limits]
rooms = 0
connectons = 3
[log]
level = "inf"
'bodies' = "yes"
"""
        )
    )
    assert [place[:2] for place in found] == [
        (1, 1),
        (5, 3),
        (5, 14),
        (7, 2),
        (10, 9),
        (11, 1),
        (13, 9),
        (14, 12),
    ]
    messages = [message for _, _, message in found]
    assert messages[0] == (
        'Unknown key "rooms" outside of any section. Did you mean "limits.rooms"?'
    )
    assert messages[3] == 'Unknown section "limts". Did you mean "limits"?'
    assert messages[4] == "limits.rooms: Expected an integer from 1 to 1_000_000, not 0."
    assert messages[5] == 'Unknown key "connectons" in [limits]. Did you mean "connections"?'
    assert messages[6].endswith('not "inf". Did you mean "info"?')
    assert messages[7] == 'log.bodies: Expected true or false, not "yes".'


def test_a_key_of_another_section_is_named(write: Write) -> None:
    message = one(write("[chat]\nmessages_burst = 1"))
    assert message.endswith('Did you mean "limits.messages_burst"?')


def test_a_section_is_no_key(write: Write) -> None:
    assert one(write("limits = 5")) == "limits is a section. Write [limits] with its keys below."
    assert one(write("[[limits]]\nrooms = 5")).startswith("limits is a section")


def test_the_source_line_is_given(write: Write) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write("[limits]\n  rooms = 0 # none\n"))
    assert caught.value.faults[0].source_line == "  rooms = 0 # none"


@pytest.mark.parametrize(
    "value", ["0", "-1", "true", '"5"', "5.0", "[5]", "{}", "1979-05-27", "0x" + "f" * 5000]
)
def test_a_number_is_nothing_else(write: Write, value: str) -> None:
    text = f"[limits]\nrooms = {value}\n"
    assert "Expected an integer from 1 to 1_000_000, not " in one(write(text))


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "true", '"5"'])
def test_seconds_are_finite(value: str) -> None:
    assert "Expected a number from 0 to 3_600" in one(None, [f"drain.seconds={value}"])


@pytest.mark.parametrize(
    "key",
    [
        "history.keep_days",
        "history.keep_events",
        "history.max_bytes",
        "limits.connections_per_address",
        "limits.messages_per_second",
        "limits.messages_burst",
        "limits.bytes_per_second",
    ],
)
def test_no_limit_is_the_word_off_and_nothing_else(key: str) -> None:
    load(None, [f"{key}=off"])
    for value in ("0", '""', "-1", "Off", "none"):
        assert one(None, [f"{key}={value}"]).startswith(f"{key}: Expected an integer from 1")


@pytest.mark.parametrize(
    "address",
    ["localhost:3000", "0.0.0.0:0", "[::]:65535", "[::1]:1", "chat.example.org:80", "unix:/run/x"],
)
def test_addresses(address: str) -> None:
    assert load(None, (), [address]).listen.addresses == (address,)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "3000",
        ":3000",
        "localhost",
        "localhost:65536",
        "localhost:http",
        "localhost:٣",
        "1.2.3:1",
        "1.2.3.256:1",
        "::1:3000",
        "[1.2.3.4]:1",
        "[::g]:1",
        "unix:run",
        "unix:/" + "x" * 107,
        "http://localhost:3000",
    ],
)
def test_no_addresses(address: str) -> None:
    assert one(None, (), [address]).startswith('listen.addresses: Expected "HOST:PORT"')


def test_an_address_may_be_listed_once(write: Write) -> None:
    path = write('[listen]\naddresses = ["localhost:1",\n "localhost:1"]')
    assert faults(path) == [(3, 2, 'listen.addresses must not contain "localhost:1" twice.')]


def test_listening_nowhere_is_an_error(write: Write) -> None:
    assert one(write("[listen]\naddresses = []")).startswith(
        "listen.addresses: Expected a list of one or more of"
    )


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("listen.socket_mode", ["0660", '"666"'], ["0888", "rw", "0o660", "66"]),
        (
            "http.origins",
            ["[]", '["same", "https://a.example:8443", "http://[::1]:1"]'],
            ['["*"]', '["https://a.example/"]', '["https://A/b"]', '["a.example"]', "same"],
        ),
        ("http.hosts", ['["a.example", "a.example:1", "[::1]:3000"]'], ['["http://a"]', '[""]']),
        ("chat.greeting", ["", "Hi {nick}, # {room}", '"a { b"'], ["a {name}", "5"]),
        (
            "chat.default_room",
            ["lobby", "Grüße", "a/b", "x" * 64],
            ['""', "/a", "a b", "a#", '"a\\u0007"', "x" * 65],
        ),
        ("chat.backlog", ["0", "500"], ["501"]),
        ("limits.messages_burst", ["1"], ["0"]),
        ("history.path", ["auto", "/a/b.db"], ["b.db", "/", "/a/", '""', '"/a\\u0000"']),
        (
            "history.url",
            [
                "redis://a.example",
                "rediss://[::1]:6380",
                "redis://127.0.0.1:1,b:2",
                "sentinel://a,b:26380,[::1]:3/main",
                "sentinels://a/main",
                "unix:/run/x",
            ],
            [
                '""',
                "a.example:6379",
                "sentinel://a,b",
                "sentinel://a/b/c",
                "redis://",
                "redis://a,",
                "redis://a:0",
                "redis://a:70000",
                "redis://a/1",
                "redis://me:secret@a",
                "http://a",
                "unix:run",
            ],
        ),
        ("history.replicas", ["0", "10"], ["-1", "11"]),
        ("history.prefix", ['"{chatd}"', '"{a.b:c}"'], ["chatd", '"{}"', '"{a}b"', '"{a b}"']),
    ],
)
def test_values_are_judged(key: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        load(None, [f"{key}={value}"])
    for value in bad:
        assert one(None, [f"{key}={value}"]).startswith(f"{key}: Expected "), value


def test_a_near_origin_word_is_named() -> None:
    assert one(None, ['http.origins=["loopbak"]']).endswith('Did you mean "loopback"?')


def test_a_queue_holds_a_message(write: Write) -> None:
    assert faults(write("[limits]\nmessage_bytes = 1_000_000\n")) == [
        (
            2,
            17,
            (
                "limits.send_queue_bytes (1048576) must be at least 4004096, to hold a message of "
                "limits.message_bytes (1000000)."
            ),
        )
    ]
    path = write("[limits]\nmessage_bytes = 1_000_000\nsend_queue_bytes = 4_004_095\n")
    assert [place[:2] for place in faults(path)] == [(3, 20)]
    load(path, ["limits.send_queue_bytes=4_004_096"])


def test_a_message_can_come_in(write: Write) -> None:
    path = write("[websocket]\nmax_message_bytes = 20_479\n")
    [(line, column, message)] = faults(path)
    assert (line, column) == (2, 21)
    assert message.startswith("websocket.max_message_bytes (20479) must be at least 20480, to ")
    load(path, ["websocket.max_message_bytes=20_480"])


def test_a_ping_is_given_up_before_the_next() -> None:
    assert one(None, ["websocket.ping_interval_seconds=19.5"]) == (
        "websocket.ping_timeout_seconds (20) must not exceed "
        "websocket.ping_interval_seconds (19.5)."
    )


def test_rules_do_not_judge_what_is_wrong_already() -> None:
    assert len(faults(None, ["limits.message_bytes=99999999", "limits.send_queue_bytes=4096"])) == 1


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        (
            "[limits\nrooms = 5",
            1,
            8,
            "Invalid TOML: Expected ']' at the end of a table declaration.",
        ),
        ("[limits]\nrooms = \n", 2, 9, "Invalid TOML: Invalid value."),
        ("[limits]\nrooms = [\n\n", 2, 10, "Invalid TOML: Invalid value, at the end of the file."),
        ("[limits]\nrooms = 1\nrooms = 2\n", 3, 10, "Invalid TOML: Cannot overwrite a value."),
        ("a = " + "9" * 5000, 1, 5, "This number is too large."),
    ],
)
def test_syntax(write: Write, text: str, line: int, column: int, message: str) -> None:
    assert faults(write(text)) == [(line, column, message)]


def test_bytes_that_are_no_utf_8_have_their_place(write: Write) -> None:
    assert faults(write(b"# gr\xc3\xbc\xc3\x9fe\r\n# a\xff")) == [(2, 4, "This is not UTF-8.")]


def test_deep_nesting_is_an_error(write: Write) -> None:
    assert "nested too deeply" in one(write("a = " + "[" * 100_000))


def test_what_is_no_configuration_file_is_one_fault(tmp_path: Path) -> None:
    assert faults(tmp_path / "absent") == [(0, 0, "The file does not exist.")]
    assert faults(tmp_path) == [(0, 0, "This is a folder, not a file.")]
    assert one(Path("/dev/zero")).startswith("This is not a configuration: it has more than")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert one(loop).startswith("The file cannot be read: ")


def test_a_flag_wins_over_the_file_and_a_later_one_over_it(write: Write) -> None:
    path = write("[limits]\nrooms = 3\n[listen]\naddresses = ['localhost:1']")
    settings = load(path, ["limits.rooms=4", "limits.rooms = 5"], ["localhost:2", "localhost:3"])
    assert settings.limits.rooms == 5
    assert settings.listen.addresses == ("localhost:2", "localhost:3")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("chat.greeting=Hello there", "Hello there"),
        ("chat.greeting='quoted'", "quoted"),
        ("chat.greeting=a=b", "a=b"),
        ("chat.greeting=", ""),
        ("chat.greeting=5\nlimits = 3", "5\nlimits = 3"),
    ],
)
def test_a_flag_is_toml_or_a_bare_word(flag: str, value: str) -> None:
    assert load(None, [flag]).chat.greeting == value


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("limits.rooms", "Expected SECTION.KEY=VALUE"),
        ("rooms=5", 'Expected SECTION.KEY=VALUE. Did you mean "limits.rooms"?'),
        ("limits={rooms=5}", "Expected SECTION.KEY=VALUE"),
        ("limts.rooms=5", 'Unknown section "limts". Did you mean "limits"?'),
        ("limits.roms=5", 'Unknown key "roms" in [limits]. Did you mean "rooms"?'),
        ("http.hosts=['a", "http.hosts: This is not a TOML value."),
        ("http.hosts=" + "[" * 9999, "http.hosts: This is not a TOML value."),
        ("chat.greeting=\udcff", "This is not UTF-8."),
    ],
)
def test_an_error_in_a_flag_names_it(flag: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, [flag])
    [fault] = caught.value.faults
    assert fault.message.startswith(message)
    assert (fault.origin, fault.line, fault.column) == (f"--set {flag}", 0, 0)


def test_errors_of_file_and_flags_are_reported_together(write: Write) -> None:
    path = write("[limits]\nrooms = 0")
    with pytest.raises(SettingsError) as caught:
        load(path, ["limits.rooms=none", "log.level=loud"], ["nowhere"])
    assert [fault.origin for fault in caught.value.faults] == [
        str(path),
        "--set limits.rooms=none",
        "--set log.level=loud",
        "--listen nowhere",
    ]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_garbage_is_settings_or_the_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.toml"
    path.write_bytes(data)
    with contextlib.suppress(SettingsError):
        assert isinstance(load(path), Settings)


@given(st.text(max_size=40))
def test_a_garbled_flag_is_settings_or_the_one_error(text: str) -> None:
    for flag in (text, f"chat.greeting={text}", f"listen.addresses={text}"):
        with contextlib.suppress(SettingsError):
            assert isinstance(load(None, [flag], [text]), Settings)


def test_the_longest_websocket_message_follows_the_text() -> None:
    assert Settings().max_message_bytes == 4 * 16384 + 4096
    assert Settings(limits=Limits(message_bytes=100)).max_message_bytes == 4496
    assert Settings(websocket=WebSocket(max_message_bytes=99)).max_message_bytes == 99


def test_the_mode_of_a_socket_is_octal() -> None:
    assert Listen(socket_mode="0660").socket_mode_bits == 0o660


def test_a_mode_with_tokens_wants_a_key(write: Write) -> None:
    message = 'auth.key_files or auth.jwks_url must be set if auth.mode is "token"'
    [(line, column, told)] = faults(write('[auth]\nmode = "token"\n'))
    assert (line, column) == (2, 8)
    assert told.startswith(message)
    assert load(write('[auth]\nmode = "token"\nkey_files = ["/k"]\n')).auth.key_files == ("/k",)
    url = "https://idp.example.org/keys?a=b"
    loaded = load(write(f'[auth]\nmode = "token"\njwks_url = "{url}"\n'))
    assert loaded.jwks_url == url
    assert load(write(f'[auth]\njwks_url = "{url}"\n')).jwks_url is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auth.key_files", '["k"]'),
        ("auth.key_files", '["/k/"]'),
        ("auth.key_files", '["credential:"]'),
        ("auth.key_files", '["credential:a/b"]'),
        ("auth.key_files", '["credential:.."]'),
        ("auth.cookie", '"a b"'),
        ("auth.cookie", '""'),
        ("auth.jwks_url", '"http://idp.example.org/keys"'),
        ("auth.jwks_url", '"https://"'),
        ("auth.jwks_url", '"https://[::1/"'),
        ("auth.jwks_url", '"https://idp.example.org:0/"'),
        ("auth.jwks_url", '"https://idp.example.org:x/"'),
        ("auth.jwks_url", '"https://me:secret@idp.example.org/"'),
        ("auth.jwks_url", '"https://idp.example.org/ keys"'),
        ("auth.jwks_url", '""'),
        ("auth.issuer", '""'),
        ("auth.audience", '"a b"'),
        ("auth.nick_claim", '""'),
        ("chat.operators", '["zoë"]'),
        ("chat.operators", '[""]'),
    ],
)
def test_invalid_files_cookies_and_users(key: str, value: str) -> None:
    assert one(None, [f"{key}={value}"]).startswith(f"{key}: Expected ")


@pytest.mark.parametrize(
    "entry", ["10.0.0.1/8", "chat.example.org", "10.0.0.0/33", "*", "unix:/run/a", "", "[::1]"]
)
def test_a_proxy_is_an_address_or_a_network(write: Write, entry: str) -> None:
    [(line, column, message)] = faults(write(f'[http]\ntrusted_proxies = ["unix", "{entry}"]\n'))
    assert (line, column) == (2, 28)
    assert 'Expected "unix", an IP address, or a network such as "10.1.0.0/16"' in message


@pytest.mark.parametrize("entry", ["unix", "10.0.0.0/8", "192.0.2.1", "::1", "2001:db8::/32"])
def test_proxies_of_each_kind(write: Write, entry: str) -> None:
    loaded = load(write(f'[http]\ntrusted_proxies = ["{entry}"]\n'))
    assert loaded.http.trusted_proxies == (entry,)


@pytest.mark.parametrize("name", ["certificate_file", "key_file"])
def test_a_certificate_and_its_key_come_together(write: Write, name: str) -> None:
    [(line, column, message)] = faults(write(f'[tls]\n{name} = "/a.pem"\n'))
    assert (line, column) == (2, len(name) + 4)
    assert f"must be set too if tls.{name} is set" in message


@pytest.mark.parametrize(
    "file", ["a.pem", "/a/", "credential:", "credential:a/b", "credential:..", "Off", ""]
)
def test_a_secret_is_a_file_or_a_credential(write: Write, file: str) -> None:
    path = write(f'[tls]\ncertificate_file = "{file}"\nkey_file = "/b"\n')
    [(line, _, message)] = faults(path)
    assert line == 2
    assert 'Expected "off", the absolute path of a file, or "credential:NAME"' in message


def test_what_the_keys_name_is_looked_at_and_its_faults_have_their_place(write: Write) -> None:
    path = write('[tls]\ncertificate_file = "/a"\nkey_file = "/b"\n[limits]\nrooms = 0\n')
    with pytest.raises(SettingsError) as caught:
        load(path, checks=[lambda settings: [Rule(["tls.key_file"], settings.tls.key_file)]])
    told = [(fault.line, fault.column, fault.message) for fault in caught.value.faults]
    assert told[0] == (3, 12, "/b")
    assert told[1][0] == 5
