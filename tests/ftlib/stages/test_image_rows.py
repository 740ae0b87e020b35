"""Rows of images through ingestion and preparation."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor

from ftlib.data.assignment import profile_rows
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.images.cells import from_cell, image_in, to_cell
from ftlib.data.prepared import SPLITS, split_file
from ftlib.data.rows import Checked
from ftlib.data.snapshot import read_snapshot, write_snapshot
from ftlib.errors import DataError, ModelError
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.retraining.drift import DriftLimits, drift
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import Guard, PreprocessJob, preprocess
from ftlib.testing import tiny_image_classifier, tiny_image_rows, write_jsonl
from ftlib.workspace import Workspace
from tests.ftlib.data.images.pictures import encoded, noise, scene

FORMAT: dict[str, Any] = {"kind": "labeled_image", "slices": ["theme"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FoundModel:
    return find_model(ModelRef(path=str(tiny_image_classifier(tmp_path_factory.mktemp("model")))))


class Bench:
    """Rows in, prepared dataset out, in a workspace of its own."""

    def __init__(self, folder: Path, model: FoundModel) -> None:
        self.folder, self.model, self.work = folder, model, Workspace(folder / "work")

    def ingest(self, rows: list[dict[str, Any]], name: str = "icons", **fields: Any) -> tuple[RawDataset, Dataset]:
        path = write_jsonl(self.folder / f"{name}.jsonl", rows)
        source = {"kind": "files", "path": str(path), "images": ["image"]}
        limits = {"rows": 1, "bad_rows": 1, "dropped_rows": 1, **fields.pop("limits", {})}
        dataset = Dataset.model_validate({"source": source, "format": FORMAT, "limits": limits, **fields})
        job = IngestJob(name=name, source=dataset.source, files=dataset.source.pin(), limits=dataset.limits)
        return ingest(job, self.work), dataset

    def prepare(self, rows: list[dict[str, Any]], guards: tuple[Guard, ...] = (), **fields: Any) -> PreparedDataset:
        raw, dataset = self.ingest(rows, **fields)
        return preprocess(self.job(raw, dataset, guards), self.work)

    def job(self, raw: RawDataset, dataset: Dataset, guards: tuple[Guard, ...] = ()) -> PreprocessJob:
        return PreprocessJob(
            name="icons",
            raw=raw,
            dataset=dataset,
            model=self.model,
            tokenizer=self.model.tokenizer,
            guards=guards,
            trains=True,
        )


@pytest.fixture
def bench(tmp_path: Path, model: FoundModel) -> Bench:
    return Bench(tmp_path, model)


def row(image: Image.Image | bytes, label: str = "a", theme: str = "light", **more: Any) -> dict[str, Any]:
    data = image if isinstance(image, bytes) else encoded(image)
    return {"image": to_cell(data), "label": label, "theme": theme, **more}


def test_a_split_holds_the_pixels_of_the_models_size_and_says_what_was_done(bench: Bench) -> None:
    rows: list[dict[str, Any]] = [*tiny_image_rows(30), row(noise().convert("L"), "bug"), row(noise(seed=9), "bug")]
    prepared = bench.prepare(rows)
    assert prepared.kind == "labeled_images"
    assert prepared.labels == ("billing", "bug", "sales")
    assert prepared.image_changes == {"grey_to_rgb": 1}
    assert prepared.profile.measures.keys() == {"size", "brightness", "colour"}
    assert prepared.profile.lengths == {}
    assert prepared.profile.rows == prepared.splits["train"].rows
    assert prepared.profile.measures["size"].keys() == {1 + int(8 * np.log2(24)), 1 + int(8 * np.log2(31))}
    found: dict[str, NDArray[np.uint8]] = {}
    for split in SPLITS:
        table = pa.ipc.open_file(pa.memory_map(str(split_file(prepared.path, split)))).read_all()
        pixels = table["pixel_values"].combine_chunks().flatten().to_numpy().reshape(-1, 3, 32, 32)
        found |= dict(zip(table["row_id"].to_pylist(), pixels, strict=True))
    raw, _ = bench.ingest(rows)
    stock = AutoImageProcessor.from_pretrained(bench.model.uri, backend="pil", do_rescale=False, do_normalize=False)
    for row_id, values in read_snapshot(raw.path / "rows.parquet"):
        assert np.array_equal(found.pop(row_id), stock(image_in(str(values["image"])))["pixel_values"][0])
    assert not found
    again = bench.prepare(rows, format={**FORMAT, "background": "black"})
    assert again.content == prepared.content  # nothing is transparent
    assert bench.prepare(rows, format={**FORMAT, "pixels": 40}).content != prepared.content


def test_a_folder_at_the_wrong_level_says_which_one_is_the_label(bench: Bench) -> None:
    for i, image in enumerate(tiny_image_rows(12)):
        file = bench.folder / "themes" / "oxygen" / image["label"] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(from_cell(image["image"]))

    def prepare(path: str, **level: int) -> PreparedDataset:
        source = {"kind": "image_folder", "path": f"{bench.folder}/{path}", **level}
        raw, dataset = bench.ingest([], source=source, format={"kind": "labeled_image"})
        return preprocess(bench.job(raw, dataset), bench.work)

    hint = r"the label is the name of the folder at label_level 1 \(1: the first below '.*/{}', -1: the image's own\)"
    with pytest.raises(DataError, match="no column 'label'.* are image, path; " + hint.format("themes/oxygen/bug/")):
        prepare("themes/oxygen/bug/")
    with pytest.raises(DataError, match="have the label 'oxygen'; .*format's columns; " + hint.format("themes/")):
        prepare("themes/")
    labels = ("billing", "bug", "sales")
    assert prepare("themes/", label_level=-1).labels == prepare("themes/oxygen/").labels == labels


def test_what_is_no_image_is_quarantined_and_the_ledger_balances(bench: Bench) -> None:
    large = row(Image.new("RGB", (60, 60), "red"))
    rows = [
        *tiny_image_rows(12),
        row(b"hello"),
        row(encoded(noise())[:-200]),
        row(b"<svg/>"),
        large,
        row(b""),
        {"label": "a", "theme": "x"},
        {"image": "x.png", "label": "a"},
    ]
    raw, dataset = bench.ingest(rows, limits={"image_pixels": 3599})
    reasons = {"not_an_image": 2, "broken_image": 1, "image_not_allowed": 1, "image_too_large": 1}
    assert raw.ledger.dropped == dict(sorted({**reasons, "missing_image_file": 1}.items()))
    assert raw.ledger.rows_in == raw.ledger.kept + sum(raw.ledger.dropped.values()) == len(rows)
    said = [json.loads(line) for line in (raw.path / "quarantine.jsonl").read_text().splitlines()]
    assert all(entry["column"] == "image" and ";" in entry["detail"] for entry in said)
    prepared = preprocess(bench.job(raw, dataset), bench.work)
    assert prepared.ledger.dropped == {"missing_image": 1}
    with pytest.raises(DataError, match=r"image_too_large, first .* 60 x 60 pixels, allowed 3,599; make it smaller"):
        bench.ingest([*tiny_image_rows(12), large], limits={"image_pixels": 3599, "bad_rows": 0.01})
    source = {"kind": "files", "path": str(write_jsonl(bench.folder / "x.jsonl", [{"image": "a", "label": "b"}]))}
    raw, dataset = bench.ingest(rows, source=source, limits={"dropped_rows": 0.5}, format={"kind": "labeled_image"})
    with pytest.raises(DataError, match=r"image_not_ingested .*name it in the source's images"):
        preprocess(bench.job(raw, dataset), bench.work)


def test_copies_go_by_the_files_bytes_and_near_copies_by_sight(bench: Bench) -> None:
    """Train rows near a test row, of this dataset or of another one that is evaluated, leak, whatever their label."""
    pictures = [scene(90, 80, seed=seed) for seed in range(8)]

    def small(i: int) -> Image.Image:
        return pictures[i].resize((45, 40), Image.Resampling.BILINEAR)

    rows = [
        row(pictures[0], "a", side="train"),
        row(pictures[0], "a", side="train", theme="dark"),  # the same file
        row(small(0), "a", side="train"),  # another file of the same picture
        row(small(0), "b", side="train", theme="dark"),  # the same file as the last, with another label
        row(pictures[1], "b", side="test"),
        row(pictures[1], "a", side="train"),  # a file of the test
        row(encoded(pictures[1], "JPEG", quality=80), "a", side="train"),
        row(small(1), "a", side="validation"),
        row(pictures[2], "b", side="train"),
        row(small(3), "b", side="train"),
        row(pictures[4], "b", side="validation"),
        row(encoded(pictures[5], "JPEG", quality=70), "a", side="train"),
    ]
    split = {"by": "given", "column": "side"}
    plain = bench.prepare(rows, split=split)
    assert plain.ledger.dropped == {"conflicting_labels": 2, "duplicate": 1, "leaked": 1}
    near = bench.prepare(rows, split=split, cleaning={"near_duplicates": 0.9})
    assert near.ledger.dropped == {"conflicting_labels": 2, "duplicate": 1, "leaked": 1, "near_leaked": 2}
    away = [row(pictures[3], side="test"), row(pictures[5], "b", side="test")]
    raw, dataset = bench.ingest(away, name="away", split=split)
    guards = (Guard(raw=raw, dataset=dataset),)
    guarded = bench.prepare(rows, guards, split=split, cleaning={"near_duplicates": 0.9})
    assert guarded.ledger.dropped == {"conflicting_labels": 2, "duplicate": 1, "leaked": 1, "near_leaked": 4}
    assert guarded.leaked == 5
    with pytest.raises(ValueError, match=r"near_duplicates: 0\.8, of images allowed are 0\.85 to 1"):
        bench.prepare(rows, cleaning={"near_duplicates": 0.8})


def test_drift_is_of_size_brightness_and_colour(bench: Bench) -> None:
    before = bench.prepare(tiny_image_rows(60)).profile
    dark = [row(Image.eval(scene(24, 24, seed=i), lambda v: v // 4), "bug", side=i) for i in range(40)]
    raw, dataset = bench.ingest(dark, name="fresh")
    moved = {found.feature: found for found in drift(before, profile_rows(raw, dataset), DriftLimits(rows=10))}
    assert moved.keys() == {"size", "brightness", "colour", "label", "slice:theme"}
    assert moved["brightness"].large
    assert not moved["size"].large


def test_a_changed_image_processor_is_another_job_and_a_vanished_one_is_told(bench: Bench, tmp_path: Path) -> None:
    raw, dataset = bench.ingest([dict(one) for one in tiny_image_rows(30)])
    folder = tiny_image_classifier(tmp_path / "other")
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "image_mean": [0.1, 0.1, 0.1]}))
    other = find_model(ModelRef(path=str(folder)))
    assert other.tokenizer != bench.model.tokenizer
    bench.model = other
    job = bench.job(raw, dataset)
    path.write_text(json.dumps(said))
    with pytest.raises(ModelError, match="changed or vanished since the run started"):
        preprocess(job, bench.work)


def test_a_thousand_large_images_are_not_a_gigabyte_in_memory(tmp_path: Path) -> None:
    """Python's memory and Arrow's, of rows of 400 kB: written and read in batches that bytes close, equal ones too."""
    cells = [to_cell(b"\x89PNG\r\n\x1a\n" + random.Random(i).randbytes(300_000)) for i in range(8)]
    rows = (Checked({"image": cells[i % 8], "n": i}, f"{i:032x}", None, 400_000) for i in range(200))
    tracemalloc.start()
    arrow, before = 0, pa.total_allocated_bytes()
    try:
        write_snapshot(tmp_path / "rows.parquet", rows)
        for i, (_, values) in enumerate(read_snapshot(tmp_path / "rows.parquet")):
            arrow = max(arrow, pa.total_allocated_bytes() - before)
            assert values["n"] == i
            assert len(from_cell(str(values["image"]))) == 300_008
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000  # all of them are 80 MB
    assert arrow < 50_000_000
