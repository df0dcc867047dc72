"""The page: its files, their security headers, and rules for its sources."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from chatd.gateways import page
from chatd.settings import Auth, Chat, Settings
from chatd.wire.request import Request, Response
from chatd.wire.routes import Routes
from chatd.wire.transport import Peer

FOLDER = Path(str(resources.files("chatd.gateways"))) / "page"
PATHS = sorted(page.routes(Settings))
ASSETS = PATHS[1].rpartition("/")[0]


async def get(
    path: str, *headers: tuple[str, str], method: str = "GET", settings: Settings | None = None
) -> Response:
    found = Routes(page.routes(lambda: settings or Settings())).find(method, path)
    if isinstance(found, Response):
        return found
    peer = Peer(address="127.0.0.1", kind="tcp", loopback=True)
    answer = await found(Request(method, path, headers, peer))
    assert isinstance(answer, Response)
    return answer


def headers_of(answer: Response) -> dict[str, str]:
    names = [name.lower() for name, _ in answer.headers]
    assert len(names) == len(set(names))
    return {name.lower(): value for name, value in answer.headers}


def policy(answer: Response) -> dict[str, str]:
    directives = headers_of(answer)["content-security-policy"].split(";")
    return {name: value for name, _, value in (each.strip().partition(" ") for each in directives)}


def test_the_table_matches_the_folder() -> None:
    assert sorted(page.FILES) == sorted(each.name for each in FOLDER.iterdir())
    assert sorted(["/", *(f"{ASSETS}/{name}" for name in page.FILES if name != "index.html")]) == (
        PATHS
    )


@pytest.mark.parametrize("path", PATHS)
async def test_every_file_has_the_security_headers(path: str) -> None:
    answer = await get(path)
    assert answer.status == 200
    assert answer.body
    headers = headers_of(answer)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    rules = policy(answer)
    assert rules["default-src"] == "'none'"
    for name in ("script-src", "style-src", "img-src", "connect-src"):
        assert rules[name] == "'self'"
    for name in ("base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert rules[name] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        (f"{ASSETS}/style.css", "text/css; charset=utf-8"),
        (f"{ASSETS}/main.js", "text/javascript; charset=utf-8"),
        (f"{ASSETS}/icon.svg", "image/svg+xml"),
    ],
)
async def test_content_types(path: str, content_type: str) -> None:
    assert (await get(path)).content_type == content_type


@pytest.mark.parametrize("path", PATHS)
async def test_a_cached_file_is_not_sent_again(path: str) -> None:
    first = await get(path)
    tag = headers_of(first)["etag"]
    assert tag.startswith('W/"')
    for condition in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = await get(path, ("if-none-match", condition), ("accept-encoding", "gzip"))
        assert (again.status, again.body) == (304, b"")
        assert headers_of(again)["etag"] == tag
        assert "content-encoding" not in headers_of(again)
    for condition in ('"other"', "", 'W/""'):
        assert (await get(path, ("if-none-match", condition))).status == 200


async def test_only_the_page_itself_is_asked_for_again() -> None:
    assert headers_of(await get("/"))["cache-control"] == "no-cache"
    for path in PATHS[1:]:
        kept = headers_of(await get(path))["cache-control"]
        assert kept == "public, max-age=31536000, immutable"


async def test_the_page_follows_the_settings() -> None:
    settings = Settings()
    found = page.routes(lambda: settings)["/"]["GET"]
    assert not isinstance(found, str)
    peer = Peer(address="127.0.0.1", kind="tcp", loopback=True)

    async def body() -> str:
        answer = await found(Request("GET", "/", (), peer))
        assert isinstance(answer, Response)
        return answer.body.decode()

    assert '<meta name="chatd-greeting" content="">' in await body()
    greeting = 'Hello {nick}, <b>"be kind"</b>. {version}'
    settings = msgspec.structs.replace(settings, chat=Chat(greeting=greeting))
    escaped = "Hello {nick}, &lt;b&gt;&quot;be kind&quot;&lt;/b&gt;. {version}"
    assert f'<meta name="chatd-greeting" content="{escaped}">' in await body()


async def test_comments_are_left_out_and_lines_keep_their_numbers() -> None:
    for name in page.FILES:
        if name.endswith((".js", ".css")):
            source = (FOLDER / name).read_text("utf-8").split("\n")
            sent = (await get(f"{ASSETS}/{name}")).body.decode().split("\n")
            assert len(sent) == len(source)
            for was, now in zip(source, sent, strict=True):
                assert now in (was, "")
            assert not [line for line in sent if line.lstrip().startswith(("//", "/*"))], name


async def test_the_tag_depends_on_the_contents() -> None:
    tags = {headers_of(await get(path))["etag"] for path in PATHS}
    assert len(tags) == len(PATHS)
    other = msgspec.structs.replace(Settings(), chat=Chat(default_room="plaza"))
    assert headers_of(await get("/", settings=other))["etag"] not in tags


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.5", True),
        ("x-gzip", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("*", False),
        ("", False),
    ],
)
async def test_gzip_for_clients_that_accept_it(accepted: str, packed: bool) -> None:
    plain = await get(f"{ASSETS}/style.css")
    answer = await get(f"{ASSETS}/style.css", ("accept-encoding", accepted))
    headers = headers_of(answer)
    assert headers["vary"] == "Accept-Encoding"
    assert headers["etag"] == headers_of(plain)["etag"]
    assert headers.get("content-encoding") == ("gzip" if packed else None)
    body = gzip.decompress(answer.body) if packed else answer.body
    assert body == plain.body
    assert not packed or len(answer.body) < len(plain.body)


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/",
        "/page/main.js",
        "/page/0123456789abcdef/main.js",
        ASSETS,
        f"{ASSETS}/",
        f"{ASSETS}/index.html",
        "/index.html",
        f"{ASSETS}/../page.py",
        f"{ASSETS}/../x",
        f"{ASSETS}/%2e%2e/page.py",
        f"{ASSETS}/..%2fpage.py",
        f"{ASSETS}/main.js%00",
        f"{ASSETS}/main.js/",
        f"{ASSETS}//main.js",
        f"/{ASSETS}/main.js",
        f"{ASSETS}/Main.js",
        f"{ASSETS}//etc/passwd",
        "/etc/passwd",
        "",
    ],
)
async def test_nothing_else_is_served(path: str) -> None:
    assert (await get(path)).status == 404


async def test_only_get_and_head() -> None:
    assert (await get("/", method="HEAD")).status == 200
    refused = await get("/", method="POST")
    assert refused.status == 405
    assert headers_of(refused)["allow"] == "GET, HEAD"


class Elements(HTMLParser):
    """Collects each start tag with its attributes, and the text of inline scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self._open: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and data.strip():
            self.inline.append(data)


async def index(room: str = "lobby") -> Elements:
    settings = msgspec.structs.replace(Settings(), chat=Chat(default_room=room))
    return Elements((await get("/", settings=settings)).body.decode())


async def test_the_default_room_is_escaped() -> None:
    for room in ("lobby", "日本語", '"><script>alert(1)</script>', "a&amp;b"):
        elements = await index(room)
        told = [
            a["content"]
            for tag, a in elements.found
            if tag == "meta" and a.get("name") == "chatd-room"
        ]
        assert told == [room]
        assert sum(tag == "script" for tag, _ in elements.found) == 1


@pytest.mark.parametrize("mode", ["open", "token"])
async def test_the_page_knows_whether_tokens_are_taken(mode: Literal["open", "token"]) -> None:
    settings = msgspec.structs.replace(Settings(), auth=Auth(mode=mode))
    elements = Elements((await get("/", settings=settings)).body.decode())
    assert ("meta", {"name": "chatd-auth", "content": mode}) in elements.found


async def test_nothing_inline() -> None:
    elements = await index()
    assert elements.inline == []
    for tag, attributes in elements.found:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "script":
            assert attributes["src"]


async def test_every_file_that_the_page_loads_exists() -> None:
    elements = await index()
    loaded = {
        value
        for tag, attributes in elements.found
        for value in (attributes.get("src"), attributes.get("href"))
        if tag in ("script", "link") and value is not None
    }
    # Relative, so that it works under a proxy's path prefix.
    assert {f"/{name}" for name in loaded} == set(PATHS) - {"/"}


async def test_ids_are_unique_and_references_resolve() -> None:
    elements = await index()
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in ("for", "aria-controls", "aria-describedby", "aria-labelledby"):
        assert {a[name] for _, a in elements.found if name in a} <= set(ids)
    names = {a.get("for") for tag, a in elements.found if tag == "label"}
    fields = {a.get("id") for tag, a in elements.found if tag in ("input", "textarea")}
    assert fields == names


def sources(suffix: str) -> Iterator[tuple[str, str]]:
    for name in page.FILES:
        if name.endswith(suffix):
            yield name, (FOLDER / name).read_text("utf-8")


# Each of them turns text into markup or code, or a style's text into style.
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment"
    r"|setHTML|srcdoc|\beval\b|\bFunction\(|javascript:|cssText|setAttribute\(\s*[\"'](?:on|style)"
)


def test_text_becomes_text_nodes_only() -> None:
    for name, text in sources(".js"):
        assert SINKS.findall(text) == [], name


def test_nothing_is_loaded_from_elsewhere() -> None:
    for name, text in sources(".js"):
        for target in re.findall(r"\bfrom\s+\"([^\"]+)\"", text):
            assert target.removeprefix("./") in page.FILES, (name, target)
    for _, text in (*sources(".css"), *sources(".html")):
        assert not re.search(r"https?://|@import|url\(", text)


async def test_the_page_stays_small() -> None:
    sent = [await get(path, ("accept-encoding", "gzip")) for path in PATHS]
    # A first visit's transfer; a framework's runtime alone is larger.
    assert sum(len(answer.body) for answer in sent) < 56_000
