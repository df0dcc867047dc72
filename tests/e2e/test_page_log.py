"""The chat page's log of a long history: what is loaded, kept and let go while scrolling."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from chatd import client
from tests.e2e.chat_page import ChatPage, open_page
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import Chromium
from tests.e2e.programs import chatd_says
from tests.e2e.test_transfer import config

MESSAGES: Final = 3000

MOST_ENTRIES: Final = 400  # MAX_ENTRIES in room.js
MOST_ROWS: Final = 500
"""Rows that the page keeps in its document, the days and notices among them included."""

SEQS: Final = "[...document.querySelectorAll('#log [data-seq]')].map(n => Number(n.dataset.seq))"

# The first message in view, and where it is.
IN_VIEW: Final = (
    "(() => { const edge = document.querySelector('#scroller').getBoundingClientRect().top;"
    " const node = [...document.querySelectorAll('#log [data-seq]')]"
    " .find(each => each.getBoundingClientRect().bottom > edge);"
    " return [Number(node.dataset.seq), node.getBoundingClientRect().top]; })()"
)


@pytest.fixture
async def long_chat(tmp_path: Path, start_chatd: ChatdStarter) -> ChatdProcess:
    """Return a daemon whose default room has a history of many days, an hour a message."""
    begin = datetime.now(UTC) - timedelta(hours=MESSAGES)
    lines = [
        {
            "room": "lobby",
            "seq": seq,
            "on": "message",
            "from": "ann",
            "user": "ann",
            "at": f"{begin + timedelta(hours=seq):%Y-%m-%dT%H:%M:%S}.000Z",
            "text": f"message {seq}" + seq % 5 * "\nand a line",
        }
        for seq in range(1, MESSAGES + 1)
    ]
    stdin = "".join(json.dumps(line) + "\n" for line in lines).encode()
    off = ("messages_per_second", "bytes_per_second", "requests_per_second", "requests_burst")
    settings = {f"limits.{name}": "off" for name in off}
    chatd = await start_chatd({**settings, "admin.socket": str(tmp_path / "admin.sock")})
    of_it = ("--config", config(tmp_path, chatd.history))
    code, _, said = await chatd_says("import", *of_it, stdin=stdin)
    assert code == 0, said
    return chatd


async def scroll(page: ChatPage, to: str, condition: str) -> None:
    """Scroll to an end of what is loaded, again and again, until ``condition`` is true."""
    await page.tab.evaluate(
        "(() => { const scroller = document.querySelector('#scroller');"
        f" window.going = setInterval(() => scroller.scrollTop = {to}, 10); }})()"
    )
    await page.tab.until(condition)
    await page.tab.evaluate("clearInterval(window.going)")


async def load_older(page: ChatPage) -> None:
    """Scroll up, and wait until earlier messages have come."""
    oldest = (await page.tab.evaluate(SEQS))[0]
    seq, top = await page.tab.evaluate(
        f"document.querySelector('#scroller').scrollTop = 50, {IN_VIEW}"
    )
    await page.tab.until(f"{SEQS}[0] < {oldest}")
    # What was in view stays in its place.
    assert abs(await top_of(page, seq) - top) < 2


async def top_of(page: ChatPage, seq: int) -> float:
    """Return where on the screen a message begins, which must be loaded."""
    return float(
        await page.tab.evaluate(
            f"document.querySelector('#log [data-seq=\"{seq}\"]').getBoundingClientRect().top"
        )
    )


async def go_to(page: ChatPage, program: client.Chat, seq: int) -> None:
    """Follow a reply to an old message."""
    await program.say("this one", reply_to=seq)
    await page.shows("this one")
    await page.tab.evaluate("[...document.querySelectorAll('#log .quote')].at(-1).click()")
    await page.tab.until(f"document.activeElement.dataset.seq === '{seq}'")


async def test_rows_out_of_sight_are_let_go(long_chat: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, long_chat, nick="bob")
    await page.tab.evaluate(
        "window.most = 0, new MutationObserver(() => window.most = Math.max(window.most,"
        " document.querySelector('#log').children.length))"
        ".observe(document.querySelector('#log'), {childList: true})"
    )
    async with client.connect(long_chat.url, nick="json") as program:
        await program.join("lobby")
        held = [MESSAGES]
        while held[0] > MESSAGES - 600:
            await load_older(page)
            held = await page.tab.evaluate(SEQS)
            assert held == list(range(held[0], held[-1] + 1))
        await program.say("while you read")
        await page.tab.until_text("1 new message", within="#pill")
        await scroll(page, "0", f"{SEQS}[0] === 1")
        await page.tab.until_text("This is the beginning of #lobby.", within="#log-top")
        assert await page.tab.evaluate("window.most") < MOST_ROWS

        await page.tab.click("#pill")
        await page.shows("while you read")
        assert await page.from_end() < 2
        assert await page.tab.evaluate("document.querySelector('#log').children.length") < MOST_ROWS

        # Down again from an old message.
        await go_to(page, program, 60)
        last = MESSAGES + 2
        await scroll(page, "scroller.scrollHeight", f"{SEQS}.at(-1) === {last}")
        held = await page.tab.evaluate(SEQS)
        assert held == list(range(held[0], last + 1))
        await program.say("live again")
        await page.shows("while you read", "live again")
        assert await page.tab.evaluate("window.most") < MOST_ROWS
    assert page.faults == []


async def test_what_is_read_stays_while_many_messages_come(
    long_chat: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, long_chat, nick="bob")
    while len(await page.tab.evaluate(SEQS)) < MOST_ENTRIES:
        await load_older(page)
    # Near the top, but not so near that more is loaded.
    seq, top = await page.tab.evaluate(
        f"document.querySelector('#scroller').scrollTop = 700, {IN_VIEW}"
    )
    async with client.connect(long_chat.url, nick="json") as program:
        await program.join("lobby")
        await page.members("bob", "json")
        assert abs(await top_of(page, seq) - top) < 2
        for number in range(450):
            await program.say(f"live {number}")
        await page.tab.until_text("450 new messages", within="#pill")
        assert abs(await top_of(page, seq) - top) < 2
        rows = await page.tab.evaluate("document.querySelector('#log').children.length")
        assert rows < MOST_ROWS
        await page.tab.click("#pill")
        await page.shows("live 448", "live 449")
        assert await page.from_end() < 2
        # A room that was left in the middle of its history shows its end on the way back.
        await scroll(page, "0", f"{SEQS}[0] < {MESSAGES - 300}")
        await page.join("den")
        await page.switch("lobby")
        await page.shows("live 448", "live 449")
        assert await page.from_end() < 2
    assert page.faults == []


async def test_the_date_of_what_is_in_view_is_shown(
    long_chat: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, long_chat, nick="bob")
    assert not await page.visible("#date")
    async with client.connect(long_chat.url, nick="json") as program:
        await program.join("lobby")
        await go_to(page, program, 60)
    await page.tab.until("!document.querySelector('#date').hidden")
    shown, whole = await page.tab.evaluate(
        f"[document.querySelector('#date').textContent,"
        f' document.querySelector(`[data-seq="${{{IN_VIEW}[0]}}"] time`).title]'
    )
    # The title has the whole date: "Saturday, August 1, 2026 at 5:12:03 AM".
    assert all(word in whole for word in shown.replace(",", "").split())
    await page.tab.click("#pill")
    await page.tab.until("document.querySelector('#date').hidden")
    assert page.faults == []
