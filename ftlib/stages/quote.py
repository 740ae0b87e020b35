"""Each row's prompt as it was asked, as text beside its tokens: for rewards, judges and checkers of what is written."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ftlib.config import Name
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.formats import Format
from ftlib.data.prepared import SPLITS, add_prompts, split_file
from ftlib.data.prompts import prompts_of
from ftlib.fingerprint import Job, digest, file_digest
from ftlib.workspace import Workspace


class QuoteJob(Job):
    """Whose prompts to quote."""

    stage: ClassVar[str] = "quote"
    version: ClassVar[int] = 1
    runtime: ClassVar[frozenset[str]] = frozenset({"name"})

    name: Name
    """What the recipe calls the dataset."""
    data: PreparedDataset
    raw: RawDataset
    """What `data` was prepared of: prompts as they were written."""
    format: Format


def quote(job: QuoteJob, work: Workspace) -> PreparedDataset:
    """Return the dataset with the column `prompt` (`ftlib.data.prompts`): tokens spell it as the model reads it."""

    def build(folder: Path) -> PreparedDataset:
        prompts = prompts_of(job.raw, job.data, job.format, SPLITS)
        for split in SPLITS:
            texts = [prompt.text for prompt in prompts if prompt.split == split]
            add_prompts(split_file(job.data.path, split), split_file(folder, split), texts)
        content = digest([job.data.digest(), *(file_digest(split_file(folder, split)) for split in SPLITS)])
        return job.data.model_copy(update={"content": content})

    return work.once(job, PreparedDataset, build)
