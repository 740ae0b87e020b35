"""What docs/upgrade.md promises: what earlier releases made is read, served, rolled back and found done.

fe4a957.tar.xz and c56ff10.tar.xz are what these two commits made; record.py says how.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from flows.run import jobs
from ftlib.data.datasets import RawDataset
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.retraining.file_ledger import FileLedger
from ftlib.storage import LocalStore
from ftlib.testing import tiny_rows
from ftlib.workspace import Workspace

HERE = Path(__file__).parent
VERSIONS = ("router@1", "router@2", "adapted@1")
TEXTS = "".join(f"{row['text']}\n" for row in tiny_rows(6, seed=3))


def unpack(commit: str, folder: Path) -> Path:
    with tarfile.open(HERE / f"{commit}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of fe4a957, as the current one."""
    monkeypatch.chdir(unpack("fe4a957", tmp_path / "there"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "there"


def reglage(*words: str, given: str | None = None) -> Any:
    """Return what a command prints as JSON."""
    result = CliRunner().invoke(main, [*words, "--json"], input=given)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_version_is_listed_and_every_byte_of_it_is_verified(there: Path):
    models = {model["name"]: model for model in reglage("registry", "list")["models"]}
    assert {name: model["aliases"] for name, model in models.items()} == {
        "router": {"champion": 1},
        "adapted": {"champion": 1},
    }
    for version in VERSIONS:
        assert reglage("registry", "verify", version)["faults"] == []
        assert reglage("registry", "show", version)["manifest"]["name"] == version.partition("@")[0]
    assert reglage("registry", "verify", "adapted@1", "--key", "key.pub")["signed_by"]
    assert reglage("registry", "fsck")["ok"]


def test_a_version_answers_as_it_did(there: Path):
    recorded = json.loads((there / "answers.json").read_text())
    for version in VERSIONS:
        answers = reglage("predict", version, given=TEXTS)["predictions"]
        assert len(answers) == 6
        for answer, before in zip(answers, recorded[version], strict=True):
            assert answer["label"] == before["label"]
            assert answer["probabilities"] == pytest.approx(before["probabilities"], abs=1e-6)


def test_a_version_with_its_adapter_is_pulled_and_is_the_base_model_with_it(there: Path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    pulled = Path(reglage("registry", "pull", "adapted@champion", "--key", "key.pub")["folder"])
    whole = AutoModelForSequenceClassification.from_pretrained(pulled)
    start = AutoModelForSequenceClassification.from_pretrained(there / "model", id2label=whole.config.id2label)
    adapted = PeftModel.from_pretrained(start, str(pulled / "adapter")).merge_and_unload()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(adapted.state_dict()[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_an_alias_goes_on_from_its_log(there: Path):
    entries = reglage("registry", "history", "router")["entries"]
    assert [(entry["sequence"], entry["version"]) for entry in entries] == [(1, 1), (2, 2), (3, 1)]
    assert (entries[2]["who"], entries[2]["why"]) == ("record.py", "a drill")
    assert reglage("registry", "rollback", "router", "--to", "2")["version"] == 2
    assert reglage("registry", "promote", "router@1", "--expected", "4")["sequence"] == 5


def test_lineage_says_which_rows_trained_and_the_recipe_in_it_is_a_recipe(there: Path):
    for version in VERSIONS:
        shown = reglage("lineage", version)
        assert shown["lineage"]["data"]["tickets"]["rows"]["test"] > 0
        recipe = Recipe.model_validate(shown["lineage"]["recipe"])
        assert recipe.publish.name == version.partition("@")[0]
    found = reglage("lineage", "--key", "100")  # a row of the second day
    holders = {held["version"] for held in found["found"]}
    assert holders == {"router@2", "adapted@1"}


def test_the_ledger_of_files_and_the_recipes_are_read(there: Path):
    state = FileLedger(LocalStore(there / "registry"), "router", "tickets").state()
    assert (state.sequence, len(state.files)) == (2, 2)
    assert state.decision is not None
    assert (state.decision.what, state.decision.version) == ("promoted", 2)
    (there / "key").write_text("")  # its private half is not kept
    for name in ("router", "adapted"):
        assert reglage("check", f"{name}.yaml")["phases"] == ["probe", "tune"]


def test_a_work_folder_is_found_done(there: Path):
    work = unpack("c56ff10", there) / "work"
    recipe, found = load_recipe("router.yaml"), {}
    for record in (work / "stages" / "ingest").glob("*/artifact.json"):
        raw = RawDataset.model_validate_json(record.read_text())
        found[record.parent.name] = jobs.ingest_job(recipe, "tickets", raw.files).fingerprint
    assert found
    assert {*found} == {*found.values()}
    before = {path for path in work.glob("stages/*/*") if path.is_dir()}
    for name in ("router", "adapted"):
        # A file counts by where it lies, and here it lies elsewhere: the same rows are read again, and nothing else is.
        stages = reglage("plan", f"{name}.yaml", "--work", "work", "--prepare")["stages"]
        states = {stage["stage"]: stage["state"] for stage in stages}
        # The report's job holds all that a run knows. Where its `version` is raised, the page alone is drawn again.
        assert [name for name, state in states.items() if state != "done"] == ["report", "register"]
        assert len(states) == 11
    made = {path.parent.name for path in work.glob("stages/*/*") if path.is_dir() and path not in before}
    assert made == {"ingest"}
    assert Workspace(work).root == work
