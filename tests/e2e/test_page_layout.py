"""The chat page's layout: what must be visible, and what must not touch, in any font and locale."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from chatd import client
from tests.e2e.chat_page import open_page
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import Chromium

# A font of Debian's whose letters are wider than most, and letters larger than the default.
WIDE: Final = "document.documentElement.style.font = '500 19px/1.45 \"DejaVu Sans\"', 1"

# Locales of ICU: 12 hours with a word before or behind the time, other digits, from right to left.
LOCALES: Final = ["en_US", "de_DE", "ko_KR", "zh_TW", "hi_IN", "ar_EG", "bn_BD", "my_MM", "fa_IR"]

# The pairs of a time and a text or a name in one row that overlap. Ranges, because a text may be
# larger than its element.
_TOUCHING: Final = """(() => {
  const box = node => {
    const range = document.createRange();
    range.selectNodeContents(node);
    return range.getBoundingClientRect();
  };
  const touching = [];
  let pairs = 0;
  for (const row of document.querySelectorAll('#log > li, #search-list > li')) {
    for (const time of row.querySelectorAll('time')) {
      const at = box(time);
      const list = row.closest('ol').getBoundingClientRect();
      if (at.left < list.left || at.right > list.right) touching.push(time.textContent);
      for (const other of row.querySelectorAll('.text, .nick:not(.unseen .nick), .line span')) {
        const by = box(other);
        pairs += 1;
        if (at.left < by.right + 3 && by.left < at.right + 3
            && at.top < by.bottom && by.top < at.bottom)
          touching.push(`${time.textContent} | ${other.textContent}`);
      }
    }
  }
  return [pairs, touching];
})()"""


async def test_times_touch_no_text_in_any_locale_and_font(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    async with client.connect(chatd.url, nick="bob") as program:
        await program.join("lobby")
        await page.line("presence", "bob joined")
        for text in ("flood one", "flood two", "W" * 200):
            await program.say(text)
        await page.say("javascript")
        await page.say("javascript again")
        for locale in LOCALES:
            await page.tab.call("Emulation.setLocaleOverride", locale=locale)
            await page.reload()
            await page.shows("javascript again")
            await page.tab.click("#search-open")
            await page.tab.type("javascript")
            await page.tab.press("Enter")
            await page.tab.until("document.querySelector('#search-list li')")
            for style in ("1", WIDE):
                await page.tab.evaluate(style)
                for width in (320, 1280):
                    await page.tab.resize(width, 800)
                    await page.from_end()  # everything is drawn, and measured
                    pairs, touching = await page.tab.evaluate(_TOUCHING)
                    assert pairs >= 10
                    assert touching == [], (locale, style, width)
            if locale == "en_US":
                shown = await page.tab.evaluate("document.querySelector('#log time').textContent")
                assert shown[0] != "0" or shown.startswith("0:")
                assert shown.endswith(("AM", "PM"))
    assert page.faults == []


@pytest.mark.parametrize("width", [320, 640, 1280, 1600])
async def test_the_users_own_name_is_visible(
    width: int, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    """Beside "Sign in with a token", too."""
    chatd = await start_chatd(token_settings)
    page = await open_page(chromium, chatd, nick="Ann-Catherine", width=width)
    if width < 760:
        await page.drawer("rooms")
    assert await page.visible("#sign-in")
    for style in ("1", WIDE):
        await page.tab.evaluate(style)
        name, inside, right, edge = await page.tab.evaluate(
            "(() => { const name = document.querySelector('#me-name');"
            " const {right} = name.getBoundingClientRect();"
            " return [name.scrollWidth, name.clientWidth, right,"
            " document.querySelector('#rooms').getBoundingClientRect().right]; })()"
        )
        assert 80 < name <= inside, style
        assert right < edge, style
    # A name of the greatest length is cut at its end.
    await page.rename("W" * 32)
    await page.members("W" * 32)
    assert await page.tab.evaluate("document.querySelector('#me-name').clientWidth") > 80
    scrolled = "[document.documentElement.scrollWidth, document.querySelector('#me').scrollWidth]"
    whole, footer = await page.tab.evaluate(scrolled)
    assert whole <= width
    assert footer <= width
    assert page.faults == []


async def test_members_of_a_room_have_different_colours(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd()
    page = await open_page(chromium, chatd, nick="ann")
    hues = (
        "[...document.querySelectorAll('#member-list .nick')]"
        ".map(node => Number(node.style.getPropertyValue('--hue')))"
    )
    async with AsyncExitStack() as stack:
        nicks = [f"user-{number}" for number in range(12)]
        programs = [
            await stack.enter_async_context(client.connect(chatd.url, nick=nick)) for nick in nicks
        ]
        for program in programs:
            await program.join("lobby")
        last = programs[-1]
        await last.say("hello")
        await page.members("ann", *nicks)
        await page.shows("hello")
        before = await page.tab.evaluate(hues)
        assert len(set(before)) == len(before) == 13
        spread = sorted(before)
        nearest = min((b - a) % 360 for a, b in zip(spread, spread[1:] + spread[:1], strict=True))
        assert nearest >= 15
        # The same in the list and in the log.
        author = "document.querySelector('#log .nick').style.getPropertyValue('--hue')"
        listed = (
            f"document.querySelector('#member-list [data-key=\"{last.identity.user}\"] .nick')"
            ".style.getPropertyValue('--hue')"
        )
        assert await page.tab.evaluate(author) == await page.tab.evaluate(listed)
        await page.reload()
        await page.members("ann", *nicks)
        after = await page.tab.evaluate(hues)
        assert len(set(after)) == 13
        await page.reload()
        await page.members("ann", *nicks)
        assert await page.tab.evaluate(hues) == after
    assert page.faults == []


async def test_the_number_of_members_is_no_number_of_messages(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    await page.join("den")
    row = "document.querySelector('#room-list li[data-key=\"lobby\"]')"
    async with client.connect(chatd.url, nick="bob") as program:
        await program.join("lobby")
        await page.tab.until(f"{row}.querySelector('.count')?.title === '2 members'")
        assert await page.tab.evaluate(f"{row}.querySelector('.count svg') !== null")
        await program.say("hello")
        await page.tab.until(f"{row}.querySelector('.badge')?.textContent === '1 unread'")
        assert await page.tab.evaluate(f"{row}.querySelector('.count')") is None
    assert page.faults == []
