"""A share of a dataset's training rows, and its other splits as they are: what a learning curve trains on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.nested_share import example_of, nested_share
from ftlib.data.prepared import SPLITS, split_file
from ftlib.fingerprint import Job, digest, file_digest
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


NOT_IN_SHARE = "not_in_share"


class ThinJob(Job):
    """Whose rows, and how many of them."""

    stage: ClassVar[str] = "thin"
    version: ClassVar[int] = 1

    data: PreparedDataset
    share: float = Field(gt=0.0, lt=1.0)
    """Of the training rows of each label."""
    seed: int
    """Of which rows these are."""


def thin(job: ThinJob, work: Workspace) -> PreparedDataset:
    """Return the dataset with a share of its training rows (`ftlib.data.nested_share`), in their order."""

    def build(folder: Path) -> PreparedDataset:
        """Write the share beside the other splits, and tell in the ledger what is left out."""
        import pyarrow as pa

        source, target = (split_file(where, "train") for where in (job.data.path, folder))
        table = pa.ipc.open_file(pa.memory_map(str(source))).read_all()
        labels = _labels(table)
        kept = nested_share(table["row_id"].to_pylist(), labels, job.share, job.seed)
        less = table.filter(pa.array(kept)).replace_schema_metadata(table.schema.metadata)
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, less.schema) as file:
            file.write_table(less)
        for split in SPLITS[1:]:
            shutil.copyfile(split_file(job.data.path, split), split_file(folder, split))
        facts = _facts(job.data, target, _labels(less))
        content, before = digest([job.data.digest(), file_digest(target)]), job.data.ledger
        left_out = len(_examples(table)) - len(_examples(less))
        ledger = Ledger(rows_in=before.kept, kept=before.kept - left_out, dropped={NOT_IN_SHARE: left_out})
        splits = {**job.data.splits, "train": facts}
        return job.data.model_copy(update={"content": content, "splits": splits, "ledger": ledger})

    return work.once(job, PreparedDataset, build)


def _examples(table: pa.Table) -> set[str]:
    return {*map(example_of, table["row_id"].to_pylist())}


def _labels(table: pa.Table) -> Sequence[Hashable]:
    """Return each row's label; None where rows have none, or several."""
    import pyarrow as pa

    if "target" not in table.column_names or not pa.types.is_string(table["target"].type):
        return [None] * table.num_rows
    return table["target"].to_pylist()


def _facts(whole: PreparedDataset, file: Path, labels: Sequence[Hashable]) -> SplitFacts:
    """Count what is left. Which rows were cut is not known of them, so as many are told as of the whole."""
    from ftlib.kinds.open_split import open_split

    split, before = open_split(file, whole.labels), whole.splits["train"]
    counted = Counter(str(label) for label in labels if label is not None)
    return before.model_copy(
        update={
            "rows": len(split),
            "tokens": int(split.sizes.sum()),
            "supervised": int(split.supervised.sum()),
            "longest": int(split.sizes.max(initial=0)),
            "labels": dict(sorted(counted.items())) if before.labels and counted else before.labels,
        }
    )
