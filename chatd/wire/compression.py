"""Compression of responses for clients that accept it. Sans-IO."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from chatd.wire.request import Response

__all__ = ["compressed", "preferred"]

# The default of zlib and Node. Level 9 takes three times as long for a few per cent.
_LEVEL: Final = 6
_VARY: Final = ("Vary", "Accept-Encoding")


def preferred(accepted: str | None, offered: Sequence[str] = ("gzip", "deflate")) -> str | None:
    """Return the coding that an Accept-Encoding prefers, the first of ``offered`` among equals.

    Return None if it accepts none of them or prefers the plain response: RFC 9110 section 12.5.3.
    """
    weights: dict[str, float] = {}
    for element in (accepted or "").split(","):
        coding, *parameters = (part.strip().lower() for part in element.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        if coding:
            weights[coding] = weight
    anything = weights.get("*", 0.0)
    best, weight = None, 0.0
    for coding in offered:
        if weights.get(coding, anything) > weight:
            best, weight = coding, weights.get(coding, anything)
    return best if weight >= weights.get("identity", 0.0) else None


def compressed(response: Response, accepted: str | None, threshold: int) -> Response:
    """Return the response, compressed as the Accept-Encoding header ``accepted`` prefers.

    A body of fewer than ``threshold`` bytes is not compressed.
    """
    if len(response.body) < threshold:
        return response
    headers = [*response.headers, _VARY]
    coding = preferred(accepted)
    if coding is None:
        return msgspec.structs.replace(response, headers=headers)
    if coding == "gzip":
        body = gzip.compress(response.body, _LEVEL, mtime=0)
    else:
        body = zlib.compress(response.body, _LEVEL)
    headers.append(("Content-Encoding", coding))
    return msgspec.structs.replace(response, body=body, headers=headers)
