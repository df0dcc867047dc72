"""The files that hold the keys for tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final

from chatd.chat.token_keys import Key, UnusableKey, read_keys
from chatd.chat.tokens import Keys
from chatd.paths import SecretError, exposed, secret_file
from chatd.settings import Fault, Rule, Settings, SettingsError

__all__ = ["check_files", "load_keys"]

# A key is some hundred bytes, one of a set some KiB; more is the wrong file, or one without end.
_FILE_BYTES: Final = 1 << 16


def load_keys(settings: Settings, environ: Mapping[str, str]) -> Keys:
    """Return the keys in the files of ``auth.key_files``. Raise SettingsError with all errors."""
    keys: list[Key] = []
    faults: list[Fault] = []
    for name in settings.auth.key_files:
        try:
            keys += _keys(name, environ)
        except (UnusableKey, SecretError) as error:
            faults.append(Fault(0, 0, f"auth.key_files: {error}", "", name))
    if faults:
        raise SettingsError(faults)
    return Keys(keys)


def check_files(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Rule]:
    """Yield what is wrong with the keys of tokens, in the form for ``settings.load``.

    Only the service can see credentials: without any, they are not checked.
    """
    auth = settings.auth
    for index, name in enumerate(auth.key_files):
        try:
            keys = _keys(name, environ)
        except SecretError:
            continue
        except UnusableKey as error:
            yield Rule(["auth.key_files"], f"auth.key_files: {error}", index)
            continue
        secret = any(key.signs for key in keys)
        if secret and (warning := exposed(secret_file(name, environ))):
            yield Rule(["auth.key_files"], f"auth.key_files: {warning}", index, warning=True)
    if settings.jwks_url is not None and "off" in (auth.issuer, auth.audience):
        yield Rule(
            ["auth.jwks_url"],
            "auth.jwks_url: An issuer makes tokens for others too. Set auth.issuer and "
            "auth.audience, so that only those for this chat are accepted.",
            warning=True,
        )


def _keys(name: str, environ: Mapping[str, str]) -> list[Key]:
    """Return the keys in a file.

    Raises:
        UnusableKey: The file cannot be read, or holds no key.
        SecretError: It is a credential, and there are none.
    """
    try:
        return read_keys(_read(name, environ))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnusableKey(f"it cannot be read: {reason}") from error


def _read(name: str, environ: Mapping[str, str]) -> bytes:
    with secret_file(name, environ).open("rb") as stream:
        data = stream.read(_FILE_BYTES + 1)
    if len(data) > _FILE_BYTES:
        raise UnusableKey(f"it has over {_FILE_BYTES} bytes")
    return data
