"""A page as Markdown, held against a parser of it."""

from __future__ import annotations

import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from ftlib.report import render
from ftlib.report.content import Cell, Page, Row, Section, Table


@pytest.mark.parametrize("text", ["a|b", r"a\|b", "`a|b`", "--set 'a=x|y' | less", "plain"])
def test_a_cell_of_code_shows_its_bars_and_ends_at_none(text: str) -> None:
    table = Table(["code", "beside"], [Row([Cell(text, code=True), Cell("beside")])])
    page = Page("title", "subtitle", "verdict", sections=[Section("one", "One", tables=[table])])
    html = MarkdownIt("commonmark").enable("table").render(render.markdown(page))
    cells = [unescape(cell) for cell in re.findall("<td>(.*?)</td>", html)]
    assert cells == [f"<code>{text}</code>", "beside"]
