"""The chat page in a tab, used as a person uses it. The names of its elements are only here."""

from __future__ import annotations

import json
from typing import Any, Final

from chatd import client
from tests.e2e.chatd_process import ChatdProcess
from tests.e2e.chromium import Chromium, Tab

__all__ = ["OPEN", "WAITING", "ChatPage", "open_page", "texts_in"]

OPEN: Final = "document.body?.dataset.connection === 'open'"
WAITING: Final = "document.body.dataset.connection === 'waiting'"

SHIFT: Final = 8  # of Input.dispatchKeyEvent's modifiers

# Open means signed in; a joined room has at least one member, the user.
_IN_ROOM: Final = f"{OPEN} && document.querySelector('#member-count').textContent"

ASKED: Final = (
    "document.body?.dataset.connection === 'asking' && document.querySelector('#welcome').open"
)

# Chromium logs this when the daemon is not there, or is killed while it answers.
_NOBODY_THERE: Final = (
    "WebSocket connection to ",
    "Failed to load resource: net::ERR_CONNECTION_",
    "Failed to load resource: net::ERR_EMPTY_RESPONSE",
)


async def open_page(
    chromium: Chromium,
    chatd: ChatdProcess,
    *,
    host: str = "localhost",
    port: int | None = None,
    width: int = 1280,
    height: int = 800,
    nick: str = "",
) -> ChatPage:
    """Open the page in a new tab and wait until it has joined its rooms.

    ``nick`` answers the question for a name; "" keeps the generated one.

    Browsers store data for each origin, so the page on ``127.0.0.1`` is another guest than the page
    on ``localhost``. ``port`` is that of a relay to the daemon, if there is one.
    """
    page = ChatPage(await chromium.open_tab(width=width, height=height))
    await page.tab.navigate(f"http://{host}:{port or chatd.port}/")
    await page.introduce(nick)
    return page


async def texts_in(program: client.Chat, room: str) -> list[str | None]:
    """Return the texts of a room's log, as a program reads them."""
    events = (await program.history(room)).events
    return [event.text for event in events if isinstance(event, client.Message)]


class ChatPage:
    """The chat page; ``tab`` is for anything without a method here."""

    def __init__(self, tab: Tab) -> None:
        self.tab: Final = tab

    # ---- actions

    async def introduce(self, nick: str) -> None:
        """Answer the question for a name, if it is asked, and wait until the page is in its room.

        The question comes once in each browser.
        """
        await self.tab.until(f"({ASKED}) || ({_IN_ROOM})")
        if await self.tab.evaluate(ASKED):
            if nick:
                await self.tab.type(nick)
                await self.tab.press("Enter")
            else:
                await self.tab.press("Escape")
            await self.tab.until("!document.querySelector('#welcome').open")
        await self.tab.until(_IN_ROOM)

    async def type(self, text: str) -> None:
        """Type into the composer; a line feed becomes Shift+Enter."""
        await self.tab.evaluate("document.querySelector('#composer-text').focus()")
        for number, line in enumerate(text.split("\n")):
            if number:
                await self.shift_enter()
            await self.tab.type(line)

    async def send(self, text: str) -> None:
        """Type ``text`` and press Enter."""
        await self.type(text)
        await self.tab.press("Enter")

    async def say(self, text: str) -> None:
        """Send ``text`` and wait until the log has it."""
        await self.send(text)
        await self.tab.until(
            "[...document.querySelectorAll('#log .message[data-seq][data-state=sent] .text')]"
            f".some(node => node.textContent === {json.dumps(text)})"
        )

    async def shift_enter(self) -> None:
        """Press Enter with Shift held."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": SHIFT}
        await self.tab.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        await self.tab.call("Input.dispatchKeyEvent", type="keyUp", **key)

    async def tab_to(self, selector: str) -> None:
        """Press Tab until ``selector`` has the focus, which must be visible."""
        matches = f"document.activeElement.matches({json.dumps(selector)})"
        for _ in range(30):
            if await self.tab.evaluate(matches):
                # The focus ring is the element's own or its form's.
                assert await self.tab.evaluate(
                    "(() => { const at = document.activeElement;"
                    " return [at, at.closest('form')].some(node => node && ("
                    " getComputedStyle(node).outlineStyle !== 'none'"
                    " || getComputedStyle(node).boxShadow !== 'none')); })()"
                ), f"no focus ring is visible on {selector}"
                return
            await self.tab.press("Tab")
        raise AssertionError(f"Tab does not lead to {selector}")

    async def join(self, room: str) -> None:
        """Join a room by typing its name."""
        await self.tab.click("#join-name")
        await self.tab.type(room)
        await self.tab.press("Enter")
        await self.in_room(room)

    async def leave(self) -> None:
        """Leave the current room, by its button and the question that follows."""
        await self.tab.click("#leave")
        await self.tab.until("document.querySelector('#question').open")
        await self.tab.press("Enter")
        await self.tab.until("!document.querySelector('#question').open")

    async def switch(self, room: str) -> None:
        """Go to a room in the list."""
        await self.tab.click(f"#room-list li[data-key={json.dumps(room)}] button")
        await self.in_room(room)

    async def drawer(self, name: str) -> None:
        """Open a drawer, ``rooms`` or ``members``, and wait until it has slid in."""
        await self.tab.click(f"#{name}-open")
        await self.tab.until(f"document.querySelector('#{name}').checkVisibility()")
        await self.tab.evaluate(
            f"Promise.all(document.querySelector('#{name}').getAnimations()"
            ".map(animation => animation.finished)).then(() => {})"
        )

    async def rename(self, nick: str) -> None:
        """Change the nick."""
        await self.tab.click("#me-nick")
        await self.tab.type(nick)  # the old nick is selected
        await self.tab.press("Enter")

    async def reload(self) -> None:
        """Load the page again and wait until it is back in its rooms."""
        await self.tab.evaluate("document.body.dataset.connection = 'reloading'")
        await self.tab.call("Page.reload")
        await self.tab.until(_IN_ROOM)

    async def come_back(self) -> None:
        """Press the banner's button, if it is there, and wait for the connection."""
        await self.tab.evaluate("document.querySelector('#banner-action').click()")
        await self.tab.until(OPEN)

    # ---- waits

    async def in_room(self, room: str) -> None:
        """Wait until ``room`` is the current one."""
        await self.tab.until(
            f"document.querySelector('#room-name bdi')?.textContent === {json.dumps(room)}"
        )

    async def shows(self, *texts: str) -> None:
        """Wait until the log has messages of these texts, each once and in this order."""
        wanted = json.dumps(texts)
        await self.tab.until(
            f"JSON.stringify({_TEXTS}.filter(text => {wanted}.includes(text)))"
            f" === JSON.stringify({wanted})"
        )

    async def line(self, tone: str, text: str) -> None:
        """Wait for a line between the messages: ``presence``, ``notice`` or ``gap``."""
        await self.tab.until(
            f"[...document.querySelectorAll('#log .line.{tone}')]"
            f".some(node => node.textContent.includes({json.dumps(text)}))"
        )

    async def members(self, *nicks: str) -> None:
        """Wait until these, by name, and no others are listed as members."""
        names = "[...document.querySelectorAll('#member-list .nick')].map(n => n.textContent)"
        wanted = json.dumps(sorted(nicks))
        await self.tab.until(f"JSON.stringify({names}.sort()) === JSON.stringify({wanted})")

    # ---- what the page shows

    async def nick(self) -> str:
        """Return the user's nick."""
        return str(await self.tab.evaluate("document.querySelector('#me-name').textContent"))

    async def texts(self) -> list[str]:
        """Return the texts of all messages in the log, unsent ones included."""
        return list(await self.tab.evaluate(_TEXTS))

    async def rooms(self) -> list[str]:
        """Return the user's rooms."""
        return list(
            await self.tab.evaluate(
                "[...document.querySelectorAll('#room-list li')].map(node => node.dataset.key)"
            )
        )

    async def style(self, selector: str, name: str) -> Any:
        """Return a computed style property of the first element that ``selector`` selects."""
        return await self.tab.evaluate(
            f"getComputedStyle(document.querySelector({json.dumps(selector)}))[{json.dumps(name)}]"
        )

    async def visible(self, selector: str) -> bool:
        """Return whether an element is visible."""
        return bool(
            await self.tab.evaluate(
                f"document.querySelector({json.dumps(selector)}).checkVisibility()"
            )
        )

    async def from_end(self) -> float:
        """Return how many pixels of the log are below the view, once everything is drawn."""
        # A resize is observed after the frame in which it happened, a scroll in the next one.
        return float(
            await self.tab.evaluate(
                "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() =>"
                " requestAnimationFrame(() => { const {scrollTop, clientHeight, scrollHeight}"
                " = document.querySelector('#scroller');"
                " done(scrollHeight - scrollTop - clientHeight); }))))"
            )
        )

    @property
    def faults(self) -> list[str]:
        """Errors in the page, except those of requests while the daemon was away."""
        return [fault for fault in self.tab.faults if not fault.startswith(_NOBODY_THERE)]


_TEXTS: Final = "[...document.querySelectorAll('#log .message .text')].map(n => n.textContent)"
