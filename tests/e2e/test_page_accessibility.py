"""The chat page as axe-core checks it: https://github.com/dequelabs/axe-core."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from chatd import client
from tests.e2e.chat_page import ASKED, ChatPage, open_page
from tests.e2e.chatd_process import ChatdStarter
from tests.e2e.chromium import Chromium
from tests.e2e.test_page_rights import in_room_menu
from tests.e2e.test_tokens import issued

_CHECK: Final = (
    "axe.run(document, {resultTypes: ['violations']}).then(result =>"
    " result.violations.map(one => [one.id, ...one.nodes.map(node => node.html)]))"
)


@pytest.fixture
def axe(script: Path) -> str:
    """Return the checker's source."""
    return (script.parent / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


async def check(page: ChatPage, axe: str) -> None:
    """Fail if the page breaks a rule as it is now."""
    await page.tab.evaluate(f"{axe}; 1")
    assert await page.tab.evaluate(_CHECK) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_rule_of_accessibility_is_broken(
    scheme: str,
    axe: str,
    tmp_path: Path,
    token_settings: dict[str, Any],
    start_chatd: ChatdStarter,
    chromium: Chromium,
) -> None:
    off = {f"limits.{name}": "off" for name in ("messages_per_second", "messages_burst")}
    chatd = await start_chatd({**token_settings, **off, "chat.greeting": "Be kind, {nick}."})
    page = ChatPage(await chromium.open_tab())
    await page.tab.prefer(prefers_color_scheme=scheme)
    await page.tab.navigate(chatd.page)
    await page.tab.until(ASKED)
    await check(page, axe)
    await page.introduce("ann")
    async with client.connect(chatd.url, nick="bob") as program:
        await program.join("lobby")
        for number in range(40):
            await program.say(f"message {number}: www.example.org, #garden, bob@example.org")
        await program.say("_waves_", reply_to=1)
        await page.shows("bob waves")
        await check(page, axe)
        await page.send("/nonsense")
        await page.tab.until("!document.querySelector('#composer-anyway').hidden")
        await page.tab.evaluate("document.querySelector('#scroller').scrollTop = 100")
        await page.tab.until("!document.querySelector('#date').hidden")
        await check(page, axe)
        await page.tab.click("#search-open")
        await page.tab.type("message")
        await page.tab.press("Enter")
        await page.tab.until("document.querySelector('#search-list li')")
        await check(page, axe)
        await page.tab.press("Escape")

        await page.tab.evaluate("document.querySelector('#composer-text').select()")
        await page.send(f"/auth {await issued(tmp_path, '--user', 'olga', '--op')}")
        await page.members("bob", "olga")
        await page.send("/mute bob 10m")
        await page.tab.until("document.querySelectorAll('#member-list .tag').length === 3")
        await program.say("psst", room="@olga")
        await page.tab.until("document.querySelector('#direct-list .badge')")
        await page.tab.evaluate("document.querySelector('#member-list button').click()")
        await check(page, axe)
        await page.tab.press("Escape")
        await in_room_menu(page, "Bans")
        await page.tab.until("document.querySelector('#question .held')")
        await check(page, axe)
        await page.tab.press("Escape")

        other = await open_page(chromium, chatd, host="127.0.0.1", nick="carl")
        await other.tab.prefer(prefers_color_scheme=scheme)
        await page.members("bob", "carl", "olga")
        await page.send("/kick carl enough")
        await other.line("gap", "You were kicked from lobby by olga: enough")
        await check(other, axe)
    assert page.faults == other.faults == []
