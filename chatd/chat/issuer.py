"""The keys that an issuer publishes: a set of JWKs at an https address, kept and fetched again.

1. A fetch never holds up the loop: it runs in a thread, takes at most `FETCH_SECONDS`, and there is
   one at a time, however many wait for it.
2. A set that cannot be fetched or read changes nothing: the keys of before are kept.
3. A token that is signed with another key has the set fetched again, because issuers change their
   keys. If that brings nothing new, it is not done again for `AGAIN_SECONDS`.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import urljoin, urlsplit

import trio

from chatd import __version__
from chatd.chat.token_keys import Key, UnusableKey, read_key_set
from chatd.logs import Log
from chatd.model import Refused

__all__ = ["Fetch", "FetchError", "IssuerKeys", "fetch_keys"]

FETCH_SECONDS: Final = 5.0

FETCH_BYTES: Final = 256 * 1024
"""A set with 32 keys and their certificates has some 100 KiB."""

AGAIN_SECONDS: Final = 10.0
"""Anybody can make up tokens with unknown keys: the issuer is asked this often at most for them."""

REFRESH_SECONDS: Final = 600.0
"""A key that the issuer has withdrawn is accepted for at most this much longer."""

RETRY_SECONDS: Final = 30.0
"""After a failure the set is fetched again in this time, if no token needs it before."""

AWAY_SECONDS: Final = 5.0
"""After a failure tokens have the set fetched again this often at most."""

_REDIRECTS: Final = 3
_REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})


class FetchError(Exception):
    """The set cannot be fetched, or is none. The message is the reason, for an operator."""


Fetch: TypeAlias = Callable[[str], Awaitable[list[Key]]]
"""Fetches the keys at a URL, or raises `FetchError`."""


class IssuerKeys:
    """The keys at an address. `run` fetches them.

    Args:
        use: Called with the keys when they have changed.
        log: The operator's log.
        fetch: How to fetch them.
    """

    def __init__(
        self, use: Callable[[Sequence[Key]], None], log: Log, fetch: Fetch | None = None
    ) -> None:
        self._use = use
        self._log = log
        # A thread of its own: one that hangs must not take those of others.
        one = trio.CapacityLimiter(1)
        self.fetch: Fetch = partial(fetch_keys, limiter=one) if fetch is None else fetch
        self._url: str | None = None
        self._keys: frozenset[tuple[str, ...]] = frozenset()
        self._failing = False
        self._fetching = False
        self._wanted = trio.Event()
        self._ended = trio.Event()
        self._next = 0.0

    def follow(self, url: str | None) -> None:
        """Use the keys at this address (None: none) from now on; if it is the same, fetch it again.

        The keys of another address are used until those of this one have come.
        """
        if url != self._url:
            self._failing = False
        if url is None and self._keys:
            self._keys = frozenset()
            self._use(())
        self._url = url
        self._wanted.set()

    async def run(self) -> None:
        """Fetch the keys when they are wanted, and from time to time, until cancelled."""
        while True:
            self._wanted = trio.Event()
            if (url := self._url) is not None:
                self._fetching = True
                try:
                    await self._refresh(url)
                except Exception as error:  # a bug costs this fetch, not the daemon
                    self._log.fault(error, detail="auth.jwks_url")
                    self._failed("an internal error")
                self._fetching = False
            ended, self._ended = self._ended, trio.Event()
            ended.set()
            with trio.move_on_after(self._pause()):
                await self._wanted.wait()

    async def look_again(self) -> None:
        """Fetch the keys because a token is signed with none of them. Return when that is done.

        Raises:
            Refused: They cannot be fetched now, so nobody knows whether the token is valid.
        """
        if self._url is None:
            return
        if self._fetching or trio.current_time() >= self._next:
            if not self._fetching:
                self._wanted.set()
            await self._ended.wait()
        if self._failing:
            raise Refused(
                "unavailable",
                "The keys of the token's issuer cannot be fetched now. Try again later.",
                int(AWAY_SECONDS * 1000),
            )

    def _pause(self) -> float:
        if self._url is None:
            return float("inf")
        return RETRY_SECONDS if self._failing else REFRESH_SECONDS

    async def _refresh(self, url: str) -> None:
        try:
            keys = await self.fetch(url)
        except FetchError as error:
            if self._url == url:
                self._failed(str(error))
            return
        if self._url != url:  # changed by a reload
            return
        names = frozenset(key.names for key in keys)
        if names != self._keys:
            self._keys = names
            self._next = 0.0
            self._use(keys)
        else:
            self._next = trio.current_time() + AGAIN_SECONDS
            if not self._failing:
                return
        self._failing = False
        self._log.emit("keys", total=len(keys))

    def _failed(self, why: str) -> None:
        self._next = trio.current_time() + AWAY_SECONDS
        if self._failing:
            return
        self._failing = True
        kept = "The old keys stay in use." if self._keys else "None are known yet."
        self._log.emit(
            "warning",
            setting="auth.jwks_url",
            detail=f"The keys of tokens cannot be fetched: {why}. {kept}",
        )


async def fetch_keys(
    url: str,
    context: ssl.SSLContext | None = None,
    *,
    seconds: float = FETCH_SECONDS,
    limiter: trio.CapacityLimiter | None = None,
) -> list[Key]:
    """Fetch the keys at an https URL.

    Args:
        url: The address.
        context: Verifies the server; by default with the system's certificate authorities.
        seconds: How long it may take.
        limiter: Limits the threads; by default all of Trio's together.

    Raises:
        FetchError: They cannot be fetched, or there is none.
    """
    request = _Request(url, context)
    try:
        with trio.fail_after(seconds):
            return await trio.to_thread.run_sync(
                request.keys, abandon_on_cancel=True, limiter=limiter
            )
    except trio.TooSlowError:
        raise FetchError(f"no whole answer within {seconds:g} seconds") from None
    finally:
        request.abort()


class _Request:
    """A blocking request, with its redirects, which `abort` ends from another thread."""

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        self._url = url
        self._context = context
        self._socket: socket.socket | None = None

    def keys(self) -> list[Key]:
        try:
            return read_key_set(self._body())
        except UnusableKey as error:
            raise FetchError(str(error)) from None
        except ssl.SSLCertVerificationError as error:
            raise FetchError(f"its certificate is not valid: {error.verify_message}") from None
        except OSError as error:
            raise FetchError((error.strerror or str(error)).lower()) from None
        except http.client.HTTPException as error:
            raise FetchError(f"the answer is not HTTP ({type(error).__name__})") from None
        except ValueError:
            raise FetchError("the address cannot be used") from None

    def abort(self) -> None:
        if self._socket is not None:
            # Not of the TLS object: its reader may be inside it.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _body(self) -> bytes:
        url = self._url
        for _ in range(_REDIRECTS + 1):
            status, location, body = self._get(url)
            if status == 200:
                if len(body) > FETCH_BYTES:
                    raise FetchError(f"the answer has over {FETCH_BYTES} bytes")
                return body
            if status not in _REDIRECTING:
                raise FetchError(f"the answer is {status}")
            url = _redirected(url, location)
        raise FetchError("it redirects too often")

    def _get(self, url: str) -> tuple[int, str, bytes]:
        """Return the status, the Location header and, with a status of 200, the body."""
        parts = urlsplit(url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "",
            parts.port,
            timeout=FETCH_SECONDS,
            context=self._context or ssl.create_default_context(),
        )
        try:
            connection.connect()
            self._socket = connection.sock
            connection.request(
                "GET",
                f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}",
                headers={
                    "Accept": "application/jwk-set+json, application/json",
                    "Connection": "close",
                    "User-Agent": f"chatd/{__version__}",
                },
            )
            with connection.getresponse() as response:
                body = response.read(FETCH_BYTES + 1) if response.status == 200 else b""
                return response.status, response.getheader("Location") or "", body
        finally:
            connection.close()


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    before, after = urlsplit(url), urlsplit(target)
    if after.scheme != "https" or after.netloc != before.netloc:
        raise FetchError("it redirects to another host")
    return target
