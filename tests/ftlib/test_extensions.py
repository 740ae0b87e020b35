"""A team's own parts of a recipe: a package brings them, and what it cannot bring is one line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import TypeAdapter

from deployments.machine import checks
from ftlib import extensions
from ftlib.config import Config
from ftlib.errors import RecipeError
from ftlib.extensions import Open, check_extensions, in_use, misfits
from ftlib.fingerprint import file_digest, identify
from ftlib.recipe.file import load_recipe
from ftlib.testing import tiny_classifier, tiny_recipe, tiny_rows

REPOSITORY = Path(__file__).parents[2]
ACME = REPOSITORY / "tests" / "extension" / "acme"


def install(place: Path, name: str, version: str, entry_points: dict[str, dict[str, str]]) -> Path:
    """Write what pip writes beside a package for importlib.metadata to find its entry points."""
    facts = place / f"{name.replace('-', '_')}-{version}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in e.items()) for group, e in entry_points.items()]
    (facts / "entry_points.txt").write_text("\n".join(groups))
    return place


RECIPE = """
name: acme
model: {{path: {folder}/model}}
datasets:
  tickets:
    source: {{kind: acme_lines, path: {folder}/tickets.txt}}
    format: {{kind: labeled_text, text: text, label: label, max_tokens: 24}}
    split: {{validation: 0.3, test: 0.3}}
phases:
  - name: tune
    dataset: tickets
    objective: {{kind: acme_focal}}
    tuning: {{kind: full}}
    optimizer: {{epochs: 1}}
    precision: fp32
evaluations:
  tickets: {{dataset: tickets, metrics: [{{kind: accuracy}}, {{kind: acme_cost, label: bug, dear: 3}}], resamples: 100}}
select: {{by: tickets/acme_cost}}
publish: {{name: acme, license: apache-2.0, to: {{kind: folder, path: {folder}/registry}}}}
compute: {{workers: 0, threads: 1}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("acme")
    tiny_classifier(folder / "model", hidden=8)
    (folder / "tickets.txt").write_text("".join(f"{row['label']}:{row['text']}\n" for row in tiny_rows(90)))
    path = folder / "acme.yaml"
    path.write_text(RECIPE.format(folder=folder))
    return path


def with_acme(place: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run Python where the package is installed, as its own pyproject.toml says."""
    project = tomllib.loads((ACME / "pyproject.toml").read_text())["project"]
    install(place, project["name"], project["version"], project["entry-points"])
    words = [sys.executable, *map(str, command)]
    path = os.pathsep.join(map(str, (place, ACME, REPOSITORY)))
    return subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.slow
def test_a_package_brings_a_source_an_objective_a_metric_and_a_rule(recipe: Path, tmp_path: Path):
    done = with_acme(tmp_path, REPOSITORY / "tests/extension/pipeline.py", recipe, tmp_path / "work")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == 90
    assert 1 - found["metrics"]["accuracy"] <= found["metrics"]["acme_cost"] <= 3 * (1 - found["metrics"]["accuracy"])
    assert found["published"]["version"] == 1
    assert found["described"] == "What it costs to miss it."
    assert found["lineage"] == {
        name: {"distribution": "acme-reglage", "version": "1.2", "files": {module: file_digest(ACME / file)}}
        for name, module in {
            "acme_cost": "acme_reglage.cost",
            "acme_focal": "acme_reglage.focal",
            "acme_lines": "acme_reglage.lines",
            "checker licensed": "acme_reglage.house_rules",
        }.items()
        for file in [f"{module.replace('.', '/')}.py"]
    }


def test_where_the_package_is_not_installed_its_kinds_are_named(recipe: Path):
    with pytest.raises(RecipeError) as refused:
        load_recipe(recipe)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    where = f"{recipe}: datasets.tickets.source.kind: unknown kind 'acme_lines'; install the package that brings it"
    assert lines[0].startswith(f"{where} (as an entry point of the group 'reglage.source'), or correct it; allowed:")
    assert "phases[tune].objective.kind: unknown kind 'acme_focal'; install" in lines[1]
    assert "evaluations.tickets.metrics[1].kind: unknown kind 'acme_cost'; install" in lines[2]


class Mean(Config):
    kind: Literal["mean"] = "mean"
    unit: ClassVar[str] = "1"

    def of(self, values: list[float]) -> float:
        return sum(values) / len(values)


class Least(Config):
    kind: Literal["least"] = "least"
    unit: ClassVar[str] = "1"
    floor: float = 0.0

    def of(self, values: list[float]) -> float:
        return max(self.floor, *values)


TOYS = """
from abc import ABC, abstractmethod
from typing import ClassVar, Literal
from ftlib.config import Config

class Most(Config):
    kind: Literal["most"] = "most"
    share: float = 1.0
    unit: ClassVar[str] = "1"
    def of(self, values): return max(values) * self.share

class Mean(Most):
    kind: Literal["mean"] = "mean"

class Bare(Config):
    kind: Literal["bare"] = "bare"
    of: int = 0

class Unnamed(Config):
    kind: str = "unnamed"

class Half(Most, ABC):
    kind: Literal["half"] = "half"
    @abstractmethod
    def rest(self): ...

def long_names(recipe): return [f"name: {recipe.kind!r}\\n is long"]
def breaks(recipe): raise KeyError("nothing")
class NotOurs: kind = "not_ours"
"""

Install = Callable[..., Path]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs packages whose module is `acme_toys`, for this test alone."""

    def forget() -> None:
        extensions._all_installed.cache_clear()
        extensions._checkers.cache_clear()
        importlib.invalidate_caches()
        sys.modules.pop("acme_toys", None)

    def add(name: str, version: str = "1.0", **entry_points: dict[str, str]) -> Path:
        install(tmp_path, name, version, {f"reglage.{group}": entries for group, entries in entry_points.items()})
        forget()
        return tmp_path / "acme_toys.py"

    monkeypatch.setattr(extensions, "_JOINED", {})
    monkeypatch.setattr(extensions, "_REFUSED", {})
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "acme_toys.py").write_text(TOYS)
    yield add
    monkeypatch.undo()
    forget()


def read(value: dict[str, Any]) -> Any:
    """Validate a value by a union that opens now."""
    return TypeAdapter(Annotated[Mean | Least, Open("reglage.metric")]).validate_python(value)


def test_a_member_joins_and_its_package_is_part_of_the_identity_of_its_values(installed: Install):
    file = installed("acme-most", "3.1", metric={"most": "acme_toys:Most"}, checker={"names": "acme_toys:long_names"})
    found = read({"kind": "most", "share": 0.5})
    assert found.of([1.0, 4.0]) == 2.0
    check_extensions()
    sha256 = file_digest(file)
    assert identify((found,)) == [
        {"kind": "most", "share": 0.5, "@brought_by": ["acme-most", "3.1", [["acme_toys", sha256]]]}
    ]
    assert identify(read({"kind": "mean"})) == {"kind": "mean"}
    facts = {"distribution": "acme-most", "version": "3.1", "files": {"acme_toys": sha256}}
    assert in_use(found) == {"most": facts, "checker names": facts}
    assert list(misfits(found)) == ["name: 'most' is long (says 'names' of acme-most 3.1)"]


def test_what_cannot_join_is_one_line_each_and_reading_a_recipe_is_refused(installed: Install, tmp_path: Path):
    installed("acme-toys", metric={"most": "acme_toys:Most", "bare": "acme_toys:Bare", "mean": "acme_toys:Mean"})
    installed("acme-more", "2.0", metric={"most": "acme_toys:Most", "typo": "acme_toys:Most", "half": "acme_toys:Half"})
    installed("acme-rest", metric={"gone": "acme_gone:Gone", "no": "acme_toys:NotOurs", "unnamed": "acme_toys:Unnamed"})
    installed("acme-rules", checker={"number": "acme_toys:__doc__", "absent": "acme_toys:absent", "odd": "???"})
    assert read({"kind": "most"}).share == 1.0  # what is sound is there all the same
    with pytest.raises(RecipeError) as refused:
        load_recipe(tiny_recipe(tmp_path / "recipe"))
    ends = {"toys": "acme-toys 1.0", "more": "acme-more 2.0", "rest": "acme-rest 1.0", "rules": "acme-rules 1.0"}
    wanted = {
        "'bare'": (ends["toys"], "lacks of, unit, which every metric has"),
        "'mean'": (ends["toys"], "has kind 'mean', which is Réglage's own; give it another"),
        "'most'": (ends["toys"], "has kind 'most', as acme-more has"),
        "'typo'": (ends["more"], "has kind 'most'; an entry point is named as the kind"),
        "'half'": (ends["more"], "is abstract"),
        "'gone'": (ends["rest"], "cannot be loaded: No module named 'acme_gone'"),
        "'no'": (ends["rest"], "is no class that extends ftlib.config.Config"),
        "'unnamed'": (ends["rest"], 'has no field `kind: Literal["name"] = "name"`'),
        "'number'": (ends["rules"], "is no function of a Recipe"),
        "'odd'": (ends["rules"], "is not written as package.module:name"),
        "'absent'": (ends["rules"], "cannot be loaded: module 'acme_toys' has no attribute 'absent'"),
    }
    lines = str(refused.value).splitlines()
    assert len(lines) == len(wanted)
    seen, *wrong = checks.extensions()
    assert seen.ok
    assert "most (acme-toys 1.0)" in seen.found
    assert {f"{finding.found}; {finding.remedy}" for finding in wrong if not finding.ok} == {*lines}
    for name, (who, why) in wanted.items():
        (line,) = [line for line in lines if f" {name} of " in line]
        assert f"{name} of {who} (" in line
        assert f") {why}; repair or uninstall {who.partition(' ')[0]}" in line


def test_a_checker_that_breaks_is_one_line(installed: Install):
    installed("acme-rules", checker={"names": "acme_toys:breaks"})
    with pytest.raises(
        RecipeError, match=r"reglage.checker 'names' of acme-rules 1.0 .* failed: KeyError\('nothing'\);"
    ):
        list(misfits(Mean()))
