"""Who the user of the chat page is: the question before entering, tokens, a browser's tabs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from chatd import client
from tests.e2e.chat_page import ASKED, ChatPage, open_page
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter, free_port
from tests.e2e.chromium import Chromium, ChromiumProcess, Tab, open_chromium
from tests.e2e.test_page_polling import Proxy, faults
from tests.e2e.test_page_rights import sign_in
from tests.e2e.test_tokens import ROOT, issued, run

DIALOG: Final = "document.querySelector('#welcome')?.open"
NAME_ERROR: Final = "#welcome-name-error"


async def asked_page(chromium: Chromium, url: str) -> ChatPage:
    """Open the page in a browser that does not know it, and wait for the question."""
    page = ChatPage(await chromium.open_tab())
    await page.tab.navigate(url)
    await page.tab.until(ASKED)
    return page


async def answer(page: ChatPage, nick: str) -> None:
    """Type a name in place of the one that is there, and press Enter."""
    await page.tab.evaluate("document.querySelector('#welcome-nick').select()")
    await page.tab.type(nick)
    await page.tab.press("Enter")


async def seen_until(program: client.Chat, text: str) -> list[str]:
    """Return what a program was sent about users, before it gets its own message back."""
    await program.say(text, room="lobby")
    seen: list[str] = []
    while True:
        match await program.next_event():
            case client.Joined(nick=nick):
                seen.append(f"{nick} joined")
            case client.Left(nick=nick, reason=reason):
                seen.append(f"{nick} left ({reason})")
            case client.NickChange(before=before, nick=nick):
                seen.append(f"{before} is now {nick}")
            case client.Message(text=str(said)) if said == text:
                return seen


@pytest.mark.parametrize("upgrades", [True, False])
async def test_nobody_is_in_a_room_before_the_question_is_answered(
    upgrades: bool, chatd: ChatdProcess, chromium: Chromium, nursery: trio.Nursery
) -> None:
    proxy = Proxy(chatd.port, nursery, upgrades=upgrades)
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        page = await asked_page(chromium, f"http://localhost:{await proxy.listen()}/#den")
        assert (await program.who("lobby")).member_count == 1
        assert [room.room for room in await program.rooms()] == ["lobby"]
        # A lost connection changes nothing: the question is still there, and the same guest.
        guest = await page.tab.evaluate("document.querySelector('#welcome-later').textContent")
        await page.tab.call("Page.reload")
        await page.tab.until(ASKED)
        assert guest == await page.tab.evaluate(
            "document.querySelector('#welcome-later').textContent"
        )
        await answer(page, "zoe")
        await page.in_room("den")
        await page.members("zoe")
        await page.join("lobby")
        await page.members("json", "zoe")
        assert await seen_until(program, "one") == ["zoe joined"]
        await page.rename("Zoë")
        await page.members("json", "Zoë")
        assert await seen_until(program, "two") == ["zoe is now Zoë"]
    assert faults(page) == []


async def test_the_question_says_what_is_wrong_with_a_name(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    greeting = "Welcome, {nick}!\nBe kind in #{room}, <b>please</b>."
    chatd = await start_chatd({"chat.greeting": greeting})
    async with client.connect(chatd.url, nick="Dora") as program:
        await program.join("lobby")
        page = await asked_page(chromium, chatd.page)
        host = f"localhost:{chatd.port}"
        await page.tab.until_text(f"Welcome to {host}", within="#welcome-title")
        await page.tab.until_text("all of its messages", within="#welcome-readers")
        guest = await page.nick()
        assert guest.startswith("guest-")
        words = await page.tab.evaluate("document.querySelector('#welcome-greeting').textContent")
        assert words == greeting.replace("{nick}", guest).replace("{room}", "lobby")
        await page.tab.press("Enter")  # without a name
        await page.tab.until_text(f"Type a name first, or continue as {guest}.", NAME_ERROR)
        await answer(page, "Ann Smith")
        await page.tab.until_text("Nicks cannot contain spaces. Try Ann-Smith.", NAME_ERROR)
        await answer(page, "dora")
        await page.tab.until_text("The nick dora is taken. Try dora-2.", NAME_ERROR)
        assert (await program.who("lobby")).member_count == 1
        await page.tab.click("#welcome-later")
        await page.members("Dora", guest)
        assert await page.tab.evaluate("document.activeElement.id") == "composer-text"
        await page.reload()
        assert not await page.visible("#welcome")
    assert page.faults == []


async def test_an_answer_in_one_tab_counts_in_the_others(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    first = await asked_page(chromium, chatd.page)
    second = await asked_page(chromium, chatd.page)
    await answer(first, "zoe")
    for page in (first, second):
        await page.members("zoe")
        assert await page.nick() == "zoe"
    assert first.faults == second.faults == []


async def test_signing_in_shows_others_no_guest(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    token = await issued(tmp_path, "--user", "ann")
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        page = await asked_page(chromium, chatd.page)
        await page.tab.click("#by-token summary")
        await sign_in(page, "no.token.atall")
        await page.tab.until_text("This token is not valid", "#token-error")
        await page.tab.evaluate("document.querySelector('#token-input').select()")
        await sign_in(page, token)
        await page.members("ann", "json")
        assert await seen_until(program, "one") == ["ann joined"]

        # A guest who is in the room leaves it first.
        other = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
        await other.members("ann", "bob", "json")
        await other.tab.click("#sign-in")
        await sign_in(other, await issued(tmp_path, "--user", "carl"))
        await other.members("ann", "carl", "json")
        expected = ["bob joined", "bob left (leave)", "carl joined"]
        assert await seen_until(program, "two") == expected
    assert page.faults == other.faults == []


async def test_all_tabs_are_the_user_who_signed_in(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    first, waiting = await asked_page(chromium, chatd.page), await asked_page(chromium, chatd.page)
    await first.tab.click("#by-token summary")
    await sign_in(first, await issued(tmp_path, "--user", "ann"))
    await first.members("ann")
    await waiting.members("ann")  # it was still asking
    second = await open_page(chromium, chatd)
    assert await second.nick() == "ann"
    await first.members("ann")
    # Without being asked to, the browser keeps nothing that outlives the tabs.
    stored = "Object.values(localStorage).filter(text => text.includes('.ey')).length"
    assert await first.tab.evaluate(stored) == 0
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await second.members("ann", "json")
        await second.tab.click("#sign-out")
        await second.tab.until_text("Sign out?", "#question[open]")
        await second.tab.press("Enter")
        for page in (first, second, waiting):
            await page.tab.until(ASKED)
        assert (await program.who("lobby")).member_count == 1
    third = await asked_page(chromium, chatd.page)
    assert first.faults == second.faults == third.faults == []


async def test_a_browser_that_was_asked_to_keeps_the_user_across_its_restart(
    tmp_path: Path,
    token_settings: dict[str, Any],
    start_chatd: ChatdStarter,
    chromium_program: str,
    nursery: trio.Nursery,
) -> None:
    chatd = await start_chatd(token_settings)
    token = await issued(tmp_path, "--user", "ann")
    profile = tmp_path / "profile"
    for keeps in (False, True):
        process = await trio.to_thread.run_sync(ChromiumProcess, chromium_program, profile)
        browser = await open_chromium(process, nursery, private=False)
        page = await asked_page(browser, chatd.page)
        await page.tab.click("#by-token summary")
        if keeps:
            await page.tab.click("#token-keep")
        await sign_in(page, token)
        await page.members("ann")
        await quit_browser(process, browser, page.tab)
    process = await trio.to_thread.run_sync(ChromiumProcess, chromium_program, profile)
    browser = await open_chromium(process, nursery, private=False)
    page = await open_page(browser, chatd)
    assert await page.nick() == "ann"
    assert page.faults == []
    await browser.aclose()
    process.close()


async def quit_browser(process: ChromiumProcess, browser: Chromium, tab: Tab) -> None:
    """Quit as a user does, so that the browser saves what its pages have stored."""
    await tab.navigate("about:blank")
    await browser.call("Browser.close")
    await trio.to_thread.run_sync(process.wait)
    await browser.aclose()


@pytest.mark.parametrize("upgrades", [True, False])
async def test_a_token_that_is_no_longer_valid_makes_no_guest(
    upgrades: bool,
    tmp_path: Path,
    token_settings: dict[str, Any],
    start_chatd: ChatdStarter,
    chromium: Chromium,
    nursery: trio.Nursery,
) -> None:
    chatd = await start_chatd(token_settings)
    proxy = Proxy(chatd.port, nursery, upgrades=upgrades)
    url = f"http://localhost:{await proxy.listen()}/"
    page = await asked_page(chromium, url)
    await page.tab.press("Escape")
    await page.in_room("lobby")
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        kept = json.dumps("ey.bad.token")
        await page.tab.evaluate(f"sessionStorage['chatd.token'] = JSON.stringify({kept})")
        await page.tab.call("Page.reload")
        await page.tab.until(f"{DIALOG} && document.querySelector('#token-error').textContent")
        await page.tab.until(ASKED)
        await page.tab.press("Escape")
        await page.in_room("lobby")
    assert faults(page) == []


async def test_a_users_connection_ends_with_the_token(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    page = await asked_page(chromium, chatd.page)
    await page.tab.click("#by-token summary")
    await sign_in(page, await issued(tmp_path, "--user", "ann", "--expires", "5s"))
    await page.members("ann")
    await page.tab.until_text("You were signed out: your token has expired", "#token-error")
    await page.tab.until(ASKED)
    await sign_in(page, await issued(tmp_path, "--user", "ann"))
    await page.members("ann")
    assert page.faults == []


async def test_the_documented_sign_in_page_gives_the_cookie(
    tmp_path: Path, start_chatd: ChatdStarter, chromium: Chromium, nursery: trio.Nursery
) -> None:
    documented = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    for name in ("chatd.toml", "sign_in.py"):
        found = re.search(rf"^```\w+ {name}\n(.*?)^```", documented, re.DOTALL | re.MULTILINE)
        assert found is not None
        (tmp_path / name).write_text(found[1].replace("/etc/chatd", str(tmp_path)))
    await run("-m", "chatd", "token", "--new-key", "--output", str(tmp_path / "token.jwk"))
    chatd = await start_chatd(config=tmp_path / "chatd.toml")
    port = free_port()
    process = await trio.lowlevel.open_process(
        [sys.executable, "sign_in.py", str(port), chatd.page],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    try:
        assert process.stdout is not None
        assert b"sign in at" in await process.stdout.receive_some()
        page = ChatPage(await chromium.open_tab())
        await page.tab.navigate(f"http://localhost:{port}/")
        for password in ("wrong horse", "correct horse"):
            await page.tab.evaluate(
                "document.querySelector('[name=name]').value = 'ann',"
                f" document.querySelector('[name=password]').value = '{password}',"
                " document.querySelector('[name=password]').focus()"
            )
            await page.tab.submit()
        await page.members("ann")
        second = await open_page(chromium, chatd)
        assert await second.nick() == "ann"
        # The page cannot read the cookie, and so cannot sign the user out.
        assert await second.tab.evaluate("document.cookie") == ""
        assert not await second.visible("#sign-out")
    finally:
        process.kill()
        with trio.move_on_after(10, shield=True):
            await process.wait()
    assert second.faults == []
