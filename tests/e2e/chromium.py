"""A small client of the Chrome DevTools Protocol for a headless Chromium and its tabs.

Waits run inside the page (a promise that settles when the document changes) or end when the page
calls a binding; nothing is polled. The protocol:
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio
import trio_websocket
from trio_websocket import WebSocketConnection

from tests.e2e.reaper import end_with_us

__all__ = [
    "Chromium",
    "ChromiumError",
    "ChromiumProcess",
    "PageError",
    "Tab",
    "find_chromium",
    "open_chromium",
]

# These end a hang and are no measure of speed. No test waits this long.
START_SECONDS: Final = 60
CALL_SECONDS: Final = 60

# A screenshot of a large page is one message.
_MESSAGE_BYTES: Final = 64 << 20

_FLAGS: Final = [
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    # Neither root nor a user in most containers can have a sandbox. The pages are our own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container's /dev/shm is 64 MiB
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--metrics-recording-only",
    "--mute-audio",
    "--password-store=basic",
    # A test looks at several tabs at a time: no tab may sleep because it is behind another.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    # Pages of other sites, without a resolver: see test_http.py.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
    # A mouse that can hover: a headless Chromium reports none.
    (
        "--blink-settings=availablePointerTypes=4,primaryPointerType=4,"
        "availableHoverTypes=2,primaryHoverType=2"
    ),
]

# Resolves with the first true value of the expression, which is evaluated whenever the document
# changes.
_UNTIL: Final = """
new Promise((resolve, reject) => {
  const look = () => {
    try {
      const value = (%s);
      if (!value) return false;
      observer.disconnect();
      resolve(typeof value === "object" ? true : value);
    } catch (error) {
      observer.disconnect();
      reject(error);
    }
    return true;
  };
  const observer = new MutationObserver(look);
  observer.observe(document,
    {subtree: true, childList: true, attributes: true, characterData: true});
  look();
})
"""

_LEFT: Final = ("Inspected target navigated", "Promise was collected", "context was destroyed")
"""How Chromium answers an evaluation whose document was left meanwhile."""

_KEYS: Final = {
    # key: code, virtual key code, text
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "Escape": ("Escape", 27, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "PageUp": ("PageUp", 33, ""),
    "PageDown": ("PageDown", 34, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
}


class ChromiumError(Exception):
    """The browser did not start, ended, or refused a call."""


class PageError(Exception):
    """A script in the page threw; the message is the script's, with its stack."""


def find_chromium() -> str | None:
    """Return the path of the browser, or None if there is none."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, filter(None, names))), None)


class ChromiumProcess:
    """A browser's process. Starting it, and ending it, blocks.

    Args:
        program: The browser.
        profile: A folder for what it stores. It is made if it is missing.
    """

    def __init__(self, program: str, profile: Path) -> None:
        profile.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": str(profile)},  # some of its files are outside its profile
            # A process group of its own, so that its renderers end with it.
            start_new_session=True,
        )
        end_with_us(self._process.pid)
        self.port, self.path = self._devtools()
        # Read on, so that the browser never blocks on a full pipe.
        self._drainer = threading.Thread(target=self._drain, daemon=True)
        self._drainer.start()

    def _devtools(self) -> tuple[int, str]:
        """Return where it listens."""
        assert self._process.stderr is not None
        hangs = threading.Timer(START_SECONDS, os.killpg, (self._process.pid, signal.SIGKILL))
        hangs.start()
        said = b""
        for line in self._process.stderr:
            said += line
            if match := re.search(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)(/\S+)\s", line):
                hangs.cancel()
                return int(match[1]), match[2].decode()
        hangs.cancel()
        self._process.wait()
        self._process.stderr.close()
        raise ChromiumError(f"Chromium ended before it listened:\n{said.decode(errors='replace')}")

    def _drain(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr:
            for _ in self._process.stderr:
                pass

    def wait(self) -> None:
        """Wait until it has ended by itself."""
        self._process.wait(CALL_SECONDS)
        self._drainer.join()

    def close(self) -> None:
        """End it, with everything that it has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._drainer.join()


async def open_chromium(
    process: ChromiumProcess, nursery: trio.Nursery, *, private: bool = True
) -> Chromium:
    """Open a window of a running browser; ``nursery`` runs its reader.

    Args:
        process: The browser.
        nursery: Runs the window's reader.
        private: Whether it is like a browser with an empty profile, which ends with it. Otherwise
            it has the process's own.
    """
    with trio.fail_after(START_SECONDS):
        stream = await trio.open_tcp_stream("127.0.0.1", process.port)
        websocket = await trio_websocket.wrap_client_stream(
            *(nursery, stream, f"127.0.0.1:{process.port}", process.path),
            max_message_size=_MESSAGE_BYTES,
        )
    browser = Chromium(stream, websocket)
    nursery.start_soon(browser.read)
    if private:
        await browser.make_private()
    return browser


class _Reply:
    def __init__(self) -> None:
        self.came = trio.Event()
        self.message: dict[str, Any] = {}


class Chromium:
    """A running browser, or a private window of one."""

    def __init__(self, stream: trio.abc.Stream, websocket: WebSocketConnection) -> None:
        self._stream: Final = stream
        self._websocket: Final = websocket
        self._replies: Final[dict[int, _Reply]] = {}
        self._tabs: Final[dict[str, Tab]] = {}
        self._number = 0
        self._ended = False
        self._context: dict[str, str] = {}

    async def make_private(self) -> None:
        """Open all tabs from now on in a profile of their own, which is empty."""
        made = await self.call("Target.createBrowserContext", disposeOnDetach=True)
        self._context = {"browserContextId": made["browserContextId"]}

    async def open_tab(self, *, width: int = 1280, height: int = 800) -> Tab:
        """Open a blank tab."""
        target = await self.call("Target.createTarget", url="about:blank", **self._context)
        session = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        tab = Tab(self, target["targetId"], session["sessionId"])
        self._tabs[session["sessionId"]] = tab
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.call(f"{domain}.enable")
        await tab.call("Page.setLifecycleEventsEnabled", enabled=True)
        # Each tab accepts keys and clicks as if it were in front.
        await tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        await tab.resize(width, height)
        return tab

    async def call(self, method: str, session: str | None = None, **params: object) -> Any:
        """Call a method of the protocol and return its result. Raises ChromiumError."""
        if self._ended:
            raise ChromiumError(f"{method}: Chromium has ended")
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        reply = self._replies[self._number] = _Reply()
        with trio.move_on_after(CALL_SECONDS):
            await self._websocket.send_message(json.dumps(message))
            await reply.came.wait()
            if error := reply.message.get("error"):
                raise ChromiumError(f"{method}: {error['message']}")
            return reply.message["result"]
        raise ChromiumError(f"{method}: no answer in {CALL_SECONDS} s")

    async def read(self) -> None:
        """Receive answers and events until the browser ends."""
        try:
            while True:
                message = json.loads(await self._websocket.get_message())
                if (number := message.get("id")) is not None:
                    if reply := self._replies.pop(number, None):
                        reply.message = message
                        reply.came.set()
                elif tab := self._tabs.get(message.get("sessionId", "")):
                    tab.heard(message["method"], message["params"])
        except (trio_websocket.ConnectionClosed, trio.ClosedResourceError):
            pass
        finally:
            self._ended = True
            for reply in self._replies.values():
                reply.message = {"error": {"message": "Chromium has ended"}}
                reply.came.set()

    async def aclose(self) -> None:
        """Close it with all its tabs, whose pages have ended then."""
        with trio.CancelScope(shield=True):
            if self._context and not self._ended:
                with suppress(ChromiumError):
                    await self.call("Target.disposeBrowserContext", **self._context)
            await self._stream.aclose()


class Tab:
    """A page in its own tab."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self.console: Final[list[str]] = []
        """The lines that the page has written to ``console``."""
        self.faults: Final[list[str]] = []
        """Errors so far: uncaught exceptions, violations of the CSP, failed loads."""
        self._browser: Final = browser
        self._target: Final = target
        self._session: Final = session
        self._told: Final[dict[str, trio.MemorySendChannel[str]]] = {}
        self._loaded: Final[dict[str, trio.Event]] = {}
        self._next_load = trio.Event()

    async def call(self, method: str, **params: object) -> Any:
        """Call a method of the protocol on this tab. Raises ChromiumError."""
        return await self._browser.call(method, self._session, **params)

    async def navigate(self, url: str) -> None:
        """Go to ``url`` and wait until the page is loaded."""
        answer = await self.call("Page.navigate", url=url)
        if error := answer.get("errorText"):
            raise ChromiumError(f"{url}: {error}")
        if loader := answer.get("loaderId"):  # none for a fragment of the same document
            with trio.fail_after(CALL_SECONDS):
                await self._load_of(loader).wait()

    async def evaluate(self, expression: str) -> Any:
        """Return the value of ``expression``, or of its promise, as JSON. Raises PageError."""
        answer = await self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if details := answer.get("exceptionDetails"):
            thrown = details.get("exception", {})
            raise PageError(thrown.get("description") or thrown.get("value") or details["text"])
        return answer["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until the document makes ``condition`` true; return its value.

        The condition is an expression that is evaluated again after each change of the document. An
        object counts as ``true``. It is evaluated in the next document if this one is left. Raises
        PageError if it throws, ChromiumError if it never becomes true.
        """
        while True:
            try:
                return await self.evaluate(_UNTIL % condition)
            except ChromiumError as error:
                failed = error
            if not any(words in str(failed) for words in _LEFT):
                break
        body = await self.evaluate("document.body?.innerText")
        raise ChromiumError(f"never was: {condition}\n{failed}\nThe page:\n{body}")

    async def until_text(self, text: str, within: str = "body") -> None:
        """Wait until the first element that ``within`` selects shows ``text``."""
        selector = json.dumps(within)
        await self.until(
            f"document.querySelector({selector})?.innerText.includes({json.dumps(text)})"
        )

    async def binding(self, name: str) -> trio.MemoryReceiveChannel[str]:
        """Give the page a function ``name(string)``; the channel receives its arguments.

        It exists at once and in every later document.
        """
        send, receive = trio.open_memory_channel[str](math.inf)
        self._told[name] = send
        await self.call("Runtime.addBinding", name=name)
        return receive

    async def click(self, selector: str) -> None:
        """Click the middle of the first element that ``selector`` selects."""
        x, y = await self.evaluate(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)});"
            " element.scrollIntoView({block: 'nearest', behavior: 'instant'});"
            " const box = element.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    async def type(self, text: str) -> None:
        """Type ``text`` into the element that has the focus."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press and release a key, such as ``Enter``."""
        code, number, text = _KEYS[key]
        pressed = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        down = "keyDown" if text else "rawKeyDown"
        await self.call("Input.dispatchKeyEvent", type=down, text=text, **pressed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def submit(self) -> None:
        """Press Enter in a form that leads to another page, and wait until that is loaded."""
        self._next_load = trio.Event()
        await self.press("Enter")
        with trio.fail_after(CALL_SECONDS):
            await self._next_load.wait()

    async def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Set the viewport's size in CSS pixels; ``mobile`` emulates a phone."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    async def prefer(self, **features: str) -> None:
        """Set the user's preferences: ``prefers_color_scheme="dark"``. Reset the others."""
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
            ],
        )

    async def screenshot(self, file: Path) -> None:
        """Save a screenshot of the viewport as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        await trio.Path(file).write_bytes(base64.b64decode(answer["data"]))

    async def close(self) -> None:
        """Close the tab, as a user would."""
        await self._browser.call("Target.closeTarget", targetId=self._target)

    def heard(self, method: str, params: Mapping[str, Any]) -> None:
        """Handle an event of this tab; called by the browser."""
        match method:
            case "Page.lifecycleEvent" if params["name"] == "load":
                self._load_of(params["loaderId"]).set()
                self._next_load.set()
            case "Runtime.bindingCalled":
                self._told[params["name"]].send_nowait(params["payload"])
            case "Runtime.consoleAPICalled":
                self.console.append(" ".join(map(_shown, params["args"])))
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                thrown = details.get("exception", {})
                self.faults.append(thrown.get("description") or details["text"])
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                entry = params["entry"]
                self.faults.append(f"{entry['text']} {entry.get('url', '')}".rstrip())

    def _load_of(self, loader: str) -> trio.Event:
        return self._loaded.setdefault(loader, trio.Event())


def _shown(argument: Mapping[str, Any]) -> str:
    return str(argument.get("value", argument.get("description", argument["type"])))
