"""kill -9 at every step of ingestion: nothing is lost and nothing is there twice, wherever an attempt ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftlib.data.datasets import RawDataset
from ftlib.data.limits import Limits
from ftlib.data.sources.files import Files
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.testing import write_jsonl
from ftlib.workspace import Workspace

# A process that forks before pyarrow has started a thread: a child of ours, which has, would hang in one of its locks.
KILLED = """
import itertools, json, os, sys
from pathlib import Path
import pyarrow.parquet, numpy
from ftlib.data import snapshot
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.workspace import Workspace
from tests.ftlib.registry.kit import child, dying_step, exit_code

job, folder = IngestJob.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
steps = [(snapshot, "_typed_batch"), (snapshot, "_write_parquet"), (snapshot, "_as_kind")]
steps += [(Path, "unlink"), (Path, "replace"), (Path, "rename"), (os, "fsync")]

def attempt(point):
    count = itertools.count()
    for owner, name in steps:
        setattr(owner, name, dying_step(getattr(owner, name), count, point))
    ingest(job, Workspace(folder / str(point)))

codes = []
while not codes or codes[-1] < 0:
    codes.append(exit_code(child(lambda: attempt(len(codes)))))
print(json.dumps(codes))
"""


@pytest.mark.slow
def test_kill_9_at_every_step_then_ingest_again(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    write_jsonl(rows / "1.jsonl", [{"id": i, "at": i, "text": f"t{i}"} for i in range(1500)])
    write_jsonl(rows / "2.jsonl", [{"id": i, "at": -i, "text": f"new{i}"} for i in range(0, 1500, 2)])
    source = Files(path=str(rows))
    job = IngestJob(name="d", source=source, files=source.pin(), limits=Limits(), key="id", updated="at")
    (tmp_path / "job.json").write_text(job.model_dump_json())
    command: list[Any] = [sys.executable, "-c", KILLED, tmp_path / "job.json", tmp_path]
    codes = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) >= 12
    whole = ingest(job, Workspace(tmp_path / "whole"))
    assert whole.ledger.dropped == {"superseded": 750}
    for point in range(len(codes)):
        work = Workspace(tmp_path / str(point))
        before = work.find(job, RawDataset)
        again = ingest(job, work)
        assert before is None or before == again
        assert (again.content, again.ledger) == (whole.content, whole.ledger)
        assert (again.path / "rows.parquet").read_bytes() == (whole.path / "rows.parquet").read_bytes()
        left = sorted(path.name for path in again.path.parent.iterdir())
        assert left == [again.path.name, f"{again.path.name}.lock"]
