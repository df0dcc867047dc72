"""Reads the configuration, a file and the command line's flags, into ``Settings``.

All faults are reported, each with its location: every value is checked by itself, and the rules
across keys where the values involved are valid.
"""

from __future__ import annotations

import codecs
import itertools
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from chatd.key_values import did_you_mean, did_you_mean_key, invalid, keys, sections, value_of
from chatd.keys import (
    CREDENTIAL,
    ENVELOPE_BYTES,
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
    "Limits",
    "Listen",
    "Log",
    "Metrics",
    "Rule",
    "Settings",
    "SettingsError",
    "Tls",
    "Warn",
    "WebSocket",
    "changed",
    "credentials",
    "load",
    "merged",
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


class Rule(NamedTuple):
    """A rule across keys, or about what a key names, that is broken.

    ``keys`` are the full names of the keys involved; the error is shown at the first that is set,
    at ``element`` of its array if given. A ``warning`` does not keep the settings from being used.
    """

    keys: Sequence[str]
    message: str
    element: int | None = None
    warning: bool = False


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


def wrong_values(settings: Settings) -> Iterator[str]:
    """Yield what is wrong with settings that a program made: Python does not check its values."""
    for name, key in keys().items():
        try:
            value = value_of(settings, name)
        except AttributeError:
            section = name.partition(".")[0]
            yield f"{section} is not a section of chatd.settings."
            return
        for _, what in invalid(key, list(value) if isinstance(value, tuple) else value):
            yield f"{name}: {what}"
    for rule in _broken_rules(settings):
        yield rule.message


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
                message = f"Expected SECTION.KEY=VALUE.{did_you_mean_key(name)}"
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
                message = f'Unknown section "{section}".{did_you_mean(section, sections())}'
            else:
                hint = did_you_mean_key(section)
                message = f'Unknown key "{section}" outside of any section.{hint}'
            self._faults.append(source.fault(message, (section,), at_key=True))

    def _key(self, source: _Source, section: str, name: str, value: Any) -> None:  # TOML's
        key = sections()[section].keys.get(name)
        if key is None:
            hint = did_you_mean(name, sections()[section].keys) or did_you_mean_key(name)
            message = f'Unknown key "{name}" in [{section}].{hint}'
            self._faults.append(source.fault(message, (section, name), at_key=True))
            return
        full_name = f"{section}.{name}"
        self._sources[full_name] = source
        self._values[full_name] = value
        self._invalid.discard(full_name)
        for index, what in invalid(key, value):
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
