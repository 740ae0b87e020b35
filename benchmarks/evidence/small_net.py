"""A small net on images of 8 x 8 pixels, tuned by the product's own stages in this process.

A run of `reglage run` takes its half minute to start, which is more than such a net takes to learn; a claim that needs
a hundred of them is measured by the same stages: `base`, `fisher` and `train`, and the mixes of `ftlib.merging`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.evidence.digits import LABELS, SIDE
from ftlib.config import Split
from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.inputs import Inputs, Pixels
from ftlib.data.prepared import SPLITS, PreparedRow, split_file, write_split
from ftlib.fingerprint import digest, file_digest
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.quiet import quiet
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.fisher import FisherJob, fisher
from ftlib.stages.train import TrainJob, train
from ftlib.training.compute import Compute
from ftlib.training.mixture import Mixture
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    Images = Float[np.ndarray, "rows 8 8"]
    Labels = Int[np.ndarray, " rows"]

_PIXELS: Inputs = (Pixels(height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),)
_COMPUTE = Compute(workers=0, threads=1)


@dataclass(frozen=True)
class Bench:
    """Where one seed of a row trains."""

    work: Path
    seed: int

    @property
    def place(self) -> Workspace:
        """Return the work place of its stages: what is done there already is not done again."""
        return Workspace(self.work / "stages")

    def rows(self, name: str, train: tuple[Images, Labels], validation: tuple[Images, Labels]) -> PreparedDataset:
        """Write rows as the preprocess stage does, without test rows: those are the script's."""
        folder = self.work / "rows" / name
        folder.mkdir(parents=True, exist_ok=True)
        facts: dict[Split, SplitFacts] = {}
        for split in SPLITS:
            images, labels = {"train": train, "validation": validation}.get(split, (train[0][:0], train[1][:0]))
            made = [
                PreparedRow(digest([split, at])[:32], {"pixel_values": image}, LABELS[label])
                for at, (image, label) in enumerate(zip(as_rgb(images), labels, strict=True))
            ]
            write_split(split_file(folder, split), "labeled_images", made, inputs=_PIXELS)
            facts[split] = SplitFacts(rows=len(made), tokens=len(made), supervised=len(made), truncated=0, longest=1)
        return PreparedDataset(
            uri=str(folder.absolute()),
            content=digest([file_digest(split_file(folder, split)) for split in SPLITS]),
            kind="labeled_images",
            labels=LABELS,
            splits=facts,
            ledger=Ledger(rows_in=len(train[1]), kept=len(train[1])),
            leaked=0,
            tokenizer="none",
        )

    def random_net(self, *, hidden: int = 64, layers: int = 2, patch: int = SIDE) -> Checkpoint:
        """Return a ViT of random weights that sees an image as (SIDE / patch)^2 pieces.

        One piece makes it a residual network of plain layers, to which the order of the pixels means nothing.
        """
        import torch
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

        folder = self.work / f"random-{hidden}-{layers}-{patch}"
        config = ViTConfig(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=4 * hidden,
            image_size=SIDE,
            patch_size=patch,
            hidden_dropout_prob=0.0,
            id2label=dict(enumerate(LABELS)),
            label2id={label: at for at, label in enumerate(LABELS)},
        )
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(self.seed)
            ViTForImageClassification(config).save_pretrained(folder)
            ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
        found = find_model(ModelRef(path=str(folder)))
        return base(BaseJob(model=found, kind="labeled_images", labels=LABELS, seed=self.seed), self.place)

    def tuned(
        self,
        start: Checkpoint,
        data: PreparedDataset | Sequence[PreparedDataset],
        optimizer: Mapping[str, object],
        *,
        keeping: Sequence[PreparedDataset] = (),
        **phase: Any,
    ) -> Checkpoint:
        """Return what one phase of training leads to. Several datasets are mixed by `mixture`, a tuple of weights.

        `keeping`: the rows that an `ewc` penalty's Fisher information is measured on, where the phase starts.
        """
        weights = phase.pop("mixture", ())
        parts = {"mixture": {f"d{at}": weight for at, weight in enumerate(weights)}} if weights else {"dataset": "d"}
        penalty = phase.get("penalty") or {}
        if penalty.get("kind") == "ewc":
            phase["penalty"] = {"datasets": tuple(f"k{at}" for at in range(len(keeping))), **penalty}
        told = {
            "name": "tune",
            "objective": {"kind": "classification"},
            "tuning": {"kind": "full"},
            "optimizer": {"weight_decay": 0.0, **optimizer},
            **parts,
            **phase,
        }
        settled = Phase.model_validate(told)
        job = partial(
            TrainJob,
            start=start,
            data=data if isinstance(data, PreparedDataset) else Mixture(parts=tuple(data)),
            phase=settled,
            precision="fp32",
            seed=self.seed,
            compute=_COMPUTE,
        )
        kept = settled.penalty.keeps if settled.penalty else None
        if kept is None:
            return train(job(), self.place)
        measuring = FisherJob(
            start=start, data=tuple(keeping), names=kept.datasets, rows=kept.rows, seed=self.seed, compute=_COMPUTE
        )
        return train(job(fisher=fisher(measuring, self.place)), self.place)


def as_rgb(images: Images) -> np.ndarray:
    """Return images from 0 to 1 as the bytes that a model's processor makes of them: rows x 3 x 8 x 8."""
    grey = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1)


def as_inputs(images: Images) -> Any:
    """Return images as a model reads them, as a tensor."""
    import torch

    return (torch.from_numpy(as_rgb(images)).float() / 255 - 0.5) / 0.5


def net_of(model: Checkpoint | Candidate) -> Any:
    """Return a checkpoint, or a mix of two, as a torch module."""
    from ftlib.merging.in_memory import model_of

    return model_of(Candidate.of(model) if isinstance(model, Checkpoint) else model, "labeled_images").eval()


def answers(net: Any, images: Images) -> Float[np.ndarray, "rows 10"]:
    """Return the probability of each label."""
    import torch

    with torch.inference_mode():
        return net(as_inputs(images)).logits.double().softmax(-1).numpy()


def right(told: Float[np.ndarray, "rows 10"], labels: Labels) -> float:
    """Return the accuracy."""
    return float((told.argmax(1) == labels).mean())
