"""What a run is made of, what its phases train and are measured on, and what it comes to."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.forgotten import ForgetRequest
from ftlib.data.listed import FileVersion
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.recipe.evidence import Evidence
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.report.report import Report
from ftlib.retraining.training_rows import UsedRows

T = TypeVar("T")


class Inputs(NamedTuple):
    """What a run is made of beside its recipe, as it was when the run began."""

    model: FoundModel
    files: Mapping[str, tuple[FileVersion, ...]]
    """What each dataset's source listed."""
    used: Mapping[str, UsedRows] = MappingProxyType({})
    """Which rows of a dataset train; all of one that is not named."""
    names: Sequence[str] = ()
    """The labels of a version that is to be replaced: they are called as there."""
    companions: Mapping[str, Mapping[str, FoundModel]] = MappingProxyType({})
    """The phases' companions that are models from elsewhere, by phase and name."""
    task_names: Mapping[str, Sequence[str]] = MappingProxyType({})
    """As `names`, of each of the version's tasks."""
    onto: FoundModel | None = None
    """The model that what training did is carried to, where the interpolation does so."""
    forgotten: Sequence[ForgetRequest] = ()
    """What the work place was asked to forget: rows that are left out of what is ingested."""


class Data(Config):
    """What the phases train and are measured on."""

    model: FoundModel
    raw: dict[str, RawDataset]
    prepared: dict[str, PreparedDataset]
    labels: tuple[str, ...]
    """The labels that training sees; empty where there are none, or each task has its own."""
    tasks: dict[str, tuple[str, ...]] = {}
    """The labels of every task, where there are several."""
    companions: dict[str, dict[str, FoundModel | Checkpoint]] = {}
    """See `Inputs`; and ends of phases that lie before one that starts from the base model."""
    onto: FoundModel | None = None
    """See `Inputs`."""
    added_rows: tuple[int, ...] = ()
    """The numbers of the tokens that the recipe adds."""


class Outcome(NamedTuple):
    """What a run comes to."""

    evidence: Evidence
    report: Report
    result: ModelVersion | Refusal


def whole(parts: Iterable[T | None]) -> list[T] | None:
    """Return all of them, or None if one is not made."""
    listed = list(parts)
    made = [one for one in listed if one is not None]
    return made if len(made) == len(listed) else None
