"""The chat page: texts that begin with a slash, and actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from chatd import client
from tests.e2e.chat_page import ChatPage, open_page, texts_in
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import Chromium
from tests.e2e.test_page_words import act
from tests.e2e.test_tokens import issued

FIELD: Final = "document.querySelector('#composer-text')"
HINT: Final = "#composer-hint"


async def replace(page: ChatPage, text: str) -> None:
    """Put ``text`` in place of what is in the composer."""
    await page.tab.evaluate(f"{FIELD}.select()")
    await page.type(text)


async def test_commands_are_carried_out_and_never_said(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    async with client.connect(chatd.url, nick="bob") as program:
        await program.join("lobby")
        await page.members("ann", "bob")
        await page.send("/help")
        await page.line("notice", "/nick NICK: Change your name to NICK.")
        await page.line("notice", "// begins a message with a slash.")
        assert not await page.tab.evaluate(
            "document.querySelector('#log').textContent.includes('/ban')"
        )
        await page.send("/who")
        await page.line("notice", "ann, bob")
        await page.send("/rooms")
        await page.line("notice", "#lobby (2)")
        await page.send("/NICK Anna")
        await page.members("Anna", "bob")
        await page.line("notice", "You are now Anna.")
        # A refusal is shown, and the text stays in the field.
        await page.send("/nick bob")
        await page.tab.until_text("The nick bob is taken. Try bob-2.", HINT)
        assert await page.tab.evaluate(f"{FIELD}.value") == "/nick bob"
        await replace(page, "/ban bob 2h spam")
        await page.tab.press("Enter")
        await page.tab.until_text("Only operators can do this.", HINT)
        await replace(page, "/msg bob psst")
        await page.tab.press("Enter")
        await page.in_room("bob")
        await page.shows("psst")
        await page.send("/join #den")
        await page.in_room("den")
        await page.send("/leave")
        await page.in_room("lobby")
        await page.send("/search hello")
        await page.tab.until("!document.querySelector('#search').hidden")
        await page.tab.press("Escape")
        assert await texts_in(program, "lobby") == []
        await page.send("/quit")
        await page.tab.until_text("You left the chat.", within="#banner")
        await page.come_back()
        await page.members("Anna", "bob")
    assert page.faults == []


async def test_what_is_no_command_is_asked_about(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    for typed in ("/usr/bin/env", "/", "/ help", "/constructor", "/bann bob", "\n\n/bann bob"):
        await replace(page, typed)
        await page.tab.press("Enter")
        await page.tab.until_text("Type /help for the list.", HINT)
        assert await page.visible("#composer-anyway")
        assert await page.tab.evaluate(f"{FIELD}.value") == typed
        await page.type("x")
        await page.tab.until("document.querySelector('#composer-anyway').hidden")
    # A command that lacks something is not a message either.
    for typed, usage in (("/me", "Type /me TEXT."), ("/join a b", "Type /join ROOM.")):
        await replace(page, typed)
        await page.tab.press("Enter")
        await page.tab.until_text(usage, HINT)
        assert not await page.visible("#composer-anyway")
    assert await page.texts() == []
    await replace(page, "/usr/bin/env")
    await page.tab.press("Enter")
    await page.tab.until("!document.querySelector('#composer-anyway').hidden")
    await page.tab_to("#composer-anyway")
    await page.tab.press("Enter")
    await page.shows("/usr/bin/env")
    assert await page.tab.evaluate(f"{FIELD}.value") == ""
    await page.say(" /help")
    await page.send("//help")
    await page.shows("/help")
    assert await page.tab.evaluate("document.querySelector('#log .line.notice')") is None
    await page.tab.until("document.querySelectorAll('.message[data-seq]').length === 3")
    # An edit that begins with a slash keeps it, and is no command.
    await page.tab.press("ArrowUp")
    assert await page.tab.evaluate(f"{FIELD}.value") == "//help"
    await replace(page, "/nick zoe")
    await page.tab.press("Enter")
    await page.tab.until_text("A command cannot replace a message.", HINT)
    await replace(page, "//nick zoe")
    await page.tab.press("Enter")
    await page.shows("/nick zoe")
    assert await page.nick() == "ann"
    assert page.faults == []


async def test_an_action_is_shown_as_one(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    async with client.connect(chatd.url, nick="bob") as program:
        await program.join("lobby")
        await program.say("_waves at www.example.org_")  # as plain text and the terminal send it
        await page.shows("bob waves at www.example.org")
        assert await page.tab.evaluate("document.querySelector('.action a').href") == (
            "https://www.example.org/"
        )
        await page.send("/me dances")
        await page.shows("ann dances")
        for text in ("_a_ and _b_", "__init__", "_", "__", "snake_case_", "_ x_"):
            await program.say(text)
            await page.shows(text)
        assert (await texts_in(program, "lobby"))[:2] == ["_waves at www.example.org_", "_dances_"]
        await program.say("indeed", reply_to=2)
        await page.tab.until("document.querySelector('.quote .words')?.textContent === 'dances'")
        await act(page, 1, "Reply")
        await page.tab.until_text("Replying to bob: waves at", within="#about")
        await page.tab.press("Escape")
        await page.tab.press("ArrowUp")
        assert await page.tab.evaluate(f"{FIELD}.value") == "/me dances"
        await replace(page, "/me sings")
        await page.tab.press("Enter")
        await page.shows("ann sings")
        await page.tab.click("#search-open")
        await page.tab.type("sings")
        await page.tab.press("Enter")
        await page.tab.until(
            "document.querySelector('#search-list .text')?.textContent === 'sings'"
        )
        assert "_sings_" in await texts_in(program, "lobby")
    assert page.faults == []


async def test_operators_commands(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    page = await open_page(chromium, chatd, nick="somebody")
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await page.send(f"/auth {await issued(tmp_path, '--user', 'olga', '--op')}")
    await page.members("bob", "olga")
    await page.send("/help")
    await page.line("notice", "/ban NICK [TIME] [REASON]: Keep NICK out, for TIME.")
    await page.send("/topic tea and cake")
    await bob.tab.until_text("tea and cake", within="#room-topic")
    await page.send("/mute bob 10m calm down")
    await page.line("notice", "bob is muted.")
    await bob.line("notice", "You are muted in lobby by olga for 10 minutes: calm down")
    await page.send("/unmute @bob")
    await bob.line("notice", "You are no longer muted in lobby.")
    await page.send("/slow 30s")
    await bob.line("notice", "one message every 30 seconds")
    await page.send("/slow 0")
    await bob.line("notice", "Slow mode is off in lobby.")
    await page.send("/kick bob enough")
    await bob.line("gap", "You were kicked from lobby by olga: enough")
    await bob.tab.click("#room-list button")
    await page.members("bob", "olga")
    await page.send("/ban bob 2h")
    await bob.line("gap", "You are banned from lobby by olga for 2 hours.")
    await page.send("/unban bob")
    await page.line("notice", "bob is no longer banned.")
    await page.send("/close 1h")
    await page.line("notice", "The room is closed.")
    await page.send("/close 0")
    await page.line("notice", "The room is open.")
    assert await page.texts() == await bob.texts() == []
    assert page.faults == bob.faults == []


@pytest.mark.parametrize("typed", ["/help", "/usr", "//x", "hello"])
async def test_only_messages_are_announced_as_typing(
    typed: str, chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    async with client.connect(chatd.url, nick="bob") as program:
        await program.join("lobby")
        await page.members("ann", "bob")
        await page.type(typed)
        await page.rename("anna")  # by the same connection, so its event comes after the others
        seen = []
        while not isinstance(event := await program.next_event(), client.NickChange):
            seen.append(event)
        typing = [event for event in seen if isinstance(event, client.Typing)]
        assert bool(typing) == (typed in ("//x", "hello"))
    assert page.faults == []
