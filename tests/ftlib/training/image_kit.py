"""A tiny image classifier at its start, and rows that it can learn: what the tests of training on images begin with."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.inputs import Inputs, Pixels
from ftlib.data.prepared import SPLITS, PreparedRow, split_file, write_split
from ftlib.fingerprint import digest, file_digest
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import IMAGE_SIZE, ImageFamily, tiny_image_classifier, tiny_image_rows, tiny_row_id
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

LABELS = ("bug", "sale", "tax")
PIXELS: Inputs = (Pixels(height=IMAGE_SIZE, width=IMAGE_SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),)


def image_start(folder: Path, family: ImageFamily, labels: Sequence[str] = LABELS) -> Checkpoint:
    """Return the base stage's checkpoint of a tiny model, with a fresh head."""
    model = find_model(ModelRef(path=str(tiny_image_classifier(folder / family, family))))
    job = BaseJob(model=model, kind="labeled_images", labels=tuple(labels), seed=1)
    return base(job, Workspace(folder / "work"))


def image_data(folder: Path, rows: int = 24, labels: Sequence[str] = LABELS) -> PreparedDataset:
    """Write splits of decoded rows, past ingest and preprocess: `rows` to train on, and half as many in the others."""
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[Any, SplitFacts] = {}
    for i, split in enumerate(SPLITS):
        made = [
            PreparedRow(tiny_row_id(split, j), {"pixel_values": _pixels(row["image"])}, row["label"])
            for j, row in enumerate(tiny_image_rows(rows // (1 + (i > 0)), labels, seed=i, pixels=IMAGE_SIZE))
        ]
        write_split(split_file(folder, split), "labeled_images", made, inputs=PIXELS)
        facts[split] = SplitFacts(rows=len(made), tokens=4 * len(made), supervised=len(made), truncated=0, longest=4)
    return PreparedDataset(
        uri=str(folder.absolute()),
        content=digest([file_digest(split_file(folder, split)) for split in SPLITS]),
        kind="labeled_images",
        labels=tuple(labels),
        splits=facts,
        ledger=Ledger(rows_in=rows, kept=rows),
        leaked=0,
        tokenizer="tiny",
    )


def _pixels(uri: str) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    return np.asarray(image).transpose(2, 0, 1)


def image_phase(tuning: dict[str, Any], **fields: Any) -> Phase:
    """Return a phase of two epochs of three steps each."""
    optimizer = {"learning_rate": 3e-3, "epochs": 2, "batch_size": 8, **fields.pop("optimizer", {})}
    return Phase.model_validate(
        {
            **{"name": "tune", "dataset": "d", "objective": {"kind": "classification"}, "tuning": tuning},
            **{"optimizer": optimizer},
            **fields,
        }
    )


def trained(folder: Path, start: Checkpoint, data: PreparedDataset, phase: Phase, **compute: Any) -> Checkpoint:
    """Train in this process, in a work folder of its own."""
    where = Compute.model_validate({"workers": 0, "threads": 1, **compute})
    job = TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=where)
    return train(job, Workspace(folder))
