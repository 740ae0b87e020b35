"""Folders that no run trained, on their way to a version: what is published, what is refused, what moves an alias."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import ftlib.stages.adopt as stage
from flows.command_line.main import main
from flows.models.adopt import Adopted, Adoption, adopt_folder, promote_adopted, try_champion
from ftlib.errors import DataError, ModelError, ReglageError
from ftlib.models.folder import weights_digest
from ftlib.published.adopted import Origin, adopted_card
from ftlib.published.ancestry import Ancestry
from ftlib.published.predict import predict
from ftlib.published.row_search import Wanted, find_rows
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.registry.publish import Publish
from ftlib.testing import LABELS, tiny_checkpoint, tiny_recipe, tiny_rows
from ftlib.workspace import Workspace

Place = tuple[Path, Recipe]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A recipe, two models that it did not train, and what `reglage interpolate` makes of them."""
    folder = tmp_path_factory.mktemp("adopt")
    recipe = load_recipe(tiny_recipe(folder))
    start = tiny_checkpoint(folder / "one")
    tiny_checkpoint(folder / "two", start=start, seed=1)
    words = ["interpolate", str(folder / "one"), str(folder / "two"), "--alpha", "0.5", "--out", str(folder / "merged")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return folder, recipe


@pytest.fixture(scope="module")
def published(place: Place) -> Adopted:
    folder, recipe = place
    return adopt_folder(asked(folder / "merged", recipe, who="ann"), Workspace(folder / "work"))


def asked(folder: Path, recipe: Recipe, **more: object) -> Adoption:
    return Adoption(folder, str(folder), recipe.publish, recipe, **more)


def bare(folder: Path, to: Path, **more: object) -> Adoption:
    """Without a recipe."""
    publish = Publish.model_validate({"name": "m", "to": {"kind": "folder", "path": str(to)}})
    return Adoption(folder, str(folder), publish, **more)


def versions(adoption: Adoption) -> list[str]:
    registry = ModelRegistry(adoption.publish.to.store())
    try:
        return [str(version) for version in registry.versions(adoption.publish.name)]
    except ReglageError:
        return []


def test_a_merge_is_published_byte_for_byte_and_claims_no_rows(place: Place, published: Adopted, tmp_path: Path):
    folder, recipe = place
    version = published.result
    assert isinstance(version, ModelVersion)
    registry = ModelRegistry(recipe.publish.to.store())
    found = registry.version(version.name, version.version)
    registry.pull(found, pulled := tmp_path / "pulled")
    assert weights_digest(pulled) == weights_digest(folder / "merged")
    for name in ("config.json", "tokenizer.json"):
        assert (pulled / name).read_bytes() == (folder / "merged" / name).read_bytes()
    manifest = registry.manifest(found)
    record = json.loads((folder / "merged" / "merge.json").read_text())
    adopted = manifest.lineage["adopted"]
    assert (adopted["merge"], adopted["who"]) == (record, "ann")
    assert "data" not in manifest.lineage
    assert "merge.json" not in {file.path for file in manifest.files}  # it is in the lineage
    # The row cannot be told, and nobody is told that it is not there.
    answer = find_rows(registry, [Wanted(by="row", value="0" * 32)])
    assert (answer.found, answer.without_index) == ((), (str(found),))
    card = ModelCard.load(pulled / "README.md")
    assert card.data.tags == ["reglage", "merge"]
    assert "Which rows trained it is not known" in card.text
    assert "It was merged by lerp" in card.text
    # What it was measured as: counted anew with stock transformers.
    model, tokenizer = (each.from_pretrained(pulled) for each in (AutoModelForSequenceClassification, AutoTokenizer))
    away = [row for row in tiny_rows(60, seed=1)]
    with torch.no_grad():
        right = {
            row["text"]: LABELS[int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax())]
            == row["label"]
            for row in away
        }
    answers = [one.label for one in predict(pulled, [row["text"] for row in away])]
    assert [answer == row["label"] for answer, row in zip(answers, away, strict=True)] == [*right.values()]
    cell = next(c for report in published.reports for c in report.measured if c.evaluation == "away")
    assert manifest.metrics["away/accuracy"] == cell.metrics["accuracy"].value
    assert 0 < cell.rows < 60
    assert cell.metrics["accuracy"].value * cell.rows == pytest.approx(
        round(cell.metrics["accuracy"].value * cell.rows)
    )


def test_twice_is_one_version_whoever_asks_and_wherever_the_work_was(place: Place, published: Adopted, tmp_path: Path):
    folder, recipe = place
    assert isinstance(published.result, ModelVersion)
    for work in (folder / "work", tmp_path / "fresh"):
        again = adopt_folder(asked(folder / "merged", recipe, who="bob"), Workspace(work)).result
        assert isinstance(again, ModelVersion)
        assert (again.version, again.manifest, again.created) == (1, published.result.manifest, False)


def test_what_was_merged_from_versions_is_known_to_come_from_them(place: Place, published: Adopted, tmp_path: Path):
    """A row that trained a parent is in the child, however that was made."""
    folder, recipe = place
    registry = ModelRegistry(recipe.publish.to.store())
    registry.pull(registry.version(recipe.publish.name, 1), tmp_path / "a")
    save_file(load_file(tmp_path / "a" / "model.safetensors"), tmp_path / "a" / "model.safetensors", {"format": "pt"})
    record = {"merge": {"kind": "lerp", "alpha": 1.0}, "weights": weights_digest(tmp_path / "a")}
    record["checkpoints"] = [{"name": "tiny-router@1", "weights": weights_digest(tmp_path / "a")}]
    (tmp_path / "a" / "merge.json").write_text(json.dumps(record))
    (tmp_path / "a" / "manifest.json").unlink()
    publish = recipe.publish.model_copy(update={"name": "child"})
    child = adopt_folder(Adoption(tmp_path / "a", "a", publish), Workspace(folder / "work")).result
    assert isinstance(child, ModelVersion)
    assert Ancestry.read(registry).parents("child@1") == ["tiny-router@1"]


def test_half_precision_stays_half(place: Place, tmp_path: Path):
    folder, _ = place
    shutil.copytree(folder / "one" / "model", tmp_path / "half")
    weights = {
        name: tensor.to(torch.bfloat16) for name, tensor in load_file(tmp_path / "half/model.safetensors").items()
    }
    save_file(weights, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "half/config.json").read_text())
    (tmp_path / "half/config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    adoption = bare(tmp_path / "half", tmp_path / "registry")
    version = adopt_folder(adoption, Workspace(tmp_path / "work")).result
    assert isinstance(version, ModelVersion)
    assert version.logit_difference <= 1e-5
    registry = ModelRegistry(adoption.publish.to.store())
    registry.pull(registry.version("m"), tmp_path / "out")
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in read.values()} == {torch.bfloat16}
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())


def _json(folder: Path, name: str, **fields: object) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **fields}))


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    for name in ("vocab.txt", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)


def _nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if weights[name].is_floating_point())
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "pickle": (_pickle, "is a pickle and is never opened"),
    "no tokenizer": (_no_tokenizer, "has no tokenizer"),
    "auto_map": (lambda f: _json(f, "tokenizer_config.json", auto_map={"AutoTokenizer": "t.T"}), "'auto_map'"),
    "adapter": (
        lambda f: (f / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
        r"is an adapter: .* `reglage interpolate BASE",
    ),
    "a version": (lambda f: (f / "manifest.json").write_text("{}"), "`reglage registry copy`"),
    "stale merge": (lambda f: (f / "merge.json").write_text('{"weights": "00"}'), "is not of these weights"),
    "cut off": (lambda f: os.truncate(f / "model.safetensors", 1000), "model.safetensors"),
    "NaN": (_nan, "holds NaN or infinity"),
    "no labels": (lambda f: _json(f, "config.json", id2label=None, label2id=None, num_labels=3), "names no labels"),
    "another class": (lambda f: _json(f, "config.json", architectures=["SomeOddity"]), "give --kind, one of labeled"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_folders_are_one_line_and_leave_nothing(place: Place, tmp_path: Path, bad: str):
    harm, said = BAD[bad]
    shutil.copytree(place[0] / "one" / "model", folder := tmp_path / "model")
    harm(folder)
    adoption = bare(folder, tmp_path / "registry")
    with pytest.raises(ModelError, match=said) as caught:
        adopt_folder(adoption, Workspace(tmp_path / "work"))
    assert "\n" not in str(caught.value)
    assert versions(adoption) == []


def test_other_labels_than_the_champions_are_refused_unless_that_is_meant(
    place: Place, published: Adopted, tmp_path: Path
):
    folder, recipe = place
    registry = ModelRegistry(recipe.publish.to.store())
    if registry.alias(recipe.publish.name, "champion") is None:
        registry.promote(recipe.publish.name, "champion", 1, None, "ann", "first")
    shutil.copytree(folder / "two" / "model", other := tmp_path / "other")
    _json(other, "config.json", id2label={"0": "billing", "1": "bug", "2": "weather"})
    publish = recipe.publish
    with pytest.raises(DataError, match=r"tiny-router@1, the champion: new weather, gone sales; give --labels-may"):
        adopt_folder(Adoption(other, "other", publish), Workspace(tmp_path / "work"))


def test_a_folder_that_changes_while_it_is_read_is_not_published(place: Place, tmp_path: Path, monkeypatch):
    shutil.copytree(place[0] / "one" / "model", folder := tmp_path / "model")
    adoption = bare(folder, tmp_path / "registry")
    real = shutil.copyfile

    def copy_and_change(source: Path, target: Path) -> None:
        real(source, target)
        if Path(source).name == "config.json":  # whoever writes the folder goes on with its weights
            weights = load_file(folder / "model.safetensors")
            save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model.safetensors")

    monkeypatch.setattr(stage.shutil, "copyfile", copy_and_change)
    with pytest.raises(ModelError, match="files changed since this command began to read them; wait until"):
        adopt_folder(adoption, Workspace(tmp_path / "work"))
    assert versions(adoption) == []


def test_killed_before_the_commit_nothing_is_visible_and_the_next_call_publishes_one(
    place: Place, tmp_path: Path, monkeypatch
):
    adoption = bare(place[0] / "one" / "model", tmp_path / "registry")
    real = ModelRegistry.publish

    class Killed(BaseException):
        """Nothing cleans up after it."""

    def dying(registry: ModelRegistry, *words: object) -> object:
        manifest, folder, key, _, scratch, signer = words

        def die(_: Path) -> None:  # all is uploaded and read back, nothing committed
            raise Killed

        return real(registry, manifest, folder, key, die, scratch, signer)

    monkeypatch.setattr(ModelRegistry, "publish", dying)
    with pytest.raises(Killed):
        adopt_folder(adoption, Workspace(tmp_path / "work"))
    monkeypatch.undo()
    assert versions(adoption) == []
    made = adopt_folder(adoption, Workspace(tmp_path / "work")).result
    assert isinstance(made, ModelVersion)
    assert (made.created, versions(adoption)) == (True, ["m@1"])


def test_a_gate_refuses_and_a_champion_stays_or_goes_by_the_recipes_rule(place: Place, tmp_path: Path):
    folder, recipe = place
    work = Workspace(folder / "work")
    to = recipe.publish.model_copy(update={"to": recipe.publish.to.model_copy(update={"path": str(tmp_path / "r")})})
    recipe = recipe.model_copy(update={"publish": to})
    gate = load_recipe(folder / "tiny.yaml", ["select.gates=[{metric: away/accuracy, at_least: 1.0}]"])
    gate = gate.model_copy(update={"publish": to})
    refused = adopt_folder(asked(folder / "two" / "model", gate), work).result
    assert isinstance(refused, Refusal)
    assert "at least 1 is required" in refused.reasons[0]
    assert versions(asked(folder / "two" / "model", recipe)) == []

    first = asked(folder / "one" / "model", recipe)
    one = adopt_folder(first, work)
    trial = try_champion(first, one, work)
    assert (trial.go, trial.champion) == (True, None)
    promote_adopted(first, one.result, trial)
    for rule, goes in (({"margin": 1.0}, True), ({"promote": "better"}, False)):
        retrain = recipe.retrain.model_copy(update=rule)
        second = asked(folder / "two" / "model", recipe.model_copy(update={"retrain": retrain}))
        two = adopt_folder(second, work)
        trial = try_champion(second, two, work)
        assert (trial.go, trial.champion, trial.expected) == (goes, 1, 1), trial.reasons
        away = next(d for d in trial.differences if (d.evaluation, d.metric) == ("away", "accuracy"))
        values = [
            next(c for r in each.reports for c in r.measured if c.evaluation == "away").metrics["accuracy"].value
            for each in (two, one)
        ]
        assert away.estimate.value == pytest.approx(values[0] - values[1])


def test_a_persons_rollback_holds_what_passes_the_test(place: Place, tmp_path: Path, monkeypatch):
    folder, recipe = place
    to = recipe.publish.model_copy(update={"to": recipe.publish.to.model_copy(update={"path": str(tmp_path / "r")})})
    retrain = recipe.retrain.model_copy(update={"margin": 1.0})
    recipe, work = recipe.model_copy(update={"publish": to, "retrain": retrain}), Workspace(folder / "work")
    registry = ModelRegistry(to.to.store())
    one, two = (asked(folder / name / "model", recipe) for name in ("one", "two"))
    adopt_folder(one, work)
    adopted = adopt_folder(two, work)
    registry.promote("tiny-router", "champion", 1, None, "ann", "first")
    registry.promote("tiny-router", "champion", 2, 1, "ann", "second")
    registry.rollback("tiny-router", "champion", 2, "ann", "complaints")
    trial = try_champion(two, adopted, work)
    assert (trial.go, trial.expected) == (True, 3)
    assert trial.held.startswith("ann rolled tiny-router@champion back to version 1")


def test_nothing_that_a_folder_says_is_markup_on_its_card():
    publish = Publish(name="m", description="\n---\nlicense: evil\n![x](http://evil/x.png)")
    record = {"merge": {"kind": "lerp"}, "checkpoints": [{"name": "a|b<script>", "weights": None}]}
    origin = Origin(folder="/x/`<b>`", files=(), merge=record, who="[c](javascript:1)")
    card = adopted_card(publish, "labeled", ("bug<script>alert(1)</script>", "a|b"), origin, None, ())
    data = ModelCard(card)
    assert data.data.license is None
    for markup in ("<script>", "![x](", "[c](", "a|b"):
        assert markup not in data.text
    assert "\n---\n" not in data.text
