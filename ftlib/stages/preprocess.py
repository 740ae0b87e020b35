"""Rows to tokenised splits: cleaned, de-duplicated, split, checked for leakage."""

from __future__ import annotations

from typing import ClassVar

from ftlib.artifacts import FoundModel, PreparedDataset, RawDataset
from ftlib.config import Config
from ftlib.fingerprint import Job
from ftlib.recipe import Dataset
from ftlib.workspace import Workspace


class Guard(Config):
    """Another dataset that is evaluated: training rows equal to one of its held-out rows are dropped."""

    raw: RawDataset
    dataset: Dataset


class PreprocessJob(Job):
    """What to prepare. `trains` says whether some phase trains on it; if not, an empty train split is fine."""

    stage: ClassVar[str] = "preprocess"
    version: ClassVar[int] = 1
    runtime: ClassVar[frozenset[str]] = frozenset({"name", "model"})

    name: str
    raw: RawDataset
    dataset: Dataset
    model: FoundModel
    tokenizer: str
    """The digest of the model's tokenizer: all that matters of the model here."""
    guards: tuple[Guard, ...] = ()
    trains: bool


def preprocess(job: PreprocessJob, work: Workspace) -> PreparedDataset:
    """Being written."""
    raise NotImplementedError
