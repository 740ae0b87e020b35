"""Counts and names in messages; and texts in Markdown, as a Markdown library of its own reads it."""

from __future__ import annotations

import html

import pytest
from markdown_it import MarkdownIt

from ftlib.wording import block, code, counted, escaped, some, table

TEXTS = [
    "plain words, 0.008 and -3 (x) [y]",
    "- a list",
    "+ a list",
    "1. a list",
    "2) a list",
    "---",
    "===",
    "# heading",
    "> quote",
    "| a | b |",
    "<img src=x onerror=alert(1)>",
    "![p](http://evil/x.png) [l](javascript:alert(1)) <http://evil>",
    "&lt;b&gt; &amp; &#35;",
    "``code`` `x` ```",
    "*a* _b_ __c__ ~~d~~ \\\\ $x$ \\(y\\)",
    "two\nlines\r\n\r\n    and code",
    "[ref]: http://evil",
    "über ß 漢字 🙂",
    "",
]


def shown(text: str) -> tuple[str, str]:
    """Return the HTML, and what of it a reader sees."""
    page = MarkdownIt("commonmark").enable("table").render(text)
    return page, html.unescape(page.removeprefix("<p>").removesuffix("</p>\n"))


@pytest.mark.parametrize("text", TEXTS)
def test_a_paragraph_shows_every_letter_and_is_nothing_else(text: str) -> None:
    page, seen = shown(escaped(text))
    assert seen == " ".join(text.split())
    assert page.count("<") == (2 if text else 0)


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_a_cell_and_code_show_it_too(text: str) -> None:
    line = " ".join(text.split())
    page, _ = shown(table([["head"], [text]]))
    assert f"<td>{html.escape(line)}</td>" in page.replace("&#x27;", "'")
    assert page.count("<td") == 1
    page, _ = shown(f"x {code(text)} y")
    assert f"<code>{html.escape(line)}</code> y" in page.replace("&#x27;", "'")
    page, _ = shown(block(text, "text"))
    assert page.count("<code") == page.count("</code>") == 1
    assert html.escape(text.replace("\r\n", "\n")) in page


def test_control_characters_and_bidirectional_marks_turn_no_text_around() -> None:
    assert escaped("a\x00b\x1b[31mc\u202egnp.exe") == "a b \\[31mc gnp.exe"


@pytest.mark.parametrize(("count", "said"), [(0, "no rows"), (1, "1 row"), (2, "2 rows"), (1200, "1,200 rows")])
def test_the_noun_agrees_with_its_number(count: int, said: str):
    assert counted(count, "row") == said


@pytest.mark.parametrize(
    ("names", "said"),
    [("", ""), ("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c and 1 more"), ("a" * 1500, "a, a, a and 1,497 more")],
)
def test_a_long_list_names_its_first_and_counts_exactly_those_left_out(names: str, said: str):
    assert some(list(names), 3) == said
