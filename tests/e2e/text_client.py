"""A plain-text client as a program: it prints each received frame as a line of JSON.

``text_client.py URL [TEXT]`` says TEXT and ends when the message arrives. Without TEXT it stays
until the daemon closes the connection, and prints ``{"closed": CODE}``.
"""

from __future__ import annotations

import json
import sys

import trio
import trio_websocket

LIMIT_SECONDS = 60  # ends a hang


async def main(url: str, text: str | None) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with trio_websocket.open_websocket_url(url) as websocket:
            if text is not None:
                await websocket.send_message(text)
            try:
                while True:
                    frame = str(
                        await websocket.get_message()
                    )  # there are no binary frames in this protocol
                    print(json.dumps(frame), flush=True)  # noqa: T201  this program's output
                    if text is not None and frame.endswith(f": {text}"):
                        return
            except trio_websocket.ConnectionClosed as closed:
                code = None if closed.reason is None else closed.reason.code
                print(json.dumps({"closed": code}), flush=True)  # noqa: T201


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
