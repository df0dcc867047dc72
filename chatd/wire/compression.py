"""Answers made smaller, where the client says that it can read them so. Sans-IO."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from chatd.wire.request import Response

__all__ = ["compressed", "preferred"]

# zlib's own default, and Node's. Level 9 takes three times as long for some hundredths less.
_LEVEL: Final = 6
_VARY: Final = ("Vary", "Accept-Encoding")


def preferred(accepted: str | None, offered: Sequence[str] = ("gzip", "deflate")) -> str | None:
    """Choose the coding that an Accept-Encoding likes best, the first of ``offered`` among equals.

    None where it takes none of them, or likes none better than the plain answer: RFC 9110 section
    12.5.3.
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
    """Give the answer as a client that sent this Accept-Encoding is best given it.

    What has fewer than ``threshold`` bytes is left as it is.
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
