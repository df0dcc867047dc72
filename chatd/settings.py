"""Reads the configuration, a file and the command line's flags, into ``Settings``.

All faults are reported, each with its location: every value is checked by itself, and the rules
across keys where the values involved are valid.
"""

from __future__ import annotations

import codecs
import difflib
import functools
import itertools
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, get_type_hints

import msgspec
from msgspec import Struct, inspect

from chatd.keys import (
    CREDENTIAL,
    ENVELOPE_BYTES,
    RESTART,
    Admin,
    Auth,
    Chat,
    Cluster,
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
from chatd.toml_locations import KeyPath, Location, line_and_column, locate

__all__ = [
    "Admin",
    "Auth",
    "Chat",
    "Cluster",
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
    "Warn",
    "WebSocket",
    "admin_socket",
    "changed",
    "credentials",
    "expects",
    "exposed",
    "history_path",
    "keys",
    "load",
    "merged",
    "runtime_folder",
    "secret_file",
    "sections",
    "value_of",
    "wrong_values",
]

# A configuration is some KiB; more is the wrong file, or one without end such as /dev/zero.
_FILE_BYTES: Final = 1 << 20


class Fault(Struct, frozen=True):
    """A fault of the configuration.

    ``origin`` is the file or the flag. ``line`` and ``column`` count from 1, in characters; both
    are 0 if there is no line to show: for a flag, and for a file that cannot be read.
    """

    line: int
    column: int
    message: str
    source_line: str
    origin: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.origin}{place}: {self.message}"


class SettingsError(Exception):
    """The configuration is not valid. ``faults`` are all that was found, at least one."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(" ".join(fault.message for fault in self.faults))


class SecretError(Exception):
    """A credential cannot be found because systemd gave none. The message is one line."""


class Rule(NamedTuple):
    """A rule across keys, or about what a key names, that is broken.

    ``keys`` are the full names of the keys involved; the error is shown at the first that is set,
    at ``element`` of its array if given. A ``warning`` does not keep the settings from being used.
    """

    keys: Sequence[str]
    message: str
    element: int | None = None
    warning: bool = False


class Key(NamedTuple):
    """A key: its type, as annotated and as msgspec sees it, and its description.

    ``restart``: a change takes effect at the next start, not on a reload.
    """

    annotation: Any
    kind: inspect.Type
    description: str
    restart: bool


class Section(NamedTuple):
    """A section: its description, and its keys by name."""

    description: str
    keys: Mapping[str, Key]


Warn: TypeAlias = Callable[[str, Fault], object]


def _ignore(key: str, fault: Fault) -> None:
    pass


def load(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    listen: Sequence[str] = (),
    checks: Sequence[Callable[[Settings], Iterable[Rule]]] = (),
    warn: Warn = _ignore,
) -> Settings:
    """Read ``path`` (None: no file), then ``SECTION.KEY=VALUE`` flags, then ``--listen`` flags.

    ``checks`` examine what the keys name, such as files, and yield what is wrong. ``warn`` is
    called with each warning and the full name of its key, if there are no errors.

    Raises:
        SettingsError: The configuration has faults.
    """
    reading = _Reading()
    if path is not None:
        reading.file(path)
    for override in overrides:
        reading.override(override)
    if listen:
        reading.listen(listen)
    return reading.settings(checks, warn)


def history_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the file of the sqlite store.

    Raises:
        SettingsError: ``history.path`` is "auto", and no folder can be determined.
    """
    if settings.history.path != "auto":
        return Path(settings.history.path)
    if state := _systemd_folder(environ, "STATE_DIRECTORY"):
        return state / "chatd.db"
    # A relative path must be ignored: XDG Base Directory Specification.
    if (state_home := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return Path(state_home) / "chatd" / "chatd.db"
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError:  # a user without a home
        message = "There is no home directory to store the history in. Set history.path."
        raise SettingsError([Fault(0, 0, message, "", "history.path")]) from None
    return home / ".local" / "state" / "chatd" / "chatd.db"


def runtime_folder(environ: Mapping[str, str]) -> Path | None:
    """Return a folder that is emptied when the machine boots, or None if there is none."""
    if runtime := _systemd_folder(environ, "RUNTIME_DIRECTORY"):
        return runtime
    if (runtime_home := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(runtime_home) / "chatd"
    shared = Path("/dev/shm")  # noqa: S108  a tmpfs on every Linux; the folder is ours alone
    return shared / f"chatd-{os.getuid()}" if shared.is_dir() else None


def admin_socket(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return the path of the admin socket, or None if it is "off" or there is no folder for it."""
    if settings.admin.socket not in ("auto", "off"):
        return Path(settings.admin.socket)
    if settings.admin.socket == "off":
        return None
    if runtime := _systemd_folder(environ, "RUNTIME_DIRECTORY"):
        return runtime / "admin.sock"
    if (runtime_home := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(runtime_home) / "chatd" / "admin.sock"
    return None


def _systemd_folder(environ: Mapping[str, str], variable: str) -> Path | None:
    # systemd gives several folders with colons between them: systemd.exec(5).
    first = environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None


def secret_file(name: str, environ: Mapping[str, str]) -> Path:
    """Return the file that a key names: a path, or a credential from systemd.

    Raises:
        SecretError: ``name`` is a credential, and systemd gave none.
    """
    if not name.startswith(CREDENTIAL):
        return Path(name)
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise SecretError(
            f"{name} is not available: systemd gave no credentials. "
            "Add LoadCredential= to the unit."
        )
    return Path(folder) / name.removeprefix(CREDENTIAL)


def exposed(path: Path) -> str | None:
    """Return who else can read a file that holds a secret, as a sentence; None if nobody can.

    A group may, unless it is this process's own: the service reads files of root by its group.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    others = stat.S_IROTH | stat.S_IWOTH
    if (status.st_uid, status.st_gid) == (os.getuid(), os.getgid()):
        others |= stat.S_IRGRP | stat.S_IWGRP
    if not status.st_mode & others:
        return None
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    who = "go" if status.st_mode & others & stat.S_IRWXG else "o"
    return f"Other users can read {path}, which has mode {mode}. Run `chmod {who}= {path}`."


def changed(before: Settings, after: Settings) -> tuple[list[str], list[str]]:
    """Return the keys that differ: those that a reload changes, and those that need a restart."""
    differing = [name for name in keys() if value_of(before, name) != value_of(after, name)]
    live = [name for name in differing if not keys()[name].restart]
    return live, [name for name in differing if keys()[name].restart]


def credentials(settings: Settings) -> list[str]:
    """Return the keys that name a credential, which systemd reads only when the unit starts."""
    return [
        name
        for name in keys()
        if any(each.startswith(CREDENTIAL) for each in _texts(value_of(settings, name)))
    ]


def _texts(value: Any) -> list[str]:  # a key's
    values = value if isinstance(value, tuple) else (value,)
    return [each for each in values if isinstance(each, str)]


def merged(before: Settings, after: Settings) -> Settings:
    """Return ``after`` with the keys that need a restart as they are in ``before``."""
    kept = {}
    for name, section in sections().items():
        values = getattr(before, name)
        stays = {key: getattr(values, key) for key in section.keys if section.keys[key].restart}
        kept[name] = msgspec.structs.replace(getattr(after, name), **stays)
    return msgspec.structs.replace(after, **kept)


def value_of(settings: Settings, name: str) -> Any:
    """Return the value of a key, by its full name."""
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


@functools.cache
def keys() -> Mapping[str, Key]:
    """Return every key by its full name, ``section.key``, in the order of the documentation."""
    return {
        f"{name}.{key}": section.keys[key]
        for name, section in sections().items()
        for key in section.keys
    }


@functools.cache
def sections() -> Mapping[str, Section]:
    """Return every section by its name, in the order of the documentation."""
    hints = get_type_hints(Settings, include_extras=True)
    return {
        name: Section(annotation.__metadata__[0], _keys(annotation.__origin__))
        for name, annotation in hints.items()
    }


def wrong_values(settings: Settings) -> Iterator[str]:
    """Yield what is wrong with settings that a program made: Python does not check its values."""
    for name, key in keys().items():
        try:
            value = value_of(settings, name)
        except AttributeError:
            section = name.partition(".")[0]
            yield f"{section} is not a section of chatd.settings."
            return
        for _, what in _invalid(key, list(value) if isinstance(value, tuple) else value):
            yield f"{name}: {what}"
    for rule in _broken_rules(settings):
        yield rule.message


def _keys(section: type[Struct]) -> dict[str, Key]:
    hints = get_type_hints(section, include_extras=True)
    found = {}
    for name, annotation in hints.items():
        description = next(each for each in annotation.__metadata__ if isinstance(each, str))
        restart = RESTART in annotation.__metadata__
        found[name] = Key(annotation, inspect.type_info(annotation), description, restart)
    return found


def expects(kind: inspect.Type) -> str:
    """Return what a key of this type takes, in words."""
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
    """A text with keys in it: the file's, or a flag's."""

    origin: str
    text: str = ""
    locations: Mapping[KeyPath, Location] = {}

    def fault(self, message: str, path: KeyPath = (), *, at_key: bool = False) -> Fault:
        """Return an error at a key, or at its value; in an inline table, at the table's."""
        while path and path not in self.locations:
            path = path[:-1]
        if not path:
            return Fault(0, 0, message, "", self.origin)
        location = self.locations[path]
        return self.fault_at(message, location.key if at_key else location.value)

    def fault_at(self, message: str, offset: int) -> Fault:
        line, column = line_and_column(self.text, offset)
        return Fault(line, column, message, self.text.split("\n")[line - 1], self.origin)


class _Reading:
    """Collects values and faults from each source; values by their keys' full names."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._values: dict[str, Any] = {}
        self._sources: dict[str, _Source] = {}
        self._invalid: set[str] = set()

    def file(self, path: Path) -> None:
        source = _Source(str(path))
        try:
            with path.open("rb") as stream:
                data = stream.read(_FILE_BYTES + 1)
        except FileNotFoundError:
            self._faults.append(source.fault("The file does not exist."))
        except IsADirectoryError:
            self._faults.append(source.fault("This is a folder, not a file."))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self._faults.append(source.fault(f"The file cannot be read: {reason}."))
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
            text.encode()  # the shell's bytes that are not UTF-8 come as lone surrogates
            value = _flag_value(raw)
        except UnicodeEncodeError:
            self._faults.append(source.fault("This is not UTF-8."))
        except (ValueError, RecursionError):
            self._faults.append(source.fault(f"{name}: This is not a TOML value."))
        else:
            if equals and dot:
                self._tree(source, {section: {key: value}})
            else:
                message = f"Expected SECTION.KEY=VALUE.{_did_you_mean_key(name)}"
                self._faults.append(source.fault(message))

    def listen(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            self._key(_Source(f"--listen {address}"), "listen", "addresses", [address])
        self._values["listen.addresses"] = list(addresses)

    def settings(
        self, checks: Sequence[Callable[[Settings], Iterable[Rule]]], warn: Warn
    ) -> Settings:
        valid: dict[str, dict[str, Any]] = {name: {} for name in sections()}
        for name in self._values.keys() - self._invalid:
            section, _, key = name.partition(".")
            valid[section][key] = self._values[name]
        settings = msgspec.convert(valid, Settings)
        warnings: list[tuple[str, Fault]] = []
        for rule in itertools.chain(
            _broken_rules(settings), *(check(settings) for check in checks)
        ):
            if self._invalid.isdisjoint(rule.keys):
                name = next((name for name in rule.keys if name in self._sources), rule.keys[0])
                source = self._sources.get(name, _Source(name))  # a default has no place
                element = () if rule.element is None else (rule.element,)
                fault = source.fault(rule.message, (*name.split("."), *element))
                if rule.warning:
                    warnings.append((name, fault))
                else:
                    self._faults.append(fault)
        if self._faults:
            # The file's first, by line; flags have no lines and keep their order.
            raise SettingsError(sorted(self._faults, key=lambda f: (not f.line, f.line, f.column)))
        for name, fault in warnings:
            warn(name, fault)
        return settings

    def _tree(self, source: _Source, tree: Mapping[str, Any]) -> None:
        for section, table in tree.items():
            if section in sections():
                if isinstance(table, dict):
                    for name, value in table.items():
                        self._key(source, section, name, value)
                    continue
                message = f"{section} is a section. Write [{section}] with its keys below."
            elif isinstance(table, dict):
                message = f'Unknown section "{section}".{_did_you_mean(section, sections())}'
            else:
                hint = _did_you_mean_key(section)
                message = f'Unknown key "{section}" outside of any section.{hint}'
            self._faults.append(source.fault(message, (section,), at_key=True))

    def _key(self, source: _Source, section: str, name: str, value: Any) -> None:  # TOML's
        key = sections()[section].keys.get(name)
        if key is None:
            hint = _did_you_mean(name, sections()[section].keys) or _did_you_mean_key(name)
            message = f'Unknown key "{name}" in [{section}].{hint}'
            self._faults.append(source.fault(message, (section, name), at_key=True))
            return
        full_name = f"{section}.{name}"
        self._sources[full_name] = source
        self._values[full_name] = value
        self._invalid.discard(full_name)
        for index, what in _invalid(key, value):
            self._invalid.add(full_name)
            fault = source.fault(f"{full_name}: {what}", (section, name, *index))
            self._faults.append(fault)


def _parse(origin: str, data: bytes) -> tuple[_Source, dict[str, Any]] | Fault:
    if len(data) > _FILE_BYTES:
        message = f"This is not a configuration: it has more than {_FILE_BYTES} bytes."
        return _Source(origin).fault(message)
    data = data.removeprefix(codecs.BOM_UTF8)
    # As tomllib does, so that its lines and columns are ours.
    text = data.decode(errors="replace").replace("\r\n", "\n")
    source = _Source(origin, text)
    try:
        data.decode()
        tree = tomllib.loads(text)
        return source._replace(locations=locate(text)), tree
    except UnicodeDecodeError as error:
        before = data[: error.start].decode().replace("\r\n", "\n")
        return source.fault_at("This is not UTF-8.", len(before))
    except tomllib.TOMLDecodeError as error:
        return _syntax_fault(source, str(error))
    except RecursionError:
        return source.fault("This is not a configuration: it is nested too deeply.")
    except ValueError:  # Python's limit on the digits of an integer
        digits = re.search(r"[0-9][0-9_]{4000}", text)
        return source.fault_at("This number is too large.", digits.start() if digits else 0)


def _syntax_fault(source: _Source, message: str) -> Fault:
    what, _, where = message.rpartition(" (at ")
    if place := re.fullmatch(r"line (\d+), column (\d+)\)", where):
        line, column = int(place[1]), int(place[2])
        source_line = source.text.split("\n")[line - 1]
        return Fault(line, column, f"Invalid TOML: {what}.", source_line, source.origin)
    end = len(source.text.rstrip())
    return source.fault_at(f"Invalid TOML: {what}, at the end of the file.", end)


def _flag_value(raw: str) -> Any:  # TOML's
    try:
        tree = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        if raw.startswith(('"', "'", "[", "{")):
            raise
        return raw
    return tree["value"] if len(tree) == 1 else raw


def _invalid(key: Key, value: Any) -> Iterator[tuple[tuple[int, ...], str]]:  # TOML's
    """Yield what is wrong with a value, or with an array's elements, and where."""
    kind = key.kind.type if isinstance(key.kind, inspect.Metadata) else key.kind
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list) and value:
        item = kind.item_type
        for index, element in enumerate(value):
            if not _accepts(key.annotation, item, [element], element):
                yield (index,), _expected(item, element)
    elif not _accepts(key.annotation, key.kind, value, value):
        yield (), _expected(key.kind, value)


def _accepts(annotation: Any, kind: inspect.Type, whole: Any, value: Any) -> bool:  # TOML's
    try:
        msgspec.convert(whole, annotation)
    except msgspec.ValidationError:
        return False
    check = _extra(kind).get("check")
    return check is None or bool(check(value))


def _expected(kind: inspect.Type, value: Any) -> str:  # TOML's
    hint = _did_you_mean(value.lower(), _words(kind)) if isinstance(value, str) else ""
    return f"Expected {expects(kind)}, not {_printed(value)}.{hint}"


def _printed(value: Any) -> str:  # TOML's
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:
            return "a number this large"
        case int() | float():
            return str(value)
        case str():
            return json.dumps(value if len(value) <= 60 else value[:59] + "…", ensure_ascii=False)
        case []:
            return "an empty list"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


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


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f' Did you mean "{near[0]}"?' if near else ""


def _did_you_mean_key(name: str) -> str:
    """Suggest a key of any section, whether its name was given with its section or without."""
    by_last = {full.partition(".")[2]: full for full in sorted(keys())}
    near = difflib.get_close_matches(name, [*sorted(keys()), *by_last], 1)
    return f' Did you mean "{by_last.get(near[0], near[0])}"?' if near else ""


def _broken_rules(settings: Settings) -> Iterator[Rule]:
    limits, websocket, tls = settings.limits, settings.websocket, settings.tls
    if limits.send_queue_bytes < settings.message_wire_bytes:
        yield Rule(
            ["limits.send_queue_bytes", "limits.message_bytes"],
            f"limits.send_queue_bytes ({limits.send_queue_bytes}) must be at least "
            f"{settings.message_wire_bytes}, to hold a message of limits.message_bytes "
            f"({limits.message_bytes}).",
        )
    least = limits.message_bytes + ENVELOPE_BYTES
    if settings.max_message_bytes < least:
        yield Rule(
            ["websocket.max_message_bytes", "limits.message_bytes"],
            f"websocket.max_message_bytes ({settings.max_message_bytes}) must be at least {least}, "
            f"to accept a message of limits.message_bytes ({limits.message_bytes}).",
        )
    if websocket.ping_timeout_seconds > websocket.ping_interval_seconds:
        yield Rule(
            ["websocket.ping_timeout_seconds", "websocket.ping_interval_seconds"],
            f"websocket.ping_timeout_seconds ({websocket.ping_timeout_seconds:g}) must not exceed "
            f"websocket.ping_interval_seconds ({websocket.ping_interval_seconds:g}).",
        )
    auth = settings.auth
    if auth.mode == "token" and not auth.key_files and auth.jwks_url == "off":
        yield Rule(
            ["auth.mode", "auth.key_files"],
            'auth.key_files or auth.jwks_url must be set if auth.mode is "token". '
            "`chatd token --new-key` makes a key.",
        )
    if (tls.certificate_file == "off") != (tls.key_file == "off"):
        given, absent = "tls.certificate_file", "tls.key_file"
        if tls.certificate_file == "off":
            given, absent = absent, given
        yield Rule([given, absent], f"{absent} must be set too if {given} is set.")
    addresses = settings.listen.addresses
    for index, address in enumerate(addresses):
        if address in addresses[:index] and not address.endswith(":0"):
            message = f'listen.addresses must not contain "{address}" twice.'
            yield Rule(["listen.addresses"], message, index)
    for key, taken in (
        ("metrics.listen", settings.metrics.listen),
        ("admin.socket", f"unix:{settings.admin.socket}"),
    ):
        if taken in addresses and not taken.endswith(":0"):
            message = f"{key} must not be one of listen.addresses, which are for clients."
            yield Rule([key, "listen.addresses"], message)
