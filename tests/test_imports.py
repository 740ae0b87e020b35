"""Imports at the level of the whole tree: no circle, however hidden; lazy only for a reason; nothing that creeps in."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from infra import imports

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in sorted(imports.OURS)
    for path in sorted((ROOT / package).rglob("*.py"))
}
HEAVY = {"torch", "ray", "transformers", "tokenizers", "peft", "datasets", "pyarrow", "pandas", "scipy", "sklearn"}
HEAVY |= {"matplotlib", "numpy", "prefect", "jinja2", "lm_eval"}
STARTS = ("flows.command_line.", "ftlib.__main__")
"""They load a command's own modules when it is asked for: what the others need is no cost of its help."""


class Import(NamedTuple):
    module: str
    line: int
    name: str
    lazy: bool
    """In a function, under TYPE_CHECKING, or as a string."""


def imports_in(name: str, tree: ast.AST, *, lazy: bool = False) -> Iterator[Import]:
    home = name.rpartition(".")[0]  # where it finds its files, as a string
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(name, node.lineno, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (Import(name, node.lineno, one if one in MODULES else node.module, lazy) for one in found)
        elif isinstance(node, ast.Constant) and node.value in MODULES and "." in str(node.value) and node.value != home:
            yield Import(name, node.lineno, str(node.value), lazy=True)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from imports_in(name, node, lazy=lazy or function or for_types)


@cache
def all_imports() -> tuple[Import, ...]:
    found = [one for name, path in MODULES.items() for one in imports_in(name, ast.parse(path.read_text()))]
    return tuple(one for one in found if one.name != one.module)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other: what is left once those without an arrow out or in are."""
    left = {name: set(targets) for name, targets in edges.items()}
    while True:
        reached = set().union(*left.values())
        gone = {name for name, targets in left.items() if not targets & left.keys() or name not in reached}
        if not gone:
            return [sorted(left)] if left else []
        left = {name: targets - gone for name, targets in left.items() if name not in gone}


def test_no_circle_counting_all_imports() -> None:
    edges: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in all_imports():
        if one.name in MODULES:
            edges[one.module].add(one.name)
    assert circles(edges) == []


@pytest.mark.parametrize(
    ("edges", "found"),
    [({"a": {"b"}, "b": set()}, []), ({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}, [["b", "c"]])],
)
def test_a_circle_is_found(edges: dict[str, set[str]], found: list[list[str]]) -> None:
    assert circles(edges) == found


def test_a_lazy_import_of_ours_saves_a_heavy_library() -> None:
    at_once: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in all_imports():
        if not one.lazy:
            at_once[one.module].add(one.name)

    def heavy(name: str) -> bool:
        seen, waiting = set[str](), [name]
        while waiting:
            here = waiting.pop()
            if here.split(".")[0] in HEAVY:
                return True
            if here in MODULES and here not in seen:
                seen.add(here)
                parents = (here.rsplit(".", depth)[0] for depth in range(1, here.count(".") + 1))
                waiting += [*at_once[here], *parents]
        return False

    idle = [
        f"{one.module}:{one.line} imports {one.name}, which loads nothing heavy: import it at the top"
        for one in all_imports()
        if one.lazy and one.name in MODULES and not one.module.startswith(STARTS) and not heavy(one.name)
    ]
    assert idle == []


@pytest.mark.slow
def test_nothing_has_crept_into_the_light_half() -> None:
    assert list(imports.grown()) == []


def test_what_crept_in_is_named_with_who_loads_it() -> None:
    program = "import ftlib.recipe.file"
    assert "yaml" in imports.loaded(program)
    assert imports.who_loads(program, "yaml") == "imported by ftlib.recipe.file"
    assert imports.who_loads("import ftlib.errors", "yaml") == "who imports it is not known"
