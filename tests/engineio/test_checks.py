"""The options of both servers: types, ranges, and spellings whose meaning is clear."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatd import engineio, socketio
from chatd.engineio import Cookie, Session
from chatd.settings import Http, Limits, Settings, Tls


def make_engine(**options: Any) -> engineio.Options:
    async def handler(session: Session) -> None:
        pass

    return engineio.Server(handler, **options).engine.options


def make_socketio(**options: Any) -> socketio.Options:
    return socketio.Server(**options).options


MAKERS = [make_engine, make_socketio]
Maker = Callable[..., engineio.Options]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ({"path": "chat"}, "path", "/chat/"),
        ({"path": "/chat"}, "path", "/chat/"),
        ({"path": "chat/v1/"}, "path", "/chat/v1/"),
        ({"path": "/"}, "path", "/"),
        ({"path": ""}, "path", "/"),
        ({"cookie": "sid"}, "cookie", Cookie(name="sid")),
        ({"cookie": True}, "cookie", Cookie()),
        ({"cookie": False}, "cookie", None),
        ({"cookie": {"name": "sid"}}, "cookie", Cookie(name="sid")),
        (
            # As python-engineio and as Node write it.
            {"cookie": {"name": "a", "HttpOnly": False, "SameSite": "strict", "max-age": 9}},
            "cookie",
            Cookie(name="a", http_only=False, same_site="Strict", max_age=9),
        ),
        (
            {"cookie": {"httpOnly": False, "sameSite": "none", "secure": True, "maxAge": 9}},
            "cookie",
            Cookie(http_only=False, same_site="None", secure=True, max_age=9),
        ),
        ({"cors_origins": ["https://a.example/"]}, "cors_origins", ("https://a.example",)),
        ({"cors_origins": "https://a.example"}, "cors_origins", ("https://a.example",)),
        ({"cors_origins": ("http://[::1]:8080", "*")}, "cors_origins", ("http://[::1]:8080", "*")),
        ({"cors_origins": "loopback"}, "cors_origins", ("loopback",)),
        ({"cors_origins": ["HTTPS://A.example:443"]}, "cors_origins", ("HTTPS://A.example:443",)),
        ({"cors_origins": ["capacitor://localhost"]}, "cors_origins", ("capacitor://localhost",)),
        ({"cors_origins": []}, "cors_origins", ()),
        ({"cors_allowed_origins": "*"}, "cors_origins", ("*",)),
        ({"cors_allowed_origins": ["http://a/"]}, "cors_origins", ("http://a",)),
        ({"cors_allowed_origins": None}, "cors_origins", None),
        ({"max_http_buffer_size": 1e6}, "max_payload", 1_000_000),
        ({"max_payload": 2.0}, "max_payload", 2),
        ({"http_compression": False}, "compression_threshold", None),
        ({"http_compression": True}, "compression_threshold", 1024),
        ({"compression_threshold": 0}, "compression_threshold", 0),
        ({"transports": "websocket"}, "transports", ("websocket",)),
        (
            {"transports": ["polling", "websocket", "polling"]},
            "transports",
            ("polling", "websocket"),
        ),
        ({"ping_interval": 3}, "ping_interval", 3.0),
        ({"allow_request": None}, "allow_request", None),
    ],
)
def test_a_spelling_whose_meaning_is_clear_works(
    make: Maker, given: dict[str, Any], option: str, value: object
) -> None:
    assert getattr(make(**given), option) == value


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ({"socketio_path": "chat"}, "path", "/chat/"),
        ({"recovery": False}, "recovery", False),
        ({"recovery": 60}, "recovery", socketio.Recovery(seconds=60)),
        ({"recovery": socketio.Recovery(60)}, "recovery", socketio.Recovery(60)),
    ],
)
def test_spellings_of_socketio(given: dict[str, Any], option: str, value: object) -> None:
    found = getattr(make_socketio(**given), option)
    assert (found or False) == value


async def function(*args: object) -> None:
    pass


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ping_timeout": "20"}, TypeError, "ping_timeout must be a number of seconds from 0.001"),
    ({"ping_timeout": True}, TypeError, "ping_timeout must be a number of seconds"),
    ({"ping_timeout": None}, TypeError, "ping_timeout must be a number of seconds"),
    ({"ping_timeout": 0}, ValueError, "ping_timeout must be a number of seconds"),
    ({"ping_interval": (25, 5)}, TypeError, "ping_interval must be a number of seconds"),
    ({"ping_interval": 25000}, ValueError, "from 0.001 to 3600, not 25000."),
    ({"ping_interval": math.inf}, ValueError, "ping_interval must"),
    ({"ping_interval": math.nan}, ValueError, "ping_interval must"),
    ({"ping_interval": -1}, ValueError, "ping_interval must"),
    ({"upgrade_timeout": "x"}, TypeError, "upgrade_timeout must"),
    ({"max_payload": "1000000"}, TypeError, "max_payload must be a whole number of at least 1"),
    ({"max_payload": 0}, ValueError, "max_payload must"),
    ({"max_payload": 1.5}, ValueError, "max_payload must"),
    ({"max_payload": math.inf}, ValueError, "max_payload must"),
    ({"max_http_buffer_size": None}, TypeError, "max_payload must"),
    ({"send_queue_bytes": -1}, ValueError, "send_queue_bytes must"),
    ({"max_sessions": False}, TypeError, "max_sessions must"),
    ({"compression_threshold": True}, TypeError, "compression_threshold must"),
    ({"compression_threshold": -1}, ValueError, "compression_threshold must"),
    ({"http_compression": 1024}, TypeError, "http_compression must be True or False"),
    ({"allow_eio3": "false"}, TypeError, "allow_eio3 must be True or False, not 'false'."),
    ({"jsonp": 1}, TypeError, "jsonp must be True or False"),
    ({"cors_credentials": "yes"}, TypeError, "cors_credentials must be True or False"),
    ({"path": None}, TypeError, 'path must be a path such as "/socket.io/"'),
    ({"path": "http://localhost/socket.io"}, ValueError, "path must be a path"),
    ({"path": "/socket.io?x=1"}, ValueError, "path must be a path"),
    ({"path": "/a//b"}, ValueError, "path must be a path"),
    ({"path": "/a/../b"}, ValueError, "path must be a path"),
    ({"path": "/größe"}, ValueError, "path must be a path"),
    ({"cors_origins": ["app.example.org"]}, ValueError, '"https://app.example.org"'),
    ({"cors_origins": "https://a.example/path"}, ValueError, "cors_origins must be whole origins"),
    ({"cors_origins": "https://*.example"}, ValueError, "a function of the request"),
    ({"cors_origins": "https://a.example, https://b.example"}, ValueError, "cors_origins must"),
    ({"cors_origins": "https://a.example:99999"}, ValueError, "cors_origins must"),
    ({"cors_origins": "https://münchen.example"}, ValueError, "cors_origins must"),
    ({"cors_origins": ["null"]}, ValueError, '"file"'),
    ({"cors_origins": [""]}, ValueError, "cors_origins must"),
    ({"cors_origins": [7]}, TypeError, "cors_origins must"),
    ({"cors_origins": True}, TypeError, "cors_origins must be a list of origins"),
    ({"cors_origins": {"origin": "*"}}, TypeError, "cors_origins must be a list of origins"),
    ({"cors_allowed_origins": []}, ValueError, 'cors_origins="*"'),
    ({"cors_allowed_origins": "*", "cors_origins": "*"}, TypeError, "cors_origins twice"),
    ({"cookie": 7}, TypeError, "cookie must be a Cookie, or its name"),
    ({"cookie": "a b"}, ValueError, "name must be the name of a cookie"),
    ({"cookie": ""}, ValueError, "name must be the name of a cookie"),
    ({"cookie": {"name": "io", "domain": "x"}}, ValueError, "cookie cannot have 'domain'"),
    ({"cookie": {"path": "/;x"}}, ValueError, "path must be"),
    ({"cookie": {"path": "/é"}}, ValueError, "path must be"),
    ({"cookie": {"sameSite": "no"}}, ValueError, 'same_site must be "Strict" or "Lax" or "None"'),
    ({"cookie": {"maxAge": "9"}}, TypeError, "max_age must be a whole number"),
    ({"cookie": {"secure": "yes"}}, TypeError, "secure must be True or False"),
    ({"transports": "webtransport"}, ValueError, 'one or more of "polling" or "websocket"'),
    ({"transports": []}, ValueError, "transports must"),
    ({"transports": None}, TypeError, "transports must"),
    ({"transports": ["polling", 7]}, ValueError, "transports must"),
    ({"allow_request": "yes"}, TypeError, "allow_request must be a function of one argument"),
    ({"allow_request": lambda: None}, TypeError, "allow_request must be a function of one"),
    ({"cors_origins": lambda origin, environ: True}, TypeError, "cors_origins must be a function"),
    ({"cors_allowed_origins": lambda origin: True}, ValueError, 'request.header("origin")'),
    (
        {"settings": Settings(http=Http(trusted_proxies="10.0.0.0/8"))},  # type: ignore[arg-type]
        ValueError,
        'settings: http.trusted_proxies: Expected a list of "unix", an IP address',
    ),
    (
        {"settings": Settings(limits=Limits(connections="5"))},  # type: ignore[arg-type]
        ValueError,
        "settings: limits.connections: Expected an integer from 1",
    ),
    (
        {"settings": Settings(limits={"connections": 5})},  # type: ignore[arg-type]
        ValueError,
        "settings: limits is not a section",
    ),
    (
        {"settings": Settings(tls=Tls(key_file="/x"))},
        ValueError,
        "settings: tls.certificate_file must be set too",
    ),
    ({"settings": {"limits": {}}}, TypeError, "settings must be a chatd.settings.Settings"),
    ({"log": True}, TypeError, "log must be a chatd.logs.Log"),
    ({"logger": True}, TypeError, "has no option logger. Did you mean log?"),
    ({"pingTimeout": 20000}, TypeError, "has no option pingTimeout. Did you mean ping_timeout?"),
    ({"cors": {"origin": "*"}}, TypeError, "has no option cors. help(chatd."),
    ({"maxHttpBufferSize": 1}, TypeError, "has no option maxHttpBufferSize."),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("given", "error", "message"), WRONG)
def test_a_wrong_option_raises_one_line_when_the_server_is_made(
    make: Maker, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        make(**given)
    (line,) = str(raised.value).splitlines()
    assert message in line
    assert line.endswith((".", "?"))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"static": 7}, TypeError, "static must be the path of a folder"),
        ({"client_files": {}}, TypeError, "client_files must be the path of a folder"),
        ({"recovery": "60"}, TypeError, "recovery must be a number of seconds"),
        ({"recovery": 0}, ValueError, "recovery must be a number of seconds"),
        ({"recovery": 120_000}, ValueError, "recovery must be a number of seconds"),
        ({"max_namespaces": 0}, ValueError, "max_namespaces must"),
        ({"max_attachments": -1}, ValueError, "max_attachments must"),
        ({"ack_timeout": "30"}, TypeError, "ack_timeout must"),
        ({"connect_timeout": 45000}, ValueError, "connect_timeout must"),
    ],
)
def test_options_of_socketio(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_socketio(**given)


@pytest.mark.parametrize("kind", [socketio.Recovery, socketio.MemoryLog])
@pytest.mark.parametrize(
    ("seconds", "error"),
    [("60", TypeError), (True, TypeError), (0, ValueError), (120_000, ValueError)],
)
def test_the_time_of_a_recovery(
    kind: Callable[..., object], seconds: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match="seconds must be a number of seconds from"):
        kind(seconds)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"max_bytes": "1"}, "max_bytes must"), ({"max_lost": None}, "max_lost must")],
)
def test_the_bounds_of_a_log_in_memory(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        socketio.MemoryLog(**given)


@pytest.mark.parametrize("kind", [engineio.Options, socketio.Options, Cookie, socketio.Recovery])
def test_every_option_is_checked(kind: type[Any]) -> None:
    class Other:
        """A type that no option has."""

    for name in kind.__struct_fields__:
        with pytest.raises(TypeError, match=name):
            kind(**{name: Other()})


def test_a_folder_must_exist_when_the_server_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for option in ("static", "client_files"):
        make_socketio(**{option: "public"})
        make_socketio(**{option: tmp_path / "public"})
        for wrong in ("publik", "file", tmp_path / "publik"):
            with pytest.raises(
                ValueError, match=f"{option} must be a folder that exists"
            ) as raised:
                make_socketio(**{option: wrong})
            assert str(tmp_path / Path(wrong).name) in str(raised.value)


def test_files_and_the_protocol_need_different_paths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path must be another one"):
        make_socketio(static=tmp_path, path="")
    assert make_socketio(path="").path == "/"


def test_settings_of_lists_and_other_limits_are_accepted() -> None:
    hosts: Any = ["chat.test"]
    settings = Settings(http=Http(hosts=hosts), limits=Limits(connections=50_000))
    assert make_engine(settings=settings) == engineio.Options()


def test_changes_are_checked_too() -> None:
    io = socketio.Server()
    with pytest.raises(TypeError, match="ping_timeout must"):
        io.tune(ping_timeout="20")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(TypeError, match="path cannot be changed"):
        io.tune(path="/x")  # type: ignore[call-arg]  # that is the test
    assert io.options == socketio.Options()


def test_handlers_must_be_functions() -> None:
    io = socketio.Server()
    wrong: Any = "not a function"
    registers: list[Callable[[Any], object]] = [
        *(
            io.use,
            io.use_event,
            io.use_connection,
            io.on_any,
            io.on_unhandled,
            io.on_error,
            io.of("/a").use,
        ),
        lambda handler: io.on("x", handler),
        io.on("connect"),
    ]
    for register in registers:
        with pytest.raises(TypeError, match="is not a function"):
            register(wrong)
    with pytest.raises(TypeError, match="is not a function"):
        io.of(7)  # type: ignore[call-overload]  # that is the test
    handlers: list[Any] = [wrong, lambda: None]
    for handler in handlers:
        with pytest.raises(TypeError, match="handler must be a function of one argument"):
            engineio.Server(handler)
