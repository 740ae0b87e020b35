"""Documentation cannot rot in silence: quoted code is the code, recipes are recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from ftlib.recipe.file import read_yaml
from ftlib.recipe.recipe import Recipe
from tests.docs.pages import BLOCK, PAGES, ROOT

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_quotes_are_the_code(page: Path) -> None:
    for _, block in BLOCK.findall(page.read_text()):
        first, _, quoted = block.partition("\n")
        if found := re.fullmatch(r"# from (\S+)", first):
            assert quoted in (ROOT / found[1]).read_text(), f"{page.name} quotes {found[1]} as it no longer is"


@each_page
def test_yaml_is_well_formed(page: Path) -> None:
    for language, block in BLOCK.findall(page.read_text()):
        if language == "yaml":
            assert yaml.safe_load(block), block


@each_page
def test_yaml_of_a_recipe_is_what_a_recipe_takes(page: Path, tmp_path: Path) -> None:
    """Blocks whose keys are a recipe's, and rules within a line, each read as that part of a recipe.

    Those of a page in docs/add hold what the page adds: they are tried where the page is followed.
    """
    if page.parent.name == "add":
        return
    for part in parts_of_recipes(page):
        (tmp_path / "part.yaml").write_text(part)
        ((name, value),) = read_yaml(tmp_path / "part.yaml").items()
        TypeAdapter(Recipe.model_fields[name].annotation).validate_python(value)


def parts_of_recipes(page: Path) -> list[str]:
    text = page.read_text()
    found = [block for language, block in BLOCK.findall(text) if language == "yaml"]
    blocks = [*found, *(f"select: {rule}" for rule in re.findall(r"`(\{rule: [^`]*\})`", text))]
    ours = [block for block in blocks if {*re.findall(r"^([\w-]+)", block, re.MULTILINE)} <= {*Recipe.model_fields}]
    # A block may show alternatives.
    return [part for block in ours for part in re.findall(r"^\w.*\n?(?:^\W.*\n?)*", block, re.MULTILINE)]


def test_parts_of_recipes_are_found() -> None:
    """Of a pattern that matches nothing, every page would be well."""
    assert sum(len(parts_of_recipes(page)) for page in PAGES) > 60
