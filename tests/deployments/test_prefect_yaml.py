"""Prefect drops unknown keys in silence and renders an unset variable as nothing: so the file is checked here."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import Flow

from ftlib.recipe_file import load_recipe

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
KNOWN = {
    "name", "description", "version", "tags", "entrypoint", "parameters", "work_pool", "concurrency_limit", "schedules",
}  # fmt: skip
VARIABLES = {"REGLAGE_HOME", "REGLAGE_VERSION"}


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module", params=yaml.safe_load(FILE.read_text())["deployments"], ids=lambda d: d["name"])
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def test_only_keys_that_prefect_knows(file, deployment):
    assert set(file) == {"name", "prefect-version", "pull", "deployments"}
    assert set(deployment) <= KNOWN


def test_only_variables_that_the_readme_names(file):
    used = set(re.findall(r"\{\{\s*\$(\w+)\s*\}\}", FILE.read_text()))
    readme = (ROOT / "deployments" / "README.md").read_text()
    assert used == VARIABLES
    assert all(f"`{name}`" in readme for name in used)


def test_the_entrypoint_is_a_module_path_to_a_flow_that_takes_the_parameters(deployment):
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    flow.validate_parameters(deployment["parameters"])


def test_the_recipe_it_names_fits_together(deployment):
    load_recipe(ROOT / deployment["parameters"]["recipe"])


def test_runs_queue_and_the_schedule_waits_to_be_switched_on(deployment):
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    for schedule in deployment["schedules"]:
        assert (schedule["active"], schedule["timezone"]) == (False, "UTC")
        assert len(schedule["cron"].split()) == 5


def test_the_version_of_prefect_is_the_locked_one(file):
    locked = re.search(r"^prefect==(.+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert file["prefect-version"] == locked[1]
