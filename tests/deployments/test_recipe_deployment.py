"""Where a by-hand deployment says that its recipe is."""

from pathlib import Path

import pytest

from deployments.environment import Environment, WorkPool
from deployments.recipe_deployment import _as_found


def test_a_recipe_is_found_where_it_was_read_if_runs_start_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    here = Environment(home=str(tmp_path / "home"))
    whole = str(tmp_path / "elsewhere" / "a.yaml")
    assert _as_found("a.yaml", here) == _as_found(whole, here) == _as_found("../elsewhere/a.yaml", here) == whole
    away = Environment(home="/srv/of/another/machine")
    assert _as_found("a.yaml", away) == "a.yaml"
    image = here.model_copy(update={"pool": WorkPool(type="docker", image="a:1")})
    assert _as_found("recipes/a.yaml", image) == "recipes/a.yaml"
