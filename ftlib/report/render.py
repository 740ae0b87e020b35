"""A page as self-contained HTML and as Markdown."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, cast

from ftlib.report.content import Cell, Mark, Page
from ftlib.report.figures import CHOSEN
from ftlib.wording import code, escaped

if TYPE_CHECKING:
    from jinja2 import Environment


def html(page: Page) -> str:
    """Return one file that loads nothing else, in light and dark."""
    return _environment().get_template("report.html.jinja").render(page=page, x=_x, plot=_plot)


def markdown(page: Page) -> str:
    """Return the same as Markdown; its plots are the PNG files beside it."""
    return _environment().get_template("report.md.jinja").render(page=page)


def html_with_outcome(page: str, outcome: str) -> str:
    """Return a page's HTML that says above its verdict what became of the run, which is known once the page is made."""
    return page.replace("</h1>", f'</h1>\n<p class="verdict"><strong>{escape(outcome)}</strong></p>', 1)


def markdown_with_outcome(page: str, outcome: str) -> str:
    """Return the same of a page's Markdown."""
    title, rest = page.split("\n", 1)
    return f"{title}\n\n**{escaped(outcome)}**\n{rest}"


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ftlib.report", package_path=""),
        autoescape=lambda name: bool(name) and str(name).endswith(".html.jinja"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    cast("dict[str, Any]", environment.filters).update(md=escaped, md_cell=_cell)
    return environment


def _x(position: float) -> str:
    """Return where a position between 0 and 1 lies in the interval's drawing, which is 200 wide with margins of 4."""
    return f"{4 + 192 * position:.1f}"


def _plot(svg: str) -> str:
    """Let a plot take the page's accent: on dark paper the light one's is hard to read."""
    return svg.replace(CHOSEN, "var(--accent)")


def _cell(cell: Cell, mark: Mark) -> str:
    # A bar ends a cell in a span of code too; a table takes the backslash before it away.
    text = code(cell.text).replace("|", r"\|") if cell.code and cell.text else escaped(cell.text)
    text = f"**{text}**" if mark and text else text
    return f"{text} ({cell.range})" if cell.range else text
