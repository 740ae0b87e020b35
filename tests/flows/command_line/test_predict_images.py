"""From rows of images to a published version, and to its answers to files: ours, and stock transformers'."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.numpy import load_file

from flows.command_line.main import main
from flows.finetune import finetune
from ftlib.data.images.cells import from_cell
from ftlib.errors import IntegrityError
from ftlib.evaluation.publish_check import check_image_processor
from ftlib.fingerprint import file_digest
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.storage import LocalStore
from ftlib.testing import ImageFamily, tiny_image_classifier, tiny_image_rows, write_jsonl
from tests.recipes.test_recipes import PlainRunner

RECIPE = """
name: icons
model: {{path: {folder}/model}}
datasets:
  icons:
    source: {{kind: files, path: {folder}/rows.jsonl}}
    format: {{kind: labeled_image, {format}}}
phases:
  - {{name: probe, dataset: icons, objective: {{kind: classification}}, tuning: {{kind: linear_probe, l2: 1.0}}}}
  - name: tune
    dataset: icons
    objective: {{kind: classification}}
    tuning: {tuning}
    augmentation: {{kind: images}}
    optimizer: {{epochs: 2, batch_size: 16, learning_rate: 3e-3}}
evaluations:
  icons: {{dataset: icons, metrics: [{{kind: accuracy}}], resamples: 100}}
interpolation: {interpolation}
select: {{by: icons/accuracy{rule}}}
publish: {{name: icons, to: {{kind: folder, path: {folder}/registry}}}}
compute: {{workers: 0, threads: 1}}
"""
FULL, LINE, OFF = "{kind: full}", "{kind: wise_ft, alphas: [0, 0.5, 1]}", '{kind: "off"}'


class Published(NamedTuple):
    """A run's record, and the folder of what it published."""

    record: Any
    folder: Path
    registry: Path


def publish(
    place: Path, family: ImageFamily, format: str, tuning: str, interpolation: str, rule: str = ""
) -> Published:
    tiny_image_classifier(place / "model", family)
    write_jsonl(place / "rows.jsonl", tiny_image_rows(72))
    text = RECIPE.format(folder=place, format=format, tuning=tuning, interpolation=interpolation, rule=rule)
    (place / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.run.tracked.Runner", PlainRunner)
        record: Any = finetune.fn(str(place / "recipe.yaml"), work=str(place / "work")).data
    assert isinstance(record.result, ModelVersion)
    registry = ModelRegistry(LocalStore(place / "registry"))
    registry.pull(registry.version(record.result.name, 1), place / "out")
    return Published(record, place / "out", place / "registry")


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("icons"), "resnet", "pixels: 48", FULL, LINE)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def files(folder: Path) -> list[str]:
    """Return files as users have them: of other sizes than the model's, and one of four channels."""
    folder.mkdir()
    paths: list[str] = []
    for i, row in enumerate(tiny_image_rows(5, seed=9, pixels=40)):
        (folder / f"{i}.png").write_bytes(from_cell(row["image"]))
        image = Image.open(folder / f"{i}.png")
        wide = image.crop((0, 0, 40, 30)) if i % 2 else image
        (wide.convert("RGBA") if i == 2 else wide).save(folder / f"{i}.png")
        paths.append(str(folder / f"{i}.png"))
    return paths


def predict(version: Published, *words: str, lines: str = "") -> Result:
    return CliRunner().invoke(main, ["predict", "icons", "--registry", str(version.registry), *words], input=lines)


@pytest.mark.slow
def test_files_are_answered_as_stock_transformers_answers_them(icons: Published, tmp_path: Path) -> None:
    check_answers(icons, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "format", "tuning", "interpolation"),
    [
        ("vit", "background: black", FULL, LINE),
        ("efficientnet", "pixels: 40", "{kind: lora, rank: 2}", LINE),
        ("vit", "", "{kind: lora, rank: 2, keep: adapter}", OFF),
        ("resnet", "", "{kind: lora, rank: 2, keep: adapter}", LINE),
        ("efficientnet", "", "{kind: frozen_layers, layers: 1}", LINE),
    ],
)
def test_files_are_answered_by_every_family_and_tuning(
    family: ImageFamily, format: str, tuning: str, interpolation: str, tmp_path: Path
) -> None:
    check_answers(publish(tmp_path, family, format, tuning, interpolation), tmp_path)


def check_answers(version: Published, tmp_path: Path) -> None:
    """Hold `reglage predict` against the code of the version's card."""
    record, folder = version.record, version.folder
    assert record.result.logit_difference <= 1e-5
    paths = files(tmp_path / "png")
    result = predict(version, *paths, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)["predictions"]
    assert [answer["file"] for answer in said] == paths
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    size = record.evidence.recipe.datasets["icons"].format.pixels or 32
    assert f"It was trained on images of {size} x {size} pixels (`icons`)" in card
    page = (record.report.path / record.report.markdown).read_text()
    assert "| dataset | split | rows | patches | targets | labels |" in page
    assert not re.search("token|truncated|longest", page + card)
    lines = predict(version, lines="".join(f"{path}\n" for path in paths)).stdout.splitlines()
    assert lines == [f"{one['file']}\t{one['label']}\t{one['probability']:.4f}" for one in said]
    if record.evidence.selection.chosen.end.form == "adapter":
        return
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    ran: dict[str, Any] = {}
    code = code.replace("path/to/this/folder", str(folder)).replace("some.png", paths[2])
    exec(compile(code, "card", "exec"), ran)
    for path, ours in zip(paths, said, strict=True):
        # The pipeline has its own idea of what a transparent part shows: the card's code says it.
        asked = ran["image"] if path == paths[2] else path
        theirs = {answer["label"]: answer["score"] for answer in ran["model"](asked, top_k=None)}
        assert theirs == pytest.approx(ours["probabilities"], abs=1e-5)


def test_what_is_no_image_is_said_and_the_others_are_answered(icons: Published, tmp_path: Path) -> None:
    good = files(tmp_path / "png")[0]
    (tmp_path / "cut.png").write_bytes(Path(good).read_bytes()[:300])
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.zeros((4, 4000, 3), np.uint8)).save(tmp_path / "long.png")
    bad = [str(tmp_path / name) for name in ("cut.png", "text.png", "long.png", "absent.png", "png")]
    result = predict(icons, bad[0], good, *bad[1:])
    assert result.exit_code == 1
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [good]
    errors = result.stderr.splitlines()
    assert len(errors) == len(bad)
    words = ("is PNG that cannot be decoded", "which is no image", "times the other", "No such file", "Is a directory")
    for line, path, said in zip(errors, bad, words, strict=True):
        assert line.startswith(f"reglage: {path} ")
        assert said in line
    record = json.loads(predict(icons, bad[1], good, "--json").stdout)["predictions"]
    assert [("error" in one, one["file"]) for one in record] == [(True, bad[1]), (False, good)]


def test_an_image_processor_that_sizes_otherwise_is_not_published(icons: Published, tmp_path: Path) -> None:
    """The gate sees what stock transformers would do with the folder, whatever wrote it."""
    evidence, folder = icons.record.evidence, tmp_path / "copy"
    shutil.copytree(icons.folder, folder)
    format, data = evidence.recipe.published_format(), evidence.prepared["icons"]
    check_image_processor(folder, evidence.selection.chosen, format, data)
    says = folder / "preprocessor_config.json"
    own = json.loads(says.read_text())
    assert own["size"] == {"shortest_edge": 48}
    for changes, words in (
        ({"size": {"shortest_edge": 32}}, r"\(3, 32, 32\) that differ by inf from those of \(3, 48, 48\)"),
        ({"image_mean": [0.4, 0.5, 0.5]}, r"that differ by 0\.\d+ from"),
        ({"crop_pct": 0.5}, r"that differ by \d[.\d]* from"),
    ):
        says.write_text(json.dumps({**own, **changes}))
        with pytest.raises(IntegrityError, match=words):
            check_image_processor(folder, evidence.selection.chosen, format, data)


@pytest.mark.slow
def test_a_mix_is_published_with_the_statistics_that_were_measured_for_it(tmp_path: Path) -> None:
    """Chosen at alpha 0.5: what its evaluation asked is what a version holds, and card and lineage say of it."""
    updated = "{kind: full}\n    batch_norm: updated"
    version = publish(tmp_path, "resnet", "pixels: 48", updated, LINE, ", rule: fixed, alpha: 0.5")
    said = json.loads((version.folder / "manifest.json").read_text())["lineage"]["weights"]["statistics"]
    (file,) = [path for path in (tmp_path / "work").rglob("*.safetensors") if file_digest(path) == said["sha256"]]
    published, statistics = load_file(version.folder / "model.safetensors"), load_file(file)
    assert len(statistics) == 2 * said["layers"] > 0
    for name, values in statistics.items():
        np.testing.assert_array_equal(published[name], values)
    card = (version.folder / "README.md").read_text()
    assert f"Its BatchNorm statistics were measured on {said['rows']} training rows." in card
