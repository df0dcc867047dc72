"""The documentation as Markdown: links lead somewhere, and tables are tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")]


def lines(page: Path) -> list[str]:
    """Return a page's lines, with those of code as empty ones."""
    shown, code = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.lstrip().startswith("```")
        code ^= fence
        shown.append("" if code or fence else line)
    return shown


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = [line.lstrip("#").strip() for line in lines(page) if line.startswith("#")]
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {each.replace(" ", "-") for each in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(lines(page))):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_belongs_to_a_table(page: Path) -> None:
    columns = 0
    for number, line in enumerate(lines(page), 1):
        if not line.startswith("|"):
            columns = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) - 1
        if not columns:
            columns = cells
            rule = lines(page)[number]
            assert re.fullmatch(r"\|( *:?-+:? *\|)+", rule), f"line {number}: no head above it"
        assert cells == columns, f"line {number}: {cells} cells, not {columns}"


def test_long_pages_begin_with_their_contents() -> None:
    for page in PAGES:
        if len(page.read_text(encoding="utf-8").split()) < 4000 or page.name == "CHANGELOG.md":
            continue
        text = page.read_text(encoding="utf-8").partition("\n## ")[0]
        linked = set(re.findall(r"\(#([^)]+)\)", text))
        sections = {
            re.sub(r"[^\w\- ]", "", line[3:].lower()).replace(" ", "-")
            for line in lines(page)
            if line.startswith("## ")
        }
        assert sections - linked == set(), page.name


def test_each_alert_has_an_entry_in_a_runbook() -> None:
    rules = (ROOT / "docs" / "prometheus-alerts.yml").read_text(encoding="utf-8")
    for rule in rules.split("- alert: ")[1:]:
        name = rule.partition("\n")[0]
        found = re.search(rf'runbook: "(.+)#{name.lower()}"', rule)
        assert found is not None, name
        assert f"\n### {name}\n" in (ROOT / found[1]).read_text(encoding="utf-8")
