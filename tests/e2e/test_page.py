"""The chat page in a real browser, with people and programs in its rooms."""

from __future__ import annotations

import json
import signal
from typing import Final

import pytest

from chatd import client
from tests.e2e.chat_page import open_page, texts_in
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import Chromium

UNLIMITED: Final = {
    "limits.messages_per_second": "off",
    "limits.messages_burst": "off",
    "limits.bytes_per_second": "off",
}

BADGE: Final = "document.querySelector('#room-list li[data-key=\"den\"] .badge')"


async def test_two_guests_and_a_program(chatd: ChatdProcess, chromium: Chromium) -> None:
    ann = await open_page(chromium, chatd)
    bob = await open_page(chromium, chatd, host="127.0.0.1")
    names = [await ann.nick(), await bob.nick()]
    assert names[0] != names[1]
    await ann.line("presence", f"{names[1]} joined")
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        for page in (ann, bob):
            await page.line("presence", "json joined")
            await page.members("json", *names)
            assert (
                await page.tab.evaluate("document.querySelector('#member-count').innerText") == "3"
            )
        await ann.say("hello from ann")
        await bob.shows("hello from ann")
        await bob.say("hello, ann")
        await program.say("and from a program")
        for page in (ann, bob):
            await page.shows("hello from ann", "hello, ann", "and from a program")
        assert await texts_in(program, "lobby") == await ann.texts()
        # Only the user's own messages are marked.
        states = "[...document.querySelectorAll('#log .message')].map(n => n.dataset.state ?? null)"
        assert await ann.tab.evaluate(states) == ["sent", None, None]
        assert await bob.tab.evaluate(states) == [None, "sent", None]
        assert await bob.tab.evaluate(
            "[...document.querySelectorAll('#log .nick')].map(n => n.textContent)"
        ) == [names[0], names[1], "json"]
        await program.leave("lobby")
        await ann.line("presence", "json left")
        await ann.members(*names)
    assert ann.faults == bob.faults == []


async def test_two_tabs_of_one_browser_are_one_guest(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    first = await open_page(chromium, chatd)
    second = await open_page(chromium, chatd)
    name = await first.nick()
    assert await second.nick() == name
    await second.say("from the second")
    await first.tab.until("document.querySelector('.message[data-seq=\"1\"][data-state=sent]')")
    await first.members(name)
    assert await first.tab.evaluate("document.querySelector('#log .line')") is None
    await first.rename("ann")
    await second.tab.until_text("ann", within="#me-name")
    assert first.faults == second.faults == []


async def test_a_message_is_marked_until_it_is_sent(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd)
    chatd.signal(signal.SIGSTOP)
    await page.send("on its way")
    await page.tab.until("document.querySelector('.message[data-state=sending][data-key]')")
    assert await page.tab.evaluate("document.querySelector('.message').dataset.seq ?? null") is None
    assert await page.tab.evaluate("document.querySelector('#composer-text').value") == ""
    chatd.signal(signal.SIGCONT)
    await page.tab.until("document.querySelector('.message[data-state=sent][data-seq=\"1\"]')")
    assert await page.texts() == ["on its way"]
    assert await page.tab.evaluate("document.querySelector('[data-key].message')") is None
    assert page.faults == []


HOSTILE: Final = (
    "<img src=x onerror=\"window.hacked = 1; document.title = 'hacked'\">",
    "<script>window.hacked = 1</script><svg onload='window.hacked = 1'>",
    "\u202egpj.exe \u2066 &lt;b&gt; ${window.hacked = 1} {{window.hacked = 1}}",
    "javascript:window.hacked=1 data:text/html,<script>window.hacked=1</script>",
    'https://example.org/"onmouseover="window.hacked=1"x=\'',
)


async def test_hostile_texts_are_text(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd)
    nick = "\"><script>window.hacked='1'"
    async with client.connect(chatd.url, nick="eve\u202e") as program:
        assert "\u202e" not in str(program.identity.nick)
        assert await program.nick(nick) == nick
        await program.join("lobby")
        await page.line("presence", f"{nick} joined")
        for text in HOSTILE:
            await program.say(text)
        await page.shows(*HOSTILE)
        await program.join("<b>&amp;<img")
        await page.tab.click("#join-name")  # reads the list again
        await page.tab.until(
            "document.querySelector('#other-list bdi')?.textContent === '<b>&amp;<img'"
        )
        await page.tab.click("#other-list button")
        await page.in_room("<b>&amp;<img")
        await page.members(nick, await page.nick())
        await page.say(HOSTILE[0])
    hacked = (
        "[window.hacked ?? 0,"
        " document.querySelectorAll(':is(main, nav) :is(img, script, b)').length]"
    )
    assert await page.tab.evaluate(hacked) == [0, 0]
    await page.switch("lobby")
    links = "[...document.querySelectorAll('#log a')].map(a => [a.href, a.rel])"
    assert await page.tab.evaluate(links) == [["https://example.org/", "noopener noreferrer"]]
    assert await page.tab.evaluate(hacked) == [0, 0]
    # A bidirectional override affects only its own text.
    assert await page.style("#log .text", "unicodeBidi") == "plaintext"
    assert page.faults == []  # nor had the policy anything to refuse


async def test_rooms_are_joined_read_and_left(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd)
    name = await page.nick()
    await page.join("den")
    assert await page.rooms() == ["lobby", "den"]
    assert await page.tab.evaluate("decodeURIComponent(location.hash)") == "#den"
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("den")
        await page.line("presence", "json joined")
        await program.say("seen", room="den")
        await page.shows("seen")
        await page.switch("lobby")
        await program.say("one", room="den")
        await program.say("two", room="den")
        await page.tab.until(f"{BADGE}?.textContent.startsWith('2')")
        assert str(await page.tab.evaluate("document.title")).startswith("(2)")
        assert "two" not in await page.texts()

        await page.switch("den")
        await page.shows("seen", "one", "two")
        await page.tab.until(f"!{BADGE}")
        assert await page.tab.evaluate(
            "document.querySelector('#log .new').nextElementSibling.innerText.includes('one')"
        )
        assert await page.tab.evaluate("document.title") == "#den · chatd"

        await page.tab.click("#leave")
        await page.tab.until_text("Leave #den?", within="#question[open]")
        await page.tab.press("Escape")
        assert await page.rooms() == ["lobby", "den"]
        await page.leave()
        await page.in_room("lobby")
        await page.tab.until_text("den", within="#other-list")
        assert await page.rooms() == ["lobby"]
        while not isinstance(event := await program.next_event(), client.Left):
            pass
        assert (event.room, event.nick, event.reason) == ("den", name, "leave")
        await page.tab.click("#other-list button")
        await page.in_room("den")
        await page.shows("seen", "one", "two")
    await page.tab.click("#join-name")
    await page.tab.type("no @ room")
    await page.tab.press("Enter")
    await page.tab.until("document.querySelector('#join-error').textContent")
    assert await page.rooms() == ["lobby", "den"]
    assert page.faults == []


async def test_scrolling_up_loads_history_and_keeps_the_position(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd(UNLIMITED)
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        for number in range(1, 251):
            await program.say(f"message {number}" + number % 7 * "\nand a line")
        page = await open_page(chromium, chatd)
        await page.tab.until("document.querySelector('.message[data-seq=\"250\"]')")
        first = "Number(document.querySelector('#log [data-seq]').dataset.seq)"
        oldest = await page.tab.evaluate(first)
        assert oldest > 1  # not all at once
        pages = 0
        while oldest > 1:
            # The first visible message before the page arrives must stay in place.
            seq, top = await page.tab.evaluate(
                "(() => { const scroller = document.querySelector('#scroller');"
                " scroller.scrollTop = 40; const edge = scroller.getBoundingClientRect().top;"
                " const node = [...document.querySelectorAll('#log [data-seq]')]"
                " .find(each => each.getBoundingClientRect().bottom > edge);"
                " return [node.dataset.seq, node.getBoundingClientRect().top]; })()"
            )
            await page.tab.until(f"{first} < {oldest}")
            now = await page.tab.evaluate(
                f"document.querySelector('[data-seq=\"{seq}\"]').getBoundingClientRect().top"
            )
            assert abs(now - top) < 2
            oldest = await page.tab.evaluate(first)
            pages += 1
        assert pages >= 2
        await page.tab.until_text("This is the beginning of #lobby.", within="#log-top")
        texts = await page.texts()
        assert [text.split("\n")[0] for text in texts] == [f"message {n}" for n in range(1, 251)]

        # A new message does not move the view; a button leads to it.
        await page.tab.evaluate("document.querySelector('#scroller').scrollTop = 0")
        await program.say("the latest")
        await page.tab.until_text("1 new message", within="#pill")
        assert await page.tab.evaluate("document.querySelector('#scroller').scrollTop") == 0
        await page.tab.click("#pill")
        await page.tab.until("document.querySelector('#pill').hidden")
        assert await page.from_end() < 2
    assert page.faults == []


async def test_the_view_follows_the_end(start_chatd: ChatdStarter, chromium: Chromium) -> None:
    chatd = await start_chatd(UNLIMITED)
    page = await open_page(chromium, chatd)
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        for number in range(30):
            await program.say(f"message {number} " * 12)
        await page.tab.until("document.querySelector('.message[data-seq=\"30\"]')")
        assert await page.from_end() < 2
        await page.tab.resize(390, 844, mobile=True)
        assert await page.from_end() < 2
        # As when a screen keyboard appears: less space, and a scroll at the same moment.
        await page.tab.evaluate(
            "document.body.style.height = '400px',"
            " document.querySelector('#scroller').scrollTop += 1"
        )
        assert await page.from_end() < 2
        await program.say("the latest")
        await page.shows("the latest")
        assert await page.from_end() < 2
        # After scrolling up, the view stays there.
        await page.tab.evaluate("document.querySelector('#scroller').scrollTop -= 200")
        assert 198 < await page.from_end() < 202
        await program.say("the very latest")
        await page.tab.until_text("1 new message", within="#pill")
        assert await page.from_end() > 200
    assert page.faults == []


async def test_many_quick_messages_arrive_in_order(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    """Over the rate limit the page waits for the time it was given, and nothing fails."""
    chatd = await start_chatd({"limits.messages_per_second": 20, "limits.messages_burst": 5})
    page = await open_page(chromium, chatd)
    texts = [f"quick {number}" for number in range(30)]
    for text in texts:
        await page.send(text)
    await page.tab.until("document.querySelectorAll('.message[data-seq]').length === 30")
    assert await page.texts() == texts
    assert await page.tab.evaluate("document.querySelectorAll('[data-state=sent]').length") == 30
    assert page.faults == []


async def test_a_nick_is_changed(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd)
    before = await page.nick()
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await page.members("json", before)
        await page.rename("JSON")  # the same by its fold
        await page.tab.until("document.querySelector('#nick-error').textContent")
        await page.tab.press("Escape")
        assert await page.nick() == before
        await page.rename("Ann")
        await page.members("Ann", "json")
        await page.line("presence", f"{before} is now Ann")
        while not isinstance(event := await program.next_event(), client.NickChange):
            pass
        assert (event.before, event.nick) == (before, "Ann")
        await page.say("it is me")
        assert await page.tab.evaluate("document.querySelector('#log .nick').textContent") == "Ann"
    assert page.faults == []


async def test_a_reload_keeps_the_user_the_rooms_and_the_draft(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd)
    await page.rename("ann")
    await page.members("ann")
    await page.say("in the lobby")
    await page.join("den")
    await page.say("in the den")
    await page.type("half a thought")
    await page.reload()
    await page.in_room("den")
    await page.shows("in the den")
    assert await page.nick() == "ann"
    assert await page.rooms() == ["lobby", "den"]
    assert await page.tab.evaluate("document.querySelector('#composer-text').value") == (
        "half a thought"
    )
    # It is the same user, not only the same nick: the message is still marked as theirs.
    assert await page.tab.evaluate("document.querySelector('.message').dataset.state") == "sent"
    await page.switch("lobby")
    await page.shows("in the lobby")
    await page.members("ann")
    assert page.faults == []


async def test_everything_works_by_keyboard(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd)
    press = page.tab.press
    await page.tab_to("#composer-text")
    await page.tab.type("one line")
    await page.shift_enter()
    await page.tab.type("another")
    await press("Enter")
    await page.shows("one line\nanother")
    await press("Enter")  # nothing is nothing
    await page.tab_to("#join-name")
    await page.tab.type("den")
    await press("Enter")
    await page.in_room("den")
    await page.tab_to("#composer-text")
    await page.tab.type("in the den")
    await press("Enter")
    await page.shows("in the den")
    await page.tab_to('#room-list li[data-key="lobby"] button')
    await press("Enter")
    await page.in_room("lobby")
    await page.tab_to("#me-nick")
    await press("Enter")
    await page.tab.type("zoe")
    await press("Enter")
    await page.members("zoe")
    assert await page.tab.evaluate("document.activeElement.id") == "me-nick"
    await page.tab_to("#members-open")
    await press("Enter")
    await page.tab.until("!document.querySelector('#members').checkVisibility()")
    await page.tab_to("#leave")
    await press("Enter")
    await page.tab.until("document.querySelector('#question').open")
    await press("Enter")
    await page.in_room("den")
    assert await page.texts() == ["in the den"]
    assert page.faults == []


async def test_a_narrow_page_has_drawers(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd)
    await page.join("den")
    panels = [await page.visible(f"#{panel}") for panel in ("rooms", "members", "main")]
    assert panels == [True, True, True]
    await page.tab.resize(900, 700)
    await page.tab.until("!document.querySelector('#members').checkVisibility()")
    assert await page.visible("#rooms")
    await page.tab.resize(390, 844, mobile=True)
    await page.tab.until("!document.querySelector('#rooms').checkVisibility()")
    assert await page.tab.evaluate("document.documentElement.scrollWidth") == 390
    await page.drawer("rooms")
    assert await page.tab.evaluate("document.querySelector('#main').inert")
    await page.switch("lobby")  # which closes the drawer
    await page.tab.until("!document.querySelector('#rooms').checkVisibility()")
    await page.drawer("members")
    await page.tab.until_text(await page.nick(), within="#member-list")
    await page.tab.press("Escape")
    await page.tab.until("!document.querySelector('#members').checkVisibility()")
    await page.drawer("rooms")
    for kind in ("mousePressed", "mouseReleased"):  # beside the drawer
        place = {"x": 380, "y": 500, "button": "left", "clickCount": 1}
        await page.tab.call("Input.dispatchMouseEvent", type=kind, **place)
    await page.tab.until("!document.querySelector('#rooms').checkVisibility()")
    long = "a long message that is written on a telephone " * 3
    await page.type(long)
    narrow = await page.tab.evaluate("document.querySelector('#composer-text').clientHeight")
    await page.tab.resize(1280, 800)
    await page.tab.until(f"document.querySelector('#composer-text').clientHeight < {narrow}")
    assert page.faults == []


# With a canvas, because computed colours can be oklch. The background is that of the nearest
# element that has one.
_CONTRAST: Final = """(selector => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d");
  const light = colour => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    const part = n => (n /= 255) <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4;
    return a ? 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b) : null;
  };
  const node = document.querySelector(selector);
  const ink = light(getComputedStyle(node).color);
  let ground = null;
  for (let at = node; ground === null; at = at.parentElement)
    ground = light(getComputedStyle(at).backgroundColor);
  return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
})"""

_WRITTEN: Final = (
    "#log .text, #log .nick, #log time, #log .avatar, #log .line span, #log .day span, #room-name,"
    " #me-name, #member-list .nick, #room-list button, #room-list .count, #composer-text,"
    " #log .quote, #log .quote .nick, #log .text.gone, #log .edited, #room-topic, #direct-list bdi,"
    " #about p, #search-list mark, #search-list .nick"
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_both_themes_are_readable(
    scheme: str, chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd)
    await page.tab.prefer(prefers_color_scheme=scheme)
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await page.line("presence", "json joined")
        await program.say("hello")
        await program.say("answer", reply_to=1)
        await page.say("gone")
        await page.say("edited")
        await page.tab.press("ArrowUp")
        await page.tab.type("!")
        await page.tab.press("Enter")
        await page.shows("edited!")
        await page.tab.until("document.querySelector('#log .edited')")
        await program.say("psst", room=f"@{await page.nick()}")
        await page.tab.until("document.querySelector('#direct-list bdi')")
        await page.tab.evaluate(
            "const at = document.querySelector('[data-seq=\"3\"]');"
            " at.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));"
            " at.querySelector('[aria-label=Delete]').click();"
            " document.querySelector('#question-yes').click();"
        )
        await page.tab.until("document.querySelector('#log .gone')")
        await page.tab.until("!document.querySelector('#question').open")
        await page.tab.click("#search-open")
        await page.tab.type("hello")
        await page.tab.press("Enter")
        await page.tab.until("document.querySelector('#search-list mark')")
    ground = str(await page.style("body", "backgroundColor"))
    lightness = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(", "))) / 3
    assert lightness > 240 if scheme == "light" else lightness < 40
    for selector in _WRITTEN.split(", "):
        contrast = await page.tab.evaluate(f"{_CONTRAST}({json.dumps(selector)})")
        assert contrast >= 4.5, (selector, contrast)  # WCAG 2.2, 1.4.3
    assert page.faults == []


async def test_a_second_visit_loads_no_file_again(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    sizes = (
        "performance.getEntriesByType('resource').filter(each => each.name.includes('/page/'))"
        ".map(each => each.transferSize)"
    )
    assert sum(await page.tab.evaluate(sizes)) > 10_000
    await page.tab.navigate("about:blank")
    await page.tab.navigate(chatd.page)
    await page.members("ann")
    again = await page.tab.evaluate(sizes)
    assert len(again) > 20
    assert sum(again) == 0
    await page.reload()
    assert sum(await page.tab.evaluate(sizes)) == 0
    assert page.faults == []
