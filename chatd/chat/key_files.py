"""The files that hold the keys for tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chatd.chat.tokens import Key, Keys, UnusableKey, read_key
from chatd.settings import Fault, Settings, SettingsError, file_of

__all__ = ["load_keys"]

# A key is some hundred bytes; more is the wrong file, or one without end.
_FILE_BYTES: Final = 1 << 16


def load_keys(settings: Settings, environ: Mapping[str, str]) -> Keys:
    """Read every file of ``auth.key_files``. Raises SettingsError, with a fault for each."""
    keys: list[Key] = []
    faults: list[Fault] = []
    for name in settings.auth.key_files:
        try:
            keys.append(read_key(_read(name, environ)))
        except UnusableKey as error:
            faults.append(Fault(0, 0, f"auth.key_files: {error}", "", name))
        except SettingsError as error:
            faults += error.faults
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            faults.append(Fault(0, 0, f"auth.key_files: it cannot be read: {reason}", "", name))
    if faults:
        raise SettingsError(faults)
    return Keys(keys)


def _read(name: str, environ: Mapping[str, str]) -> bytes:
    with file_of(name, environ).open("rb") as stream:
        data = stream.read(_FILE_BYTES + 1)
    if len(data) > _FILE_BYTES:
        raise UnusableKey(f"it has over {_FILE_BYTES} bytes")
    return data
