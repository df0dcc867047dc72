"""Reads the configuration: a file, and the command line's flags over it, to ``Settings``.

Every fault is told with its place, not the first alone: each value is judged by itself, and the
rules across keys by what is sound.
"""

from __future__ import annotations

import codecs
import difflib
import functools
import itertools
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec
from msgspec import Struct, inspect

from chatd.keys import (
    CREDENTIAL,
    ENVELOPE_BYTES,
    Admin,
    Auth,
    Chat,
    Drain,
    EngineIo,
    History,
    Http,
    Limits,
    Listen,
    Log,
    Metrics,
    Settings,
    Tls,
    WebSocket,
)
from chatd.places import KeyPath, Place, locate, position

__all__ = [
    "Admin",
    "Auth",
    "Chat",
    "Drain",
    "EngineIo",
    "Fault",
    "History",
    "Http",
    "Key",
    "Limits",
    "Listen",
    "Log",
    "Metrics",
    "Rule",
    "SecretError",
    "Section",
    "Settings",
    "SettingsError",
    "Tls",
    "WebSocket",
    "admin_socket",
    "changed",
    "credentials",
    "expects",
    "history_path",
    "load",
    "merged",
    "runtime_folder",
    "secret_file",
    "sections",
]

# A configuration is some KiB; more is the wrong file, or one without end such as /dev/zero.
_FILE_BYTES: Final = 1 << 20


class Fault(Struct, frozen=True):
    """A fault of the configuration.

    ``origin`` is the file or the flag. ``line`` and ``column`` count from 1, in characters; both
    are 0 where there is no line to show: for a flag, and a file that cannot be read.
    """

    line: int
    column: int
    message: str
    source_line: str
    origin: str


class SettingsError(Exception):
    """The configuration cannot be used; ``faults`` are all that was found, at least one."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in self.faults))


class SecretError(Exception):
    """A credential cannot be told where systemd gave none; the message is one line."""


class Rule(NamedTuple):
    """A rule across keys that does not hold: what it involves, the first to be pointed at."""

    keys: Sequence[tuple[str, str]]
    message: str
    element: tuple[int, ...] = ()


class Key(NamedTuple):
    """A key of a section: its type, as written and as msgspec sees it, and what it does.

    ``restart``: a change counts from the next start on, not with a reload.
    """

    annotation: Any
    kind: inspect.Type
    default: Any
    description: str
    restart: bool


class Section(NamedTuple):
    """A section, what it is about, and its keys."""

    description: str
    keys: Mapping[str, Key]


def load(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    listen: Sequence[str] = (),
    checks: Sequence[Callable[[Settings], Iterable[Rule]]] = (),
) -> Settings:
    """Read ``path`` (None: no file), then ``SECTION.KEY=VALUE`` flags, then ``--listen`` flags.

    ``checks`` look at what the keys name, such as files, and tell what is wrong with it. Raises
    SettingsError.
    """
    reading = _Reading()
    if path is not None:
        reading.file(path)
    for override in overrides:
        reading.override(override)
    if listen:
        reading.listen(listen)
    return reading.settings(checks)


def history_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Tell the file of the sqlite store. Raises SettingsError where no folder can be told."""
    if settings.history.path != "auto":
        return Path(settings.history.path)
    # systemd gives several folders with colons between: systemd.exec(5).
    if state := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(state) / "chatd.db"
    # A relative one is to be ignored: XDG Base Directory Specification.
    if (state := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return Path(state) / "chatd" / "chatd.db"
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError:  # a user without a home
        message = "there is no folder for the history: set history.path"
        raise SettingsError([Fault(0, 0, message, "", "history.path")]) from None
    return home / ".local" / "state" / "chatd" / "chatd.db"


def runtime_folder(environ: Mapping[str, str]) -> Path | None:
    """Tell a folder that does not outlive this boot of the machine; None where there is none."""
    if runtime := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(runtime)
    if (runtime := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(runtime) / "chatd"
    shared = Path("/dev/shm")  # noqa: S108  a tmpfs on every Linux; the folder is ours alone
    return shared / f"chatd-{os.getuid()}" if shared.is_dir() else None


def secret_file(name: str, environ: Mapping[str, str]) -> Path:
    """Tell the file of a key's secret: a path, or a credential of systemd's.

    Raises SecretError where there are no credentials.
    """
    if not name.startswith(CREDENTIAL):
        return Path(name)
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise SecretError(f"{name}: systemd gave no credentials; see LoadCredential= of the unit")
    return Path(folder) / name.removeprefix(CREDENTIAL)


def admin_socket(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Tell where the daemon is controlled; None where it is not: "off", or no folder for it."""
    if settings.admin.socket not in ("auto", "off"):
        return Path(settings.admin.socket)
    if settings.admin.socket == "off":
        return None
    if runtime := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(runtime) / "admin.sock"
    if (runtime := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(runtime) / "chatd" / "admin.sock"
    return None


def changed(before: Settings, after: Settings) -> tuple[list[str], list[str]]:
    """Name the keys that differ: those that a reload changes, and those that need a restart."""
    live: list[str] = []
    restart: list[str] = []
    for section, about in sections().items():
        for name, key in about.keys.items():
            values = [getattr(getattr(settings, section), name) for settings in (before, after)]
            if values[0] != values[1]:
                (restart if key.restart else live).append(f"{section}.{name}")
    return live, restart


def credentials(settings: Settings) -> list[str]:
    """Name the keys that name a credential: systemd hands those over at a start, and not again."""
    found: list[str] = []
    for section, about in sections().items():
        for name in about.keys:
            value = getattr(getattr(settings, section), name)
            named = value if isinstance(value, tuple) else (value,)
            if any(isinstance(one, str) and one.startswith(CREDENTIAL) for one in named):
                found.append(f"{section}.{name}")
    return found


def merged(before: Settings, after: Settings) -> Settings:
    """Give ``after``, but what needs a restart as it was ``before``."""
    kept: dict[str, Struct] = {}
    for section, about in sections().items():
        values = getattr(before, section)
        stays = {name: getattr(values, name) for name, key in about.keys.items() if key.restart}
        kept[section] = msgspec.structs.replace(getattr(after, section), **stays)
    return msgspec.structs.replace(after, **kept)


@functools.cache
def sections() -> Mapping[str, Section]:
    """Give every section and key, in the order in which they are printed."""
    defaults = Settings()
    return {
        name: Section(_described(annotation)[1], _keys(getattr(defaults, name)))
        for name, annotation in get_type_hints(Settings, include_extras=True).items()
    }


def _keys(defaults: Struct) -> dict[str, Key]:
    hints = get_type_hints(type(defaults), include_extras=True)
    return {
        name: Key(annotation, kind, getattr(defaults, name), description, "restart" in _extra(kind))
        for name, annotation in hints.items()
        for kind, description in [_described(annotation)]
    }


def _described(annotation: Any) -> tuple[inspect.Type, str]:  # a type form
    told = inspect.type_info(annotation)
    assert isinstance(told, inspect.Metadata)  # noqa: S101  # each key is explained: a test reads all
    schema = told.extra_json_schema or {}
    outer = {name: schema[name] for name in schema if name != "description"}
    kind = msgspec.structs.replace(told, extra_json_schema=outer or None)
    return kind, schema["description"]


def expects(kind: inspect.Type) -> str:
    """Say in words what a key of this type takes."""
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=schema):
            return str(schema["title"]) if schema else expects(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low:_} to {high:_}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number from {low:g} to {high:_g}"
        case inspect.LiteralType(values=values):
            return _choice([f'"{value}"' for value in values])
        case inspect.UnionType(types=kinds):
            return _choice([expects(kind) for kind in kinds])
        case inspect.VarTupleType(item_type=item, min_length=least):
            return f"a list of {'one or more of ' if least else ''}{expects(item)}"
        case _:
            raise TypeError(f"no words for {kind}")  # a key of a new type: every test fails


def _choice(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


class _Source(NamedTuple):
    """A text with keys in it, the file's or a flag's."""

    origin: str
    text: str = ""
    places: Mapping[KeyPath, Place] = {}

    def fault(self, message: str, path: KeyPath = (), *, at_key: bool = False) -> Fault:
        place = self.places.get(path)
        if place is None:
            return Fault(0, 0, message, "", self.origin)
        return self.fault_at(message, place.key if at_key else place.value)

    def fault_at(self, message: str, offset: int) -> Fault:
        line, column = position(self.text, offset)
        return Fault(line, column, message, self.text.split("\n")[line - 1], self.origin)


class _Reading:
    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._values: dict[str, dict[str, Any]] = {name: {} for name in sections()}
        self._sources: dict[tuple[str, str], _Source] = {}
        self._wrong: set[tuple[str, str]] = set()

    def file(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                data = stream.read(_FILE_BYTES + 1)
        except FileNotFoundError:
            self._faults.append(_Source(str(path)).fault("there is no such file"))
        except IsADirectoryError:
            self._faults.append(_Source(str(path)).fault("this is a folder, not a file"))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self._faults.append(_Source(str(path)).fault(f"it cannot be read: {reason}"))
        else:
            parsed = _parse(str(path), data)
            if isinstance(parsed, Fault):
                self._faults.append(parsed)
            else:
                self._tree(*parsed)

    def override(self, text: str) -> None:
        source = _Source(f"--set {text}")
        name, equals, raw = (part.strip() for part in text.partition("="))
        section, dot, key = name.partition(".")
        try:
            text.encode()  # the shell's bytes that are no UTF-8 come as lone surrogates
            value = _flag_value(raw)
        except UnicodeEncodeError:
            self._faults.append(source.fault("this is not UTF-8"))
        except (ValueError, RecursionError):
            self._faults.append(source.fault(f"{name}: this is not a TOML value"))
        else:
            if equals and dot:
                self._tree(source, {section: {key: value}})
            else:
                hint = _elsewhere(name)
                self._faults.append(source.fault(f"expected SECTION.KEY=VALUE{hint}"))

    def listen(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            self._key(_Source(f"--listen {address}"), "listen", "addresses", [address])
        self._values["listen"]["addresses"] = list(addresses)

    def settings(self, checks: Sequence[Callable[[Settings], Iterable[Rule]]]) -> Settings:
        for section, name in self._wrong:
            del self._values[section][name]
        settings = msgspec.convert(self._values, Settings)
        for rule in itertools.chain(
            _broken_rules(settings), *(check(settings) for check in checks)
        ):
            if self._wrong.isdisjoint(rule.keys):
                key = next(key for key in rule.keys if key in self._sources)
                fault = self._sources[key].fault(rule.message, (*key, *rule.element))
                self._faults.append(fault)
        if self._faults:
            # The file's first, by place; flags have no lines and keep their order.
            raise SettingsError(sorted(self._faults, key=lambda f: (not f.line, f.line, f.column)))
        return settings

    def _tree(self, source: _Source, tree: Mapping[str, Any]) -> None:
        for section, table in tree.items():
            if section in sections():
                if isinstance(table, dict):
                    for name, value in table.items():
                        self._key(source, section, name, value)
                else:
                    message = f"{section} is a section: write [{section}], and its keys below"
                    self._faults.append(source.fault(message, (section,), at_key=True))
            elif isinstance(table, dict):
                hint = _meant(section, sections())
                message = f'unknown section "{section}"{hint}'
                self._faults.append(source.fault(message, (section,), at_key=True))
            else:
                message = f'unknown key "{section}", outside of any section{_elsewhere(section)}'
                self._faults.append(source.fault(message, (section,), at_key=True))

    def _key(self, source: _Source, section: str, name: str, value: Any) -> None:  # TOML's
        key = sections()[section].keys.get(name)
        if key is None:
            hint = _meant(name, sections()[section].keys) or _elsewhere(name)
            message = f'unknown key "{name}" in [{section}]{hint}'
            self._faults.append(source.fault(message, (section, name), at_key=True))
            return
        path = (section, name)
        self._sources[path] = source
        self._values[section][name] = value
        self._wrong.discard(path)
        for inner, what in _wrong(key, value):
            self._wrong.add(path)
            self._faults.append(source.fault(f"{section}.{name}: {what}", (*path, *inner)))


def _parse(origin: str, data: bytes) -> tuple[_Source, dict[str, Any]] | Fault:
    if len(data) > _FILE_BYTES:
        return _Source(origin).fault(f"this is no configuration: it has over {_FILE_BYTES} bytes")
    data = data.removeprefix(codecs.BOM_UTF8)
    # As tomllib does, so that its places are ours.
    text = data.decode(errors="replace").replace("\r\n", "\n")
    source = _Source(origin, text)
    try:
        data.decode()
        tree = tomllib.loads(text)
        return source._replace(places=locate(text)), tree
    except UnicodeDecodeError as error:
        before = data[: error.start].decode().replace("\r\n", "\n")
        return source.fault_at("this is not UTF-8", len(before))
    except tomllib.TOMLDecodeError as error:
        return _syntax_fault(source, str(error))
    except RecursionError:
        return source.fault("this is no configuration: it is nested too deep")
    except ValueError:  # Python's bound on the digits of an integer
        digits = re.search(r"[0-9][0-9_]{4000}", text)
        return source.fault_at("so large a number cannot be read", digits.start() if digits else 0)


def _syntax_fault(source: _Source, message: str) -> Fault:
    what, _, where = message.rpartition(" (at ")
    what = f"TOML: {what[:1].lower()}{what[1:]}"
    if place := re.fullmatch(r"line (\d+), column (\d+)\)", where):
        line, column = int(place[1]), int(place[2])
        return Fault(line, column, what, source.text.split("\n")[line - 1], source.origin)
    return source.fault_at(f"{what}, at the end of the file", len(source.text.rstrip()))


def _flag_value(raw: str) -> Any:  # TOML's
    try:
        tree = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        if raw.startswith(('"', "'", "[", "{")):
            raise
        return raw
    return tree["value"] if len(tree) == 1 else raw


def _wrong(key: Key, value: Any) -> Iterator[tuple[KeyPath, str]]:  # TOML's
    kind = key.kind
    assert isinstance(kind, inspect.Metadata)  # noqa: S101  # _described made it
    if isinstance(kind.type, inspect.VarTupleType) and isinstance(value, list) and value:
        item = kind.type.item_type
        for index, element in enumerate(value):
            if not _takes(key.annotation, item, [element], element):
                yield (index,), _unfit(item, element)
    elif not _takes(key.annotation, kind, value, value):
        yield (), _unfit(kind, value)


def _takes(annotation: Any, kind: inspect.Type, whole: Any, value: Any) -> bool:  # TOML's
    try:
        msgspec.convert(whole, annotation)
    except msgspec.ValidationError:
        return False
    check = _extra(kind).get("check")
    return check is None or bool(check(value))


def _unfit(kind: inspect.Type, value: Any) -> str:  # TOML's
    hint = _meant(value.lower(), _words(kind)) if isinstance(value, str) else ""
    return f"expected {expects(kind)}, not {_shown(value)}{hint}"


def _shown(value: Any) -> str:  # TOML's
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:
            return "so large a number"
        case int() | float():
            return str(value)
        case str():
            return json.dumps(value if len(value) <= 60 else value[:59] + "…", ensure_ascii=False)
        case []:
            return "an empty one"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or a time"


def _extra(kind: inspect.Type) -> Mapping[str, Any]:
    return (kind.extra or {}) if isinstance(kind, inspect.Metadata) else {}


def _words(kind: inspect.Type) -> Iterable[str]:
    match kind:
        case inspect.Metadata(type=inner):
            return _extra(kind).get("words") or _words(inner)
        case inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case inspect.UnionType(types=kinds):
            return [word for kind in kinds for word in _words(kind)]
        case _:
            return ()


def _meant(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _elsewhere(name: str) -> str:
    whole = {f"{section}.{key}" for section, about in sections().items() for key in about.keys}
    last = {full.partition(".")[2]: full for full in sorted(whole)}
    near = difflib.get_close_matches(name, [*sorted(whole), *last], 1)
    return f'; did you mean "{last.get(near[0], near[0])}"?' if near else ""


def _broken_rules(settings: Settings) -> Iterator[Rule]:
    limits, websocket = settings.limits, settings.websocket
    if limits.send_queue_bytes < settings.message_wire_bytes:
        yield Rule(
            [("limits", "send_queue_bytes"), ("limits", "message_bytes")],
            f"limits.send_queue_bytes ({limits.send_queue_bytes}) must hold a message: one of "
            f"limits.message_bytes ({limits.message_bytes}) may take {settings.message_wire_bytes}",
        )
    least = limits.message_bytes + ENVELOPE_BYTES
    if settings.max_message_bytes < least:
        yield Rule(
            [("websocket", "max_message_bytes"), ("limits", "message_bytes")],
            f"websocket.max_message_bytes ({settings.max_message_bytes}) must let a message in: "
            f"limits.message_bytes ({limits.message_bytes}) and what stands around it take {least}",
        )
    if websocket.ping_timeout_seconds > websocket.ping_interval_seconds:
        yield Rule(
            [("websocket", "ping_timeout_seconds"), ("websocket", "ping_interval_seconds")],
            f"websocket.ping_timeout_seconds ({websocket.ping_timeout_seconds:g}) must not be more "
            f"than websocket.ping_interval_seconds ({websocket.ping_interval_seconds:g})",
        )
    if settings.auth.mode == "token" and not settings.auth.key_files:
        yield Rule(
            [("auth", "mode"), ("auth", "key_files")],
            'auth.key_files must name a key where auth.mode is "token": `chatd token --new-key` '
            "makes one",
        )
    tls = settings.tls
    if (tls.certificate_file == "off") != (tls.key_file == "off"):
        given, absent = ("certificate_file", "key_file")
        if tls.certificate_file == "off":
            given, absent = absent, given
        yield Rule(
            [("tls", given), ("tls", absent)],
            f"tls.{absent} must be given beside tls.{given}: one is of no use alone",
        )
    addresses = settings.listen.addresses
    for index, address in enumerate(addresses):
        if address in addresses[:index] and not address.endswith(":0"):
            message = f'listen.addresses: "{address}" stands there twice'
            yield Rule([("listen", "addresses")], message, (index,))
    for key, taken in (
        (("metrics", "listen"), settings.metrics.listen),
        (("admin", "socket"), f"unix:{settings.admin.socket}"),
    ):
        if taken in addresses and not taken.endswith(":0"):
            message = f"{'.'.join(key)} must not be one of listen.addresses, where clients come in"
            yield Rule([key, ("listen", "addresses")], message)
