"""The diagonal of a model's Fisher information on rows, as a record beside its file, and the plan that measures it."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import ValidationError
from typing_extensions import override

from ftlib.artifacts import Artifact
from ftlib.config import BatchKind
from ftlib.errors import ModelError
from ftlib.fingerprint import file_digest
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.training.plan import GroupPlan, Part

FILE = "fisher.safetensors"
"""A float32 tensor for each parameter, by the parameter's name and of its shape."""


class Fisher(Artifact):
    """F_i = the mean over rows x of (d log p(y | x) / d w_i)^2, with y drawn from p(. | x), in `fisher.safetensors`.

    Of several datasets the sum of each one's. log p(y | x) is of all that a row is taught: of a language model the sum
    over the row's supervised tokens.
    """

    content: str
    """The sha256 of the file."""
    weights: str
    """The weights that it was measured at."""
    datasets: tuple[str, ...]
    """The rows' datasets."""
    rows: int
    """How many there were, of all datasets."""
    trace: float
    """The sum over all parameters: how much of log p a small random step costs."""

    @property
    def file(self) -> Path:
        """Return the file."""
        return self.local(Path(FILE))

    def digest(self) -> str:
        """Return the digest of the file."""
        return self.content


FOLDER, ABOUT = "fisher", "fisher.json"
"""Where a version carries its own, and the record beside the file there."""


def write_carried(fisher: Fisher, version: Path) -> None:
    """Copy a Fisher information into the folder of a version that is to carry it."""
    (version / FOLDER).mkdir()
    shutil.copyfile(fisher.file, version / FOLDER / FILE)
    about = fisher.model_copy(update={"uri": "", "seconds": 0.0})
    (version / FOLDER / ABOUT).write_text(about.model_dump_json(indent=1), encoding="utf-8")


def read_carried(model: FoundModel) -> Fisher:
    """Return what a model's version carries. Raises ModelError if it carries none, or one with other bytes."""
    folder = model.folder / FOLDER
    try:
        about = Fisher.model_validate_json((folder / ABOUT).read_bytes())
        content = file_digest(folder / FILE)
    except OSError:
        raise ModelError(
            f"{model.name} carries no Fisher information, which ewc keeps its weights by; give the penalty `datasets` "
            "whose rows it is measured on, or start from a version that was published with publish.fisher"
        ) from None
    except ValidationError:
        raise ModelError(f"{folder / ABOUT} is no record of a Fisher information; pull the version again") from None
    if content != about.content:
        raise ModelError(f"{folder / FILE} has other bytes than its record says; pull the version again")
    return about.model_copy(update={"uri": str(folder)})


class FisherPlan(GroupPlan):
    """What one worker needs to know to measure its part; plain data, so it crosses to a Ray worker as JSON."""

    start: Checkpoint
    parts: tuple[Part, ...]
    """The datasets, by name."""
    rows: int
    """Of each dataset, at most."""
    kind: BatchKind
    labels: tuple[str, ...]
    seed: int

    @property
    @override
    def what(self) -> str:
        return "fisher"
