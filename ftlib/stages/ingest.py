"""Bytes to a content-addressed snapshot of rows."""

from __future__ import annotations

from typing import ClassVar

from ftlib.artifacts import FileVersion, RawDataset
from ftlib.fingerprint import Job
from ftlib.recipe import Limits
from ftlib.sources import Source
from ftlib.workspace import Workspace


class IngestJob(Job):
    """What to ingest; `files` is the source's listing as it was when the run started (`source.pin()`)."""

    stage: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1
    runtime: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    source: Source
    files: tuple[FileVersion, ...]
    limits: Limits


def ingest(job: IngestJob, work: Workspace) -> RawDataset:
    """Being written."""
    raise NotImplementedError
