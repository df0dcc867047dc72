"""The chat page: edits, deletions, replies, search, read marks, direct messages."""

from __future__ import annotations

import json
from typing import Final

import trio

from chatd import client
from tests.e2e.chat_page import ChatPage, open_page, texts_in
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import Chromium
from tests.e2e.test_page_polling import Proxy, faults

HOSTILE: Final = "<img src=x onerror='window.hacked=1'><b>bold</b> javascript:window.hacked=1"


def message(seq: int) -> str:
    return f"document.querySelector('#log .message[data-seq=\"{seq}\"]')"


async def act(page: ChatPage, seq: int, name: str) -> None:
    """Hover over a message and press one of its buttons."""
    await page.tab.evaluate(
        f"{message(seq)}.dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}})), 1"
    )
    await page.tab.click(f"#log [data-seq='{seq}'] .actions [aria-label={name}]")


async def test_a_message_is_edited(chatd: ChatdProcess, chromium: Chromium) -> None:
    ann = await open_page(chromium, chatd, nick="ann")
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await ann.say("helo")
    await ann.type("half a thought")
    await act(ann, 1, "Edit")
    value = "document.querySelector('#composer-text').value"
    assert await ann.tab.evaluate(value) == "helo"
    await ann.tab.press("Escape")
    assert await ann.tab.evaluate(value) == "half a thought"
    assert not await ann.visible("#about")
    await ann.tab.evaluate("document.querySelector('#composer-text').select()")
    await ann.tab.type("  ")
    await ann.tab.evaluate(
        "document.querySelector('#composer-text').value = '',"
        " document.querySelector('#composer-text').dispatchEvent(new Event('input')), 1"
    )
    # Arrow-up edits the user's last message.
    await ann.tab.press("ArrowUp")
    assert await ann.tab.evaluate(value) == "helo"
    await ann.tab.evaluate("document.querySelector('#composer-text').select()")
    await ann.tab.type("hello")
    await ann.tab.press("Enter")
    for page in (ann, bob):
        await page.shows("hello")
        await page.tab.until(f"{message(1)}.querySelector('.edited')")
        assert await page.texts() == ["hello"]
    await ann.tab.until("document.querySelector('#about').hidden")
    # Other users' messages have no such button.
    await bob.tab.evaluate(
        f"{message(1)}.dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}})), 1"
    )
    shown = (
        "[...document.querySelectorAll('.actions button')]"
        ".filter(button => !button.hidden).map(button => button.ariaLabel)"
    )
    assert await bob.tab.evaluate(shown) == ["Reply"]
    await bob.reload()
    await bob.tab.until(f"{message(1)}?.querySelector('.edited')")
    assert await bob.texts() == ["hello"]
    assert ann.faults == bob.faults == []


async def test_a_message_is_deleted(chatd: ChatdProcess, chromium: Chromium) -> None:
    ann = await open_page(chromium, chatd, nick="ann")
    await ann.say("a secret")
    await ann.say("no secret")
    await act(ann, 1, "Delete")
    await ann.tab.until("document.querySelector('#question').open")
    await ann.tab.press("Escape")
    await ann.tab.until("!document.querySelector('#question').open")
    assert await ann.texts() == ["a secret", "no secret"]
    await act(ann, 1, "Delete")
    await ann.tab.until("document.querySelector('#question').open")
    await ann.tab.press("Enter")
    await ann.shows("Message deleted", "no secret")
    assert "a secret" not in await ann.tab.evaluate("document.documentElement.outerHTML")
    await ann.reload()
    await ann.shows("Message deleted", "no secret")
    async with client.connect(chatd.url) as program:
        assert await texts_in(program, "lobby") == [None, "no secret"]
    assert ann.faults == []


async def test_replies_quote_the_message(start_chatd: ChatdStarter, chromium: Chromium) -> None:
    chatd = await start_chatd({"limits.messages_per_second": "off", "limits.messages_burst": "off"})
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await program.say("the question")
        for number in range(200):
            await program.say(f"filler {number}\nand a line")
        page = await open_page(chromium, chatd, nick="ann")
        await program.say("the answer", reply_to=1)
        quote = f"{message(202)}?.querySelector('.quote')"
        # It is above the loaded entries: loaded once for its text, and again to be shown in place.
        await page.tab.until(f"{quote}?.textContent.includes('the question')")
        assert await page.tab.evaluate(message(1)) is None
        await page.tab.click("[data-seq='202'] .quote")
        await page.tab.until(f"{message(1)} && {message(1)} === document.activeElement")
        # A new message is not appended to an older part of the log.
        await program.say("meanwhile")
        await page.tab.until_text("latest", within="#pill")
        assert "meanwhile" not in await page.texts()
        await page.tab.click("#pill")
        await page.shows("the answer", "meanwhile")
        assert await page.from_end() < 2

        await act(page, 202, "Reply")
        await page.tab.until_text("Replying to json: the answer", within="#about")
        await page.say("my answer")
        await page.tab.until(
            f"{message(204)}?.querySelector('.quote .words').textContent === 'the answer'"
        )
        assert not await page.visible("#about")
        events = (await program.history("lobby", limit=1)).events
        assert isinstance(events[0], client.Message)
        assert events[0].reply_to == 202
    assert page.faults == []


async def test_scrolling_down_from_a_search_result_loads_the_rest(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd({"limits.messages_per_second": "off", "limits.messages_burst": "off"})
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        for number in range(1, 301):
            await program.say(f"message {number}" + (" needle" if number == 60 else ""))
        page = await open_page(chromium, chatd, nick="ann")
        await find(page, "needle")
        await page.tab.click("#search-list button")
        await page.tab.until(f"{message(60)} === document.activeElement")
        assert not await page.visible("#search")
        await page.tab.evaluate(
            "(() => { const scroller = document.querySelector('#scroller');"
            " window.going = setInterval(() => scroller.scrollTop = scroller.scrollHeight, 30);"
            " })()"
        )
        await page.tab.until(message(300))
        await page.tab.evaluate("clearInterval(window.going)")
        await program.say("the latest")
        await page.shows("the latest")
        seqs = "[...document.querySelectorAll('#log [data-seq]')].map(n => Number(n.dataset.seq))"
        held = await page.tab.evaluate(seqs)
        assert held == list(range(held[0], 302))
    assert page.faults == []


async def find(page: ChatPage, query: str) -> None:
    await page.tab.click("#search-open")
    await page.tab.evaluate("document.querySelector('#search-query').select()")
    await page.tab.type(query)
    await page.tab.press("Enter")
    await page.tab.until("document.querySelector('#search-list li, #search-note:not(:empty)')")
    await page.tab.until("document.querySelector('#search-note').textContent !== 'Searching …'")


async def test_search(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    await page.say("Crème brûlée is served")
    await page.say("nothing of it")
    await page.say("creme again")
    await find(page, "CREME")
    found = "[...document.querySelectorAll('#search-list .text')].map(n => n.textContent)"
    assert await page.tab.evaluate(found) == ["creme again", "Crème brûlée is served"]
    marks = "[...document.querySelectorAll('#search-list mark')].map(n => n.textContent)"
    assert await page.tab.evaluate(marks) == ["creme", "Crème"]
    await page.tab.press("Escape")
    await page.tab.until("document.querySelector('#search').hidden")
    await find(page, "nowhere")
    assert await page.tab.evaluate("document.querySelector('#search-note').textContent") == (
        "Nothing found in this room. Words are found by their beginning."
    )
    assert page.faults == []


_LINKED: Final = [
    ("see www.example.org.", [("www.example.org", "https://www.example.org/")]),
    ("WWW.Example.org/a_(b), ok", [("WWW.Example.org/a_(b)", "https://www.example.org/a_(b)")]),
    ("(http://a.b/c?d=e#f)", [("http://a.b/c?d=e#f", "http://a.b/c?d=e#f")]),
    ("mail ann.b+c@example.co.uk!", [("ann.b+c@example.co.uk", "mailto:ann.b+c@example.co.uk")]),
    (
        "in #garden, #日本 and #a.b-c.",
        [("#garden", "#garden"), ("#日本", "#日本"), ("#a.b-c", "#a.b-c")],
    ),
    ("#3d #2fa", [("#3d", "#3d"), ("#2fa", "#2fa")]),
    ("issue #12, C#, a#b, ## and #", []),
    ("&#x41; http:// www. @ann a@b www.x", []),
    ("javascript:alert(1) data:text/html,x ftp://a.b file:///etc", []),
    ("https://example.org/#lobby", [("https://example.org/#lobby", "https://example.org/#lobby")]),
    ('www.a.b"onclick="x', [("www.a.b", "https://www.a.b/")]),
]


async def test_addresses_and_rooms_are_links(start_chatd: ChatdStarter, chromium: Chromium) -> None:
    chatd = await start_chatd({"limits.messages_per_second": "off", "limits.messages_burst": "off"})
    page = await open_page(chromium, chatd, nick="ann")
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await program.join("Garden")
        for text, _ in _LINKED:
            await program.say(text, room="lobby")
        await page.shows(*(text for text, _ in _LINKED))
        found = (
            "[...document.querySelectorAll('#log .text')].map(text =>"
            " [...text.querySelectorAll('a')].map(a =>"
            " [a.textContent, a.dataset.room ? decodeURI(a.hash) : a.href]))"
        )
        expected = [[list(link) for link in links] for _, links in _LINKED]
        assert await page.tab.evaluate(found) == expected
        outside = "[...document.querySelectorAll('#log a:not(.room)')]"
        assert await page.tab.evaluate(
            f"{outside}.every(a => a.target === '_blank' && a.rel === 'noopener noreferrer')"
        )
        # A room is entered, however its name is written; a new one is asked about.
        await page.tab.click("#log a[data-room=garden]")
        await page.in_room("Garden")
        await page.switch("lobby")
        await page.tab.click("#log a[data-room='2fa']")
        await page.tab.until_text("Create #2fa?", within="#question[open]")
        await page.tab.press("Escape")
        await page.tab.until("!document.querySelector('#question').open")
        assert await page.rooms() == ["lobby", "Garden"]
        await page.tab.click("#log a[data-room='3d']")
        await page.tab.until("document.querySelector('#question').open")
        await page.tab.press("Enter")
        await page.in_room("3d")
    assert page.faults == []


# Hands a picture, and perhaps a text, to an element. False if the page took it.
_HANDED: Final = """((selector, Kind, type, text) => {
  const given = new DataTransfer();
  given.items.add(new File(['x'], 'cat.png', {type: 'image/png'}));
  if (text) given.setData('text/plain', text);
  return document.querySelector(selector).dispatchEvent(new Kind(type,
    {bubbles: true, cancelable: true, clipboardData: given, dataTransfer: given}));
})"""


async def test_a_picture_is_refused_with_words(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    hint = "document.querySelector('#composer-hint').textContent"
    await page.tab.evaluate(f"{_HANDED}('#composer-text', ClipboardEvent, 'paste')")
    await page.tab.until(f"{hint} === 'Files and pictures cannot be sent in this chat.'")
    await page.type("x")
    await page.tab.until(f"!{hint}")
    # The browser would otherwise leave the chat for the file.
    assert await page.tab.evaluate(f"{_HANDED}('#log', DragEvent, 'drop')") is False
    await page.tab.until(f"{hint} === 'Files and pictures cannot be sent in this chat.'")
    await page.type("y")
    await page.tab.until(f"!{hint}")
    # A program that copies a text with a picture of it means the text.
    await page.tab.evaluate(f"{_HANDED}('#composer-text', ClipboardEvent, 'paste', 'text')")
    assert not await page.tab.evaluate(hint)
    assert page.faults == []


async def test_guests_are_warned_before_their_first_direct_message(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    ann = await open_page(chromium, chatd, nick="ann")
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await ann.members("ann", "bob")
    await ann.send("/join @bob")
    await ann.in_room("bob")
    await ann.tab.until_text("Messages between guests are not saved.", within="#empty")
    await ann.send("psst")
    await ann.shows("psst")
    await ann.tab.until_text("Messages between guests are not saved.", within="#log-top")
    await ann.reload()
    await ann.in_room("bob")
    await ann.tab.until_text("Messages between guests are not saved.", within="#empty")
    assert "No messages" not in await ann.tab.evaluate("document.body.innerText")
    assert ann.faults == bob.faults == []


async def test_typing_is_shown(chatd: ChatdProcess, chromium: Chromium) -> None:
    ann = await open_page(chromium, chatd, nick="ann")
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    await ann.type("hel")
    await bob.tab.until_text("ann is typing …", within="#writers")
    await ann.send("lo")
    await bob.shows("hello")
    await bob.tab.until("!document.querySelector('#writers').textContent")
    assert not await ann.tab.evaluate("document.querySelector('#writers').textContent")
    assert ann.faults == bob.faults == []


async def test_unread_messages_are_counted_across_visits_and_tabs(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await program.say("seen")
        await page.shows("seen")
        await page.join("den")
        await page.say("here")
        await page.tab.navigate("about:blank")
        for number in range(3):
            await program.say(f"unseen {number}")
        await page.tab.navigate(f"{chatd.page}#den")
        badge = "document.querySelector('#room-list li[data-key=\"lobby\"] .badge')"
        await page.tab.until(f"{badge}?.textContent.startsWith('3')")
        await page.tab.until("document.title.startsWith('(3) #den')")
        # Reading in one tab clears the count in the other one.
        other = await open_page(chromium, chatd)
        await other.switch("lobby")
        await other.tab.until_text("unseen 2", within="#log")
        await page.tab.until(f"!{badge}")
    assert page.faults == other.faults == []


async def test_members_set_the_topic_where_they_may(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd({"chat.topics": "members", "chat.rules": ["notes write=operators"]})
    ann = await open_page(chromium, chatd, nick="ann")
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    shown = "document.querySelector('#room-topic').textContent"
    assert await ann.tab.evaluate(shown) == "Set a topic"
    await ann.tab.click("#room-topic")
    await ann.tab.type("tea")
    await ann.tab.press("Enter")
    for page in (ann, bob):
        await page.tab.until(f"{shown} === 'tea'")
    # A refusal is shown, and the text stays in the field.
    await bob.tab.click("#room-topic")
    await bob.tab.type("é" * 600)
    await bob.tab.press("Enter")
    await bob.tab.until_text("1024 bytes", within="#topic-error")
    assert await bob.tab.evaluate("document.querySelector('#topic-input').value.length") == 600
    # An empty text removes the topic.
    await bob.tab.evaluate("document.querySelector('#topic-input').value = ''")
    await bob.tab.press("Enter")
    for page in (ann, bob):
        await page.line("topic", "bob removed the topic")
        await page.tab.until(f"{shown} === 'Set a topic'")
    await bob.join("notes")
    assert not await bob.visible("#room-topic")
    assert ann.faults == bob.faults == []


async def test_direct_messages(chatd: ChatdProcess, chromium: Chromium) -> None:
    ann = await open_page(chromium, chatd, nick="ann")
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await ann.members("ann", "bob", "json")
        await ann.tab.evaluate(
            "[...document.querySelectorAll('#member-list button')]"
            ".find(button => button.textContent.includes('bob')).click()"
        )
        await ann.tab.press("Enter")  # the menu's first entry has the focus
        await ann.in_room("bob")
        await ann.send("between us")
        await ann.shows("between us")
        await bob.tab.until_text("ann", within="#direct-list")
        await bob.tab.until("document.querySelector('#direct-list .badge')")
        await bob.tab.until("document.title.startsWith('(1) ')")
        await bob.tab.click("#direct-list button")
        await bob.in_room("ann")
        await bob.shows("between us")
        await bob.tab.until_text("are not saved", within="#log-top")
        await bob.send("indeed")
        await ann.shows("between us", "indeed")
        assert await ann.texts() == ["between us", "indeed"]
        assert not await ann.visible("#leave")
        await ann.tab.click("#conversation-close")
        await ann.in_room("lobby")
        assert await ann.texts() == []
        assert await texts_in(program, "lobby") == []
    assert ann.faults == bob.faults == []


async def test_the_name_is_asked_for_once(chatd: ChatdProcess, chromium: Chromium) -> None:
    async with client.connect(chatd.url, nick="ann"):
        page = ChatPage(await chromium.open_tab())
        await page.tab.navigate(chatd.page)
        await page.tab.until("document.querySelector('#welcome').open")
        await page.tab.type("ann")
        await page.tab.press("Enter")
        await page.tab.until("document.querySelector('#welcome-name-error').textContent")
        await page.tab.evaluate("document.querySelector('#welcome-nick').select()")
        await page.tab.type("annie")
        await page.tab.press("Enter")
        await page.tab.until("!document.querySelector('#welcome').open")
        await page.members("annie")
        assert await page.tab.evaluate("document.activeElement.id") == "composer-text"
        await page.reload()
        await page.members("annie")
        assert not await page.visible("#welcome")
    assert page.faults == []


async def test_hostile_quotes_results_and_nicks_are_text(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    nick = "<b>\"'&eve"
    async with client.connect(chatd.url, nick=nick) as program:
        assert program.identity.nick == nick
        await program.join("lobby")
        await program.say(HOSTILE)
        await program.say("answer " + HOSTILE, reply_to=1)
        await page.tab.until(f"{message(2)}?.querySelector('.quote .words')")
        assert (
            await page.tab.evaluate(f"{message(2)}.querySelector('.quote .words').textContent")
            == HOSTILE
        )
        await act(page, 1, "Reply")
        await page.tab.until_text(f"Replying to {nick}: {HOSTILE}", within="#about-text")
        await page.tab.press("Escape")
        await find(page, "window hacked")
        assert await page.tab.evaluate(
            "[...document.querySelectorAll('#search-list .text')].map(n => n.textContent)"
        ) == ["answer " + HOSTILE, HOSTILE]
        await page.tab.press("Escape")
        await program.say("for you <i>alone</i>", room="@ann")
        await page.tab.until(
            f"document.querySelector('#direct-list bdi')?.textContent === {json.dumps(nick)}"
        )
        await page.tab.click("#direct-list button")
        await page.in_room(nick)
        await page.shows("for you <i>alone</i>")
        hacked = (
            "[window.hacked ?? 0, document.querySelectorAll('img, b, i, script:not([src])').length]"
        )
        assert await page.tab.evaluate(hacked) == [0, 0]
    assert page.faults == []  # nor had the policy anything to refuse


async def test_messages_and_search_by_keyboard(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    press = page.tab.press
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await page.say("one")
        await program.say("two")
        await page.shows("two")
        await page.tab_to("#scroller")
        await press("ArrowUp")
        assert await page.tab.evaluate(f"document.activeElement === {message(2)}")
        await press("Tab")  # leads to the message's buttons
        assert await page.tab.evaluate("document.activeElement.ariaLabel") == "Reply"
        await press("Enter")
        await page.tab.until_text("Replying to json: two", within="#about")
        assert await page.tab.evaluate("document.activeElement.id") == "composer-text"
        await press("Escape")
        await page.tab_to("#scroller")
        await press("ArrowUp")
        await press("ArrowUp")
        await key(page, "e", "KeyE", 69)
        await page.tab.until_text("Editing your message", within="#about")
        await page.tab.type("!")
        await press("Enter")
        await page.shows("one!", "two")
        await page.tab_to("#scroller")
        await press("ArrowUp")
        await press("ArrowDown")  # below the last one is the composer
        assert await page.tab.evaluate("document.activeElement.id") == "composer-text"
        await page.tab_to("#search-open")
        await press("Enter")
        await page.tab.type("two")
        await press("Enter")
        await page.tab.until("document.querySelector('#search-list button')")
        await page.tab_to("#search-list button")
        await press("Enter")
        await page.tab.until(f"{message(2)} === document.activeElement")
        await page.tab_to("#member-list button")
        await press("Enter")
        await page.tab.until("document.querySelector('#menu').matches(':popover-open')")
        await press("Escape")
        assert not await page.visible("#menu")
        assert await page.tab.evaluate("document.activeElement.matches('#member-list button')")
    assert page.faults == []


async def key(page: ChatPage, text: str, code: str, number: int) -> None:
    pressed = {"key": text, "code": code, "windowsVirtualKeyCode": number}
    await page.tab.call("Input.dispatchKeyEvent", type="rawKeyDown", **pressed)
    await page.tab.call("Input.dispatchKeyEvent", type="keyUp", **pressed)


async def test_edit_search_and_direct_messages_by_polling(
    chatd: ChatdProcess, chromium: Chromium, nursery: trio.Nursery
) -> None:
    proxy = Proxy(chatd.port, nursery)
    page = await open_page(chromium, chatd, port=await proxy.listen(), nick="ann")
    await chatd.line("connect", transport="polling")
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await page.say("helo")
        await page.tab.press("ArrowUp")
        await page.tab.evaluate("document.querySelector('#composer-text').select()")
        await page.tab.type("hello")
        await page.tab.press("Enter")
        await page.shows("hello")
        await program.say("hi", reply_to=1)
        await page.tab.until(
            f"{message(3)}?.querySelector('.quote .words').textContent === 'hello'"
        )
        await find(page, "hello")
        await page.tab.click("#search-list button")
        await act(page, 1, "Delete")
        await page.tab.press("Enter")
        await page.shows("Message deleted", "hi")
        await program.say("psst", room="@ann")
        await page.tab.until("document.querySelector('#direct-list .badge')")
        await page.tab.click("#direct-list button")
        await page.shows("psst")
        await page.send("what?")
        await page.shows("psst", "what?")
        await page.tab.until("!document.querySelector('.message[data-state=sending]')")
        assert await page.texts() == ["psst", "what?"]
    assert faults(page) == []
