"""Pages in Markdown: links lead to files and headings, and rows of tables are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for name in ("docs", "deploy", "model") for path in (ROOT / name).rglob("*.md")),
    ]
)


def _read_prose(path):
    """Return the lines of a page, empty where they are in a block of code."""
    lines, is_code = [], False
    for line in path.read_text().splitlines():
        is_code ^= line.startswith("```")
        lines.append("" if is_code else line)
    return lines


def _list_anchors(path):
    """Return the anchors that GitHub gives the headings of a page."""
    headings = [line.lstrip("#") for line in _read_prose(path) if re.match(r"#+ ", line)]
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }


def _count_cells(line):
    """Return the number of cells in a row of a table."""
    return len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) - 1


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", "\n".join(_read_prose(page)))
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in _list_anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_rows_of_a_table_have_the_same_cells(page):
    expected = 0
    for line in _read_prose(page):
        is_row = line.startswith("|")
        expected = (expected or _count_cells(line)) if is_row else 0
        assert not is_row or _count_cells(line) == expected, line
