"""The chat page with tokens and operators, and messages that must wait."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from chatd import client
from tests.e2e.chat_page import ChatPage, open_page
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import Chromium
from tests.e2e.test_page_polling import Proxy, faults
from tests.e2e.test_tokens import issued

WELCOME: Final = "document.querySelector('#welcome')?.open"
ASKED: Final = "document.querySelector('#question').open"

Issue = Callable[..., Awaitable[str]]


async def sign_in(page: ChatPage, token: str) -> None:
    """Type a token into the dialog."""
    await page.tab.evaluate("document.querySelector('#token-input').focus()")
    await page.tab.type(token)
    await page.tab.evaluate("document.body.dataset.connection = 'reloading'")
    await page.tab.press("Enter")


@pytest.mark.parametrize("upgrades", [True, False])
async def test_a_token_is_asked_for_where_guests_are_off(
    upgrades: bool,
    tmp_path: Path,
    token_settings: dict[str, Any],
    start_chatd: ChatdStarter,
    chromium: Chromium,
    nursery: trio.Nursery,
) -> None:
    chatd = await start_chatd({**token_settings, "auth.guests": False})
    proxy = Proxy(chatd.port, nursery, upgrades=upgrades)
    page = ChatPage(await chromium.open_tab())
    await page.tab.navigate(f"http://localhost:{await proxy.listen()}/")
    await page.tab.until(WELCOME)
    assert not await page.visible("#welcome-name")
    await sign_in(page, "no.token.atall")
    await page.tab.until(f"{WELCOME} && document.querySelector('#token-error').textContent")
    await sign_in(page, await issued(tmp_path, "--user", "ann", "--nick", "annie"))
    await page.members("annie")
    assert not await page.visible("#welcome")
    await page.say("by token")
    await page.reload()
    await page.shows("by token")
    assert await page.tab.evaluate("document.querySelector('.message').dataset.state") == "sent"
    assert await page.tab.evaluate("localStorage['chatd.session'] ?? null") is None
    assert faults(page) == []


async def as_operator(
    tmp_path: Path, chatd: ChatdProcess, chromium: Chromium, nick: str = "ann"
) -> ChatPage:
    """Open a page as a guest and sign in."""
    page = await open_page(chromium, chatd, nick="somebody")
    await page.tab.click("#sign-in")
    await page.tab.until(WELCOME)
    await sign_in(page, await issued(tmp_path, "--user", nick, "--op"))
    await page.tab.until(f"document.querySelector('#me-name')?.textContent === {json.dumps(nick)}")
    return page


async def menu(page: ChatPage, nick: str, item: str) -> None:
    """Choose from a member's menu, after the previous dialog has closed."""
    await page.tab.until(
        f"!{ASKED} && [...document.querySelectorAll('#member-list button')]"
        f".some(button => button.textContent.includes({json.dumps(nick)}))"
    )
    await page.tab.evaluate(
        "[...document.querySelectorAll('#member-list button')]"
        f".find(button => button.textContent.includes({json.dumps(nick)})).click(),"
        " [...document.querySelectorAll('#menu button')]"
        f".find(button => button.textContent.startsWith({json.dumps(item)})).click()"
    )


async def test_an_operator_sets_the_topic_deletes_and_kicks(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await bob.say("rude words")

    await ann.tab.click("#room-topic")
    await ann.tab.type("tea & <b>cake</b>")
    await ann.tab.press("Enter")
    for page in (ann, bob):
        await page.tab.until_text("tea & <b>cake</b>", within="#room-topic")
        await page.line("topic", "ann set the topic: tea & <b>cake</b>")
    # Others see the topic and cannot edit it.
    assert await bob.tab.evaluate("document.querySelector('#room-topic').disabled")
    assert not await bob.visible("#room-menu")

    await ann.tab.evaluate(
        "document.querySelector('[data-seq=\"1\"]')"
        ".dispatchEvent(new PointerEvent('pointerover', {bubbles: true})), 1"
    )
    await ann.tab.click(".actions [aria-label=Delete]")
    await ann.tab.press("Enter")
    await bob.shows("Message deleted")

    await menu(ann, "bob", "Kick")
    await ann.tab.type("calm down")
    await ann.tab.press("Enter")
    await bob.line("gap", "You were kicked from lobby by ann: calm down")
    assert await bob.tab.evaluate("document.querySelector('#composer-text').disabled")
    await ann.line("presence", "bob was kicked")
    await bob.tab.click("#room-list button")
    await bob.members("ann", "bob")
    await bob.say("I am calm")
    assert ann.faults == bob.faults == []


async def in_room_menu(page: ChatPage, item: str) -> None:
    """Choose from the room's menu, after the previous dialog has closed."""
    await page.tab.until(f"!{ASKED}")
    await page.tab.click("#room-menu")
    await page.tab.evaluate(
        "[...document.querySelectorAll('#menu button')]"
        f".find(button => button.textContent.startsWith({json.dumps(item)})).click()"
    )


async def test_an_operator_who_joins_is_marked_as_one(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    ann = await as_operator(tmp_path, chatd, chromium)
    await bob.tab.until(
        "document.querySelector('#member-list li[data-key=ann] .tag')?.textContent === 'operator'"
    )
    assert ann.faults == bob.faults == []


async def test_an_operator_slows_and_closes_a_room(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")

    await in_room_menu(ann, "Slow")
    await ann.tab.evaluate("document.querySelector('#act-seconds').select()")
    await ann.tab.type("86401")
    await ann.tab.press("Enter")
    assert await ann.tab.evaluate(ASKED)
    await ann.tab.evaluate("document.querySelector('#act-seconds').select()")
    await ann.tab.type("600")
    await ann.tab.press("Enter")
    await bob.line("notice", "lobby: one message every 600 seconds")
    await bob.say("one")
    await bob.send("two")
    await bob.tab.until_text("Not sent yet. This room is in slow mode.", within="#log")
    await ann.say("slow is for others")
    await in_room_menu(ann, "Slow")
    await ann.tab.evaluate("document.querySelector('#act-seconds').select()")
    await ann.tab.type("0")
    await ann.tab.press("Enter")
    await bob.line("notice", "Slow mode is off in lobby.")
    await bob.tab.click("[data-state=held] [data-do=retry]")
    await ann.shows("one", "two")

    await in_room_menu(ann, "Close")
    await ann.tab.type("night")
    await ann.tab.press("Enter")
    await ann.line("notice", "The room is closed to everyone except operators.")
    await bob.line("gap", "You were kicked from lobby by ann: night")
    await bob.tab.click("#room-list button")
    await bob.tab.until_text("This room is closed", within="#log")
    await in_room_menu(ann, "Reopen")
    await ann.line("notice", "The room is open.")
    await bob.tab.click("#room-list button")
    await bob.members("ann", "bob")
    await bob.say("morning")
    await ann.shows("morning")

    await in_room_menu(ann, "Leave")
    await ann.tab.press("Enter")
    await ann.tab.until("!document.querySelector('#room-list li')")
    assert not await ann.visible("#room-menu")
    assert ann.faults == bob.faults == []


async def test_a_ban_is_lifted_by_name_and_by_network(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await bob.say("one")
    for number, by in enumerate(("room", "person")):
        await menu(ann, "bob", "Ban")
        await ann.tab.press("Enter")
        await bob.tab.until(
            f"{gaps('You are banned from lobby by ann for 10 minutes.')} === {number + 1}"
        )
        await ann.line("presence", "bob was banned")
        # The last line of it: what comes later would move what is clicked.
        warned = "document.querySelector('#log').innerText.split('as another guest.').length"
        await ann.tab.until(f"{warned} === {number + 2}")
        if by == "room":
            await in_room_menu(ann, "Unban")
            await ann.tab.type("boob")
            await ann.tab.press("Enter")
            await ann.tab.until_text("There is no such ban.", within="#question-error")
            await ann.tab.evaluate("document.querySelector('#act-name').select()")
            await ann.tab.type("Bob")
            await ann.tab.press("Enter")
            await ann.line("notice", "Bob is no longer banned.")
        else:
            await ann.tab.click("#log .who .nick")
            last = "[...document.querySelectorAll('#menu button')].at(-1)"
            await ann.tab.until(f"{last}.textContent === 'Unban'")
            await ann.tab.evaluate(f"{last}.click()")
            await ann.line("notice", "bob is no longer banned.")
        await bob.tab.click("#room-list button")
        await bob.members("ann", "bob")
        await ann.members("ann", "bob")
    # A network that was banned from the console is lifted by its address.
    await in_room_menu(ann, "Unban")
    await ann.tab.type("192.0.2.0/24")
    await ann.tab.press("Enter")
    await ann.tab.until_text("There is no such ban.", within="#question-error")
    await ann.tab.press("Escape")
    async with client.connect(
        chatd.url, token=await issued(tmp_path, "--user", "op", "--op")
    ) as op:
        await op.ban(network="192.0.2.0/24")
        await in_room_menu(ann, "Unban")
        await ann.tab.type("192.0.2.0/24")
        await ann.tab.press("Enter")
        await ann.line("notice", "192.0.2.0/24 is no longer banned.")
        with pytest.raises(client.Refused, match="There is no such ban"):
            await op.unban(network="192.0.2.0/24")
    assert ann.faults == bob.faults == []


async def test_a_late_answer_does_not_close_the_next_dialog(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await in_room_menu(ann, "Slow")
    choose = "[...document.querySelectorAll('#menu button')].find(at => at.textContent[0] === 'C')"
    await ann.tab.evaluate(
        "document.querySelector('#question-yes').click(),"
        " document.querySelector('#question-no').click(),"
        f" document.querySelector('#room-menu').click(), {choose}.click()"
    )
    await bob.line("notice", "Slow mode is on in lobby: one message every 30 seconds.")
    await bob.say("the answer came before this")
    await ann.shows("the answer came before this")
    await ann.tab.until_text("Close #lobby?", within="#question[open]")
    await ann.tab.type("late")
    await ann.tab.press("Enter")
    await bob.line("gap", "You were kicked from lobby by ann: late")
    assert ann.faults == bob.faults == []


def gaps(text: str) -> str:
    """Return an expression that counts the gap lines with this text."""
    return (
        "[...document.querySelectorAll('#log .line.gap')]"
        f".filter(node => node.textContent.includes({json.dumps(text)})).length"
    )


async def test_messages_of_a_muted_user_wait(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await menu(ann, "bob", "Mute")
    await ann.tab.until(ASKED)
    await ann.tab.type("hush")
    await ann.tab.press("Enter")
    await bob.line("notice", "You are muted")
    await bob.send("one")
    await bob.send("two")
    held = "document.querySelectorAll('.message[data-state=held]').length"
    await bob.tab.until(f"{held} === 1")
    await bob.tab.until_text("Not sent yet. You are muted", within="#log")
    await bob.reload()
    await bob.shows("one", "two")
    await bob.tab.until(f"{held} === 1")
    await menu(ann, "bob", "Unmute")
    await ann.line("notice", "bob is no longer muted.")
    await bob.line("notice", "You are no longer muted")
    assert "There is no such" not in await ann.tab.evaluate(
        "document.querySelector('#log').textContent"
    )
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await bob.tab.until_text("json", within="#member-list")
        await bob.tab.click("[data-state=held] [data-do=retry]")
        await ann.shows("one", "two")
        await bob.tab.until("document.querySelectorAll('[data-state=sent]').length === 2")
    assert ann.faults == bob.faults == []


async def test_a_banned_user_sees_the_reason(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await menu(ann, "bob", "Ban")
    await ann.tab.evaluate(
        "document.querySelector('#act-where').value = '',"
        " document.querySelector('#act-reason').focus(), 1"
    )
    await ann.tab.type("enough")
    await ann.tab.press("Enter")
    await bob.tab.until_text("You are banned: enough", within="#banner")
    assert ann.faults == bob.faults == []


async def test_direct_messages_with_a_signed_in_user_are_stored(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await menu(bob, "ann", "Message")
    await bob.in_room("ann")
    await bob.say("psst")
    await ann.tab.until("document.querySelector('#direct-list .badge')")
    await ann.reload()
    await ann.tab.until("document.querySelector('#direct-list .badge')")
    await ann.tab.click("#direct-list button")
    await ann.in_room("bob")
    await ann.shows("psst")
    await ann.tab.until("!document.querySelector('#direct-list .badge')")
    await ann.say("yes?")
    await bob.shows("psst", "yes?")
    await bob.reload()
    await bob.in_room("ann")
    await bob.shows("psst", "yes?")
    # A closed conversation is hidden until a new message comes.
    await bob.tab.click("#conversation-close")
    await bob.in_room("lobby")
    await bob.reload()
    assert not await bob.visible("#directs")
    await ann.say("still there?")
    await bob.tab.until("document.querySelector('#direct-list .badge')?.textContent[0] === '1'")
    assert ann.faults == bob.faults == []


_ITEMS: Final = "[...document.querySelectorAll('#menu button')].map(button => button.textContent)"


async def items(page: ChatPage, opener: str) -> list[str]:
    """Open a menu, return its items, and close it."""
    await page.tab.until(f"!{ASKED}")
    await page.tab.evaluate(f"document.querySelector({json.dumps(opener)}).click()")
    found = list(await page.tab.evaluate(_ITEMS))
    await page.tab.press("Escape")
    return found


async def test_menus_show_what_applies_and_what_was_done(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await ann.members("ann", "bob")
    of_bob = "#member-list button"
    assert await items(ann, of_bob) == ["Message bob", "Mute …", "Kick …", "Ban …"]
    colour = "(text => getComputedStyle([...document.querySelectorAll('#menu button')]"
    colour += ".find(button => button.textContent.startsWith(text))).color)"
    assert await ann.tab.evaluate(f"{colour}('Ban') !== {colour}('Mute')")
    assert await ann.tab.evaluate(f"{colour}('Ban') === {colour}('Kick')")

    await menu(ann, "bob", "Mute")
    assert not await ann.tab.evaluate(
        "document.querySelector('#question-yes').classList.contains('danger')"
    )
    await ann.tab.press("Enter")
    await ann.line("notice", "bob is muted in #lobby for 10 minutes.")
    tags = "[...document.querySelectorAll('#member-list .tag')].map(tag => tag.textContent)"
    await ann.tab.until(f"{tags}.includes('muted')")
    assert "muted" not in await bob.tab.evaluate(tags)
    assert await items(ann, of_bob) == ["Message bob", "Unmute", "Kick …", "Ban …"]
    await in_room_menu(ann, "Bans")
    await ann.tab.until_text("bob: muted in #lobby until", within="#question[open]")
    await ann.tab.click("#question .held button")
    await ann.tab.until("!document.querySelector('#question .held li')")
    await bob.line("notice", "You are no longer muted in lobby.")
    await ann.tab.press("Escape")
    await ann.tab.until(f"!{tags}.includes('muted')")

    await menu(ann, "bob", "Ban")
    await ann.tab.until(ASKED)
    assert await ann.tab.evaluate(
        "document.querySelector('#question-yes').classList.contains('danger')"
    )
    await ann.tab.press("Enter")
    await ann.line("notice", "bob is banned in #lobby for 10 minutes.")
    await in_room_menu(ann, "Bans")
    await ann.tab.until_text("bob: banned in #lobby until", within="#question[open]")
    await ann.tab.press("Escape")

    room_menu = "#room-menu"
    assert "Close this room …" in await items(ann, room_menu)
    assert "Reopen this room" not in await items(ann, room_menu)
    await in_room_menu(ann, "Close")
    await ann.tab.press("Enter")
    await ann.line("notice", "The room is closed to everyone except operators.")
    assert "Reopen this room" in await items(ann, room_menu)
    assert "Close this room …" not in await items(ann, room_menu)

    # There is nothing to do to another operator.
    token = await issued(tmp_path, "--user", "olga", "--op")
    async with client.connect(chatd.url, token=token) as olga:
        await olga.join("lobby")
        await ann.members("ann", "olga")
        assert await items(ann, of_bob) == ["Message olga"]
    assert ann.faults == bob.faults == []


async def test_a_kick_is_shown_once(
    tmp_path: Path, token_settings: dict[str, Any], start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(token_settings)
    ann = await as_operator(tmp_path, chatd, chromium)
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await bob.say("hello")
    await menu(ann, "bob", "Kick")
    await ann.tab.type("calm down")
    await ann.tab.press("Enter")
    text = "You were kicked from lobby by ann: calm down"
    await bob.line("gap", text)
    await bob.from_end()  # everything is drawn
    lines = "[...document.querySelectorAll('#log .line')].map(line => line.textContent)"
    told = [line for line in await bob.tab.evaluate(lines) if "kicked" in line or "removed" in line]
    assert len(told) == 1
    assert await bob.tab.evaluate("document.querySelector('#banner').hidden")
    # The head, the list of members and the list of rooms agree: the user is not there.
    assert await bob.tab.evaluate("document.querySelector('#member-count').textContent") == ""
    assert await bob.tab.evaluate("document.querySelector('#room-list .count')") is None
    await bob.members()
    assert await bob.tab.evaluate("document.querySelector('#composer-text').disabled")
    assert await bob.tab.evaluate("document.querySelector('#composer-text').placeholder") == text
    assert await bob.style("#composer", "borderStyle") == "dashed"
    await bob.tab.click("#room-list button")
    await bob.members("ann", "bob")
    assert await bob.style("#composer", "borderStyle") == "solid"
    await bob.say("I am calm")
    assert ann.faults == bob.faults == []
