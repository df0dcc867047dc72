"""What a session's GETs and POSTs are answered with. The checks before it are the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from chatd.engineio import payloads
from chatd.engineio.block import Block
from chatd.engineio.options import Options
from chatd.engineio.packets import PacketError, Revision
from chatd.engineio.session import Session
from chatd.wire.compression import compressed, preferred
from chatd.wire.request import Refused, Request, Response

__all__ = ["ERRORS", "answer", "error", "get", "post"]

TEXT: Final = "text/plain; charset=UTF-8"
# So that no browser offers a download of it: Node's, since 2012.
_HTML: Final = "text/html"
_OCTETS: Final = "application/octet-stream"
_SCRIPT: Final = "text/javascript; charset=UTF-8"
_NO_STORE: Final = (("Cache-Control", "no-store"),)

# Above it an answer is compressed in a thread: zlib makes some 30 MB a second, and holds the loop.
_INLINE_BYTES: Final = 65536

ERRORS: Final = {
    0: "Transport unknown",
    1: "Session ID unknown",
    2: "Bad handshake method",
    3: "Bad request",
    4: "Forbidden",
    5: "Unsupported protocol version",
}


def error(code: int, words: str | None = None) -> Response:
    """Make Node's refusal of this code; 4 may have words of its own."""
    message = ERRORS[code] if words is None else words
    body = msgspec.json.encode({"code": code, "message": message})
    return Response(403 if code == 4 else 400, body, "application/json")


async def get(request: Request, session: Session, options: Options) -> Response:
    """Answer a GET, when there is something for it."""
    if session.getting:
        session.end("transport error")
        return error(3)
    blocks = await session.poll(request.gone)
    if blocks is None:
        return error(3)
    return await answer(request, blocks, session.revision, options, base64=session.base64)


async def answer(
    request: Request,
    blocks: Sequence[Block],
    revision: Revision,
    options: Options,
    *,
    base64: bool,
) -> Response:
    """Make a payload of these blocks, as this request wants it."""
    index = request.query.get("j") if options.jsonp else None
    payload, octets = payloads.encode(blocks, revision, base64=base64 or index is not None)
    if index is not None:
        response = Response(200, payloads.encode_jsonp(payload, index), _SCRIPT, _NO_STORE)
    else:
        response = Response(200, payload, _OCTETS if octets else TEXT, _NO_STORE)
    threshold = options.compression_threshold
    if threshold is None or len(response.body) < threshold:
        return response
    accepted = request.header("accept-encoding")
    if len(response.body) <= _INLINE_BYTES or preferred(accepted) is None:
        return compressed(response, accepted, threshold)
    return await trio.to_thread.run_sync(compressed, response, accepted, threshold)


async def post(request: Request, session: Session, options: Options) -> Response:
    """Take a POST's packets; the answer waits until the receiver took their messages."""
    octets = (request.header("content-type") or "").startswith(_OCTETS)
    if session.posting or (octets and session.revision == 4):
        session.end("transport error")
        return error(3)
    session.posting = True
    try:
        await _take(request, session, options, octets=octets)
    except PacketError:
        session.end("parse error")
        return error(3)
    except Refused as refused:
        # Too much is refused, and the session goes on; else the client broke off or the rules.
        if refused.response.status != 413:
            session.end("transport error")
        return refused.response
    except trio.BrokenResourceError:
        session.end("transport error")
        raise
    finally:
        session.posting = False
    if session.reason == "transport close":
        # Once this is answered the session is unknown; a GET that was sent before may yet come.
        await session.wait_over()
    return Response(200, b"ok", _HTML, _NO_STORE)


async def _take(request: Request, session: Session, options: Options, *, octets: bool) -> None:
    body = await request.body(options.max_payload)
    if octets:
        packets = payloads.decode_octets(body)
    else:
        if options.jsonp and "j" in request.query:
            body = payloads.decode_jsonp(body)
        packets = payloads.decode(body, session.revision)
    await session.post(packets, len(body))
