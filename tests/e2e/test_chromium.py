from pathlib import Path

import pytest

from tests.e2e.chromium import Chromium, PageError, Tab

_PAGE = """<!doctype html><title>t</title>
<style>body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }
</style>
<form><input autofocus><button>Say</button></form><ul></ul>
<script>
document.querySelector("form").onsubmit = event => {
  event.preventDefault();
  const line = document.createElement("li");
  line.textContent = document.querySelector("input").value;
  setTimeout(() => { document.querySelector("ul").append(line); told?.(line.textContent); });
};
var told;
</script>"""


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Write a page to a local file, with a space in its path."""
    file = tmp_path / "a page.html"
    file.write_text(_PAGE, encoding="utf-8")
    return file.as_uri()


async def test_a_page_is_used_and_waited_for(tab: Tab, page: str) -> None:
    await tab.navigate(page)
    await tab.click("input")
    await tab.type("hello")
    await tab.press("Enter")
    assert await tab.until("document.querySelector('li')?.textContent") == "hello"
    await tab.until_text("hello", within="ul")
    assert tab.faults == []


async def test_a_page_calls_a_binding(tab: Tab, page: str) -> None:
    said = await tab.binding("say")
    await tab.navigate(page)
    await tab.evaluate("told = say")
    await tab.click("input")
    await tab.type("by a click")
    await tab.click("button")
    assert await said.receive() == "by a click"


async def test_errors_and_console_output_are_recorded(tab: Tab, page: str) -> None:
    done = await tab.binding("done")
    await tab.navigate(page)
    with pytest.raises(PageError, match="nothing is here"):
        await tab.evaluate("Promise.reject(new Error('nothing is here'))")
    await tab.evaluate("console.log('seen', 3)")
    await tab.evaluate("setTimeout(() => { setTimeout(() => done('')); throw new Error('oh') })")
    await done.receive()
    assert tab.console == ["seen 3"]
    assert len(tab.faults) == 1
    assert "oh" in tab.faults[0]


async def test_tabs_have_their_own_size_and_colours(
    chromium: Chromium, tmp_path: Path, page: str
) -> None:
    wide, narrow = await chromium.open_tab(), await chromium.open_tab(width=360, height=640)
    await narrow.prefer(prefers_color_scheme="dark")
    shown = "[innerWidth, getComputedStyle(document.body).backgroundColor]"
    for tab, expected in ((wide, [1280, "rgb(255, 255, 255)"]), (narrow, [360, "rgb(0, 0, 0)"])):
        await tab.navigate(page)
        assert await tab.evaluate(shown) == expected
    file = tmp_path / "narrow.png"
    await narrow.screenshot(file)
    assert file.read_bytes().startswith(b"\x89PNG")
    await narrow.close()


async def test_waiting_goes_on_in_the_next_document(tab: Tab, page: str) -> None:
    await tab.navigate(page)
    await tab.evaluate("void setTimeout(() => location.replace(location.href + '?next'), 50)")
    assert await tab.until("location.search === '?next' && document.title === 't'")
