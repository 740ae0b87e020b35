"""Every page can be reached, every link and anchor leads somewhere, and what pages name is there."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)

UNTRACKED = {"infra/.env", "recipes/tickets.yaml"}
"""What a reader makes, and nobody commits."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield each link into the repository: the file, and the anchor or an empty text."""
    for target in LINK.findall(prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    heads = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    words = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).lower() for head in heads]
    return {re.sub(r"[^\w\- ]", "", word).strip().replace(" ", "-") for word in words}


@each_page
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    lost = [
        f"{path}#{anchor}"
        for path, anchor in links(page)
        if not path.exists() or (anchor and anchor not in anchors(path))
    ]
    assert lost == []


def test_every_page_and_recipe_is_linked_from_the_index() -> None:
    index = ROOT / "docs/index.md"
    pages = {*ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*.yaml")} - {index}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - {path for path, _ in links(index)}) == []


@each_page
def test_no_line_is_wider_than_120_columns(page: Path) -> None:
    """But for URLs, and what a program printed or a diff has to repeat: these cannot be broken."""
    lines = re.sub(r"^ *```(console|text|diff)$.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    wide = [line for line in lines.splitlines() if len(re.sub(r"https?://\S+", "", line)) > 120]
    assert wide == []


@each_page
def test_modules_and_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    made = {path for path in re.findall(r"^# new file (\S+)", text, re.MULTILINE)}
    files = re.findall(
        r"(?<![\w/.])((?:ftlib|flows|tasks|tests|recipes|infra|deployments|benchmarks)/[\w/.-]*\w/?)(?![\w\\])", text
    )
    gone = [path for path in files if path not in made | UNTRACKED and not (ROOT / path).exists()]
    modules = re.findall(r"(?<![\w./])((?:ftlib|flows|tasks)(?:\.(?!md\b|yaml\b)\w+)+)", text)
    assert gone == []
    assert [name for name in modules if not _is_there(name, made)] == []


def _is_there(name: str, made: set[str]) -> bool:
    """Say whether a dotted name is a module, or a name that a module holds."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        path = "/".join(parts[:n])
        if f"{path}.py" in made:
            return True
        file = next((file for file in (ROOT / f"{path}.py", ROOT / path / "__init__.py") if file.exists()), None)
        if file is not None:
            return n == len(parts) or re.search(rf"\b{parts[n]}\b", file.read_text()) is not None
    return False


@each_page
def test_no_page_names_rows_of_a_list_that_readers_do_not_have(page: Path) -> None:
    """The project's own list of features has rows such as T1, P7 or B11."""
    assert re.findall(r"(?<![\w/-])[TPBDEO]\d{1,2}(?![\w-])", re.sub(r"`[^`]*`", "", prose(page))) == []


def test_the_picture_of_the_pipeline_is_what_its_script_draws() -> None:
    script = ROOT / "docs/images/pipeline.py"
    assert script.with_suffix(".svg").read_text() == runpy.run_path(str(script))["picture"]()
