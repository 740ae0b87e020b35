"""Rows in passes over blocks: the same bytes and counts for any number of workers, any cut, and through losses."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.identity import folded
from ftlib.data.passes.executor import InProcess
from ftlib.data.row_files.ranges import read_lines, survey_lines
from ftlib.data.row_keys import DELETED
from ftlib.data.rows import Row
from ftlib.errors import DataError, ReglageError, TransientError
from ftlib.fingerprint import Job
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages import ingest as ingest_stage
from ftlib.stages import preprocess as preprocess_stage
from ftlib.stages.ingest import IngestJob
from ftlib.stages.preprocess import Guard, PreprocessJob
from ftlib.storage import Place
from ftlib.testing import tiny_classifier
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

T = TypeVar("T")
R = TypeVar("R")
MODEL = "model"
WORDS = ["river", "stone", "cloud", "light", "winter", "market", "engine", "letter"]


class Several(InProcess):
    """Cuts rows as so many workers would, makes their calls in another order, and some of them twice."""

    def __init__(self, workers: int, memory: int = 1 << 19, shared: Path | None = None) -> None:
        super().__init__(memory)
        self.workers = workers
        self.shared = shared and Place.parse(str(shared))

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        answers = {i: function(items[i]) for i in reversed(range(len(items)))}
        return iter([function(items[i]) if i % 3 == 0 else answers[i] for i in range(len(items))])  # some twice


def write(path: Path, rows: int, seed: int) -> Path:
    """Write a file with edits, tombstones, broken lines, copies and near copies, and lines of very unlike length."""
    rng = random.Random(seed)
    lines: list[str] = []
    for i in range(rows):
        text = " ".join(rng.choice(WORDS) for _ in range(rng.choice([1, 2, 3, 14, 14, 60])))
        if rng.random() < 0.3:
            text = f"The long beginning that many rows have in common, with a number at its end: {rng.randrange(rows)}"
        row: dict[str, Any] = {
            "id": rng.randrange(rows * 2 // 3),
            "text": text,
            "label": rng.choice("abc"),
            "at": i % 40,
        }
        row |= {"when": rng.choice([None, rng.randrange(50)]), "side": rng.choice(["train", "test", "validation"])}
        row |= {"mixed": rng.choice([1, "one", 1.5, [1], None])}
        if rng.random() < 0.05:
            row = {"id": row["id"], "at": row["at"], DELETED: True}
        lines.append("no row" if rng.random() < 0.02 else json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def dataset(path: Path, key: bool = True, **fields: Any) -> Dataset:
    told = {
        "source": {"kind": "files", "path": str(path)},
        "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 24, "slices": ["side"]},
        "limits": {"bad_rows": 0.5, "dropped_rows": 1.0},
        "cleaning": {"near_duplicates": 0.7},
    }
    return Dataset.model_validate({**told, **({"key": "id", "updated": "at"} if key else {}), **fields})


class Bench:
    """Rows in files and a model; runs both stages by whatever executor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = find_model(ModelRef(path=str(tiny_classifier(folder / MODEL))))
        self.own, self.other = write(folder / "own.jsonl", 500, 1), write(folder / "other.jsonl", 250, 2)
        self._made = 0

    def new(self) -> Path:
        self._made += 1
        (folder := self.folder / str(self._made)).mkdir()
        return folder

    def ingest_job(self, spec: Dataset, **more: Any) -> IngestJob:
        told = {"source": spec.source, "files": spec.source.pin(), "limits": spec.limits}
        return IngestJob(name="d", key=spec.key, updated=spec.updated, **told, **more)

    def ingested(self, spec: Dataset, executor: Any, cut: int) -> RawDataset:
        folder = self.new()
        return ingest_stage.build(self.ingest_job(spec), folder, executor, cut).model_copy(update={"uri": str(folder)})

    def job(self, spec: Dataset, raw: RawDataset, guard: tuple[Dataset, RawDataset]) -> PreprocessJob:
        guards = (Guard(raw=guard[1], dataset=guard[0]),)
        told: dict[str, Any] = {"raw": raw, "dataset": spec, "model": self.model, "tokenizer": self.model.tokenizer}
        return PreprocessJob(name="d", trains=True, guards=guards, **told)

    def prepared(self, job: PreprocessJob, executor: Any, cut: int) -> PreparedDataset:
        folder = self.new()
        made = preprocess_stage.build(job, folder, executor, cut)
        return made.model_copy(update={"uri": str(folder)})


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def facts(artifact: RawDataset | PreparedDataset) -> dict[str, Any]:
    return artifact.model_dump(exclude={"uri", "seconds", "fingerprint"})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("rows"))


CUTS = [(1, 1 << 30), (2, 20_000), (3, 777)]


@pytest.mark.parametrize(
    ("split", "key"),
    [
        ({"by": "random"}, True),
        pytest.param({"by": "stratified"}, False, marks=pytest.mark.slow),
        pytest.param({"by": "time", "column": "when"}, True, marks=pytest.mark.slow),
        pytest.param({"by": "given", "column": "side"}, False, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_any_number_of_workers_makes_the_same_bytes(bench: Bench, split: dict[str, str], key: bool) -> None:
    spec, other = dataset(bench.own, key, split=split), dataset(bench.other, key, split=split)
    here = InProcess()
    raw, guard = bench.ingested(spec, here, 1), bench.ingested(other, here, 1)
    job = bench.job(spec, raw, (other, guard))
    made = bench.prepared(job, here, 1 << 30)
    assert raw.ledger.dropped["broken_json"] > 0
    assert not key or raw.ledger.dropped["superseded"] > 50
    assert {"conflicting_labels", "duplicate", "near_leaked"} <= made.ledger.dropped.keys()
    assert not key or made.ledger.dropped["leaked"] > 0
    for workers, cut in CUTS:
        several = Several(workers, shared=bench.folder / "bucket" if workers == 3 else None)
        again = bench.ingested(spec, several, cut)
        assert (facts(again), files_of(again.path)) == (facts(raw), files_of(raw.path))
        once_more = bench.prepared(job, several, cut)
        assert facts(once_more) == facts(made)
        assert rows_of(once_more) == rows_of(made)
    assert not [*(bench.folder / "bucket").rglob("*-*")]  # nothing stays of what was handed on


def rows_of(data: PreparedDataset) -> list[Any]:
    import pyarrow as pa

    paths = [data.path / f"{split}.arrow" for split in ("train", "validation", "test")]
    return [pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_pylist() for path in paths]


def test_places_are_what_a_naive_program_says(bench: Bench) -> None:
    """Copies by text in sets and lists, leaks by sets, shares by the hash's own definition."""
    spec = dataset(bench.own, key=False, cleaning={"near_duplicates": None})
    raw = bench.ingested(spec, Several(3), 5_000)
    made = bench.prepared(bench.job(spec, raw, (spec, raw)), Several(3), 3_000)
    from ftlib.data.snapshot import read_snapshot

    rows = [(i, v) for i, v in read_snapshot(raw.path / "rows.parquet") if "text" in v]
    by_text: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for row_id, values in rows:
        by_text.setdefault(folded(values["text"]) or "", []).append((row_id, values))
    staying = [min(same)[0] for same in by_text.values() if len({v["label"] for _, v in same}) == 1]
    conflicts = sum(len(same) for same in by_text.values() if len({v["label"] for _, v in same}) > 1)
    assert made.ledger.dropped["conflicting_labels"] == conflicts
    assert made.ledger.dropped["duplicate"] == len(rows) - conflicts - len(staying)
    # The guard is the same dataset: what is held out of it is held out here.
    assert sorted(row["row_id"] for split in rows_of(made) for row in split) == sorted(staying)


def test_ranges_end_with_lines_and_say_their_numbers(tmp_path: Path) -> None:
    texts = ["x" * n for n in (0, 3, 5000, 1, 0, 40, 200, 2)] * 5
    path = tmp_path / "rows.jsonl"
    path.write_text("\ufeff" + "\n".join(json.dumps({"text": text}) for text in texts))  # the last line does not end
    (file,) = dataset(path).source.pin()
    for least in (1, 30, 500, 1 << 20):
        ranges = survey_lines(file, 1_000_000, least)
        rows = [row for lines in ranges for row in read_lines(lines, 1_000_000)]
        assert [(row.line, row.values["text"]) for row in rows if isinstance(row, Row)] == [*enumerate(texts, 1)]
        assert ranges[-1].stop == path.stat().st_size
        assert all(one.stop == other.start for one, other in pairwise(ranges))
        assert all(lines.stop - lines.start >= least for lines in ranges[:-1])
    large = read_lines(survey_lines(file, 1_000_000, 1)[2], 100)
    assert [row.reason for row in large] == ["too_large"]  # type: ignore[union-attr]


def test_a_file_that_changes_between_survey_and_reading(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", 200, 3)
    spec = dataset(path)
    job = bench.ingest_job(spec)

    class Meddling(Several):
        def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
            answers = [*super().map(function, items)]
            path.write_text(path.read_text().replace("river", "rivet"))
            return iter(answers)

    with pytest.raises(DataError, match=r"rows\.jsonl changed while it was read"):
        ingest_stage.build(job, bench.new(), Meddling(2), 2_000)


def test_all_rows_are_copies_and_no_rows_at_all(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "the same", "label": "a", "side": "train"}\n' * 500)
    spec = dataset(path, key=False, split={"by": "random", "validation": 0, "test": 0})
    raw = bench.ingested(spec, Several(3), 300)
    with pytest.raises(DataError, match=r"all 1 training rows have the label 'a'"):
        bench.prepared(bench.job(spec, raw, (spec, raw)), Several(3), 300)
    path.write_text("")
    with pytest.raises(DataError, match=r"no rows in 1 file, needed are at least 10"):
        bench.ingested(dataset(path, key=False), Several(3), 300)


@pytest.mark.slow
def test_a_group_of_near_copies_that_no_worker_can_hold(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    text = "a template of some length, in which a number is all that differs between rows: %d"
    path.write_text(
        "".join(json.dumps({"text": text % i, "label": "ab"[i % 2], "side": ""}) + "\n" for i in range(2_700))
    )
    spec = dataset(path, key=False)
    raw = bench.ingested(spec, Several(2), 10_000)
    with pytest.raises(
        DataError, match=r"near_duplicates: rows that hang together .* raise compute\.data_worker_memory_mb"
    ):
        bench.prepared(bench.job(spec, raw, (spec, raw)), Several(2), 10_000)


class Dying:
    """Kills its own worker at the first call for an item, once or always."""

    def __init__(self, folder: Path, item: int, always: bool) -> None:
        self.folder, self.item, self.always = folder, item, always

    def __call__(self, item: int) -> int:
        mark = self.folder / f"called-{item}"
        if item == self.item and (self.always or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / f"made-{item}").open("a").write("x")
        return item * item


def _refusing(item: int) -> int:
    if item in (3, 5):
        raise DataError(f"block {item} is bad")
    return item


def _from_disk(item: int) -> int:
    raise OSError(28, "No space left on device", f"/nowhere/{item}")


@pytest.mark.slow
def test_on_ray_a_lost_worker_costs_its_block_only(bench: Bench, tmp_path: Path, capfd: Any) -> None:
    from ftlib.on_ray.data import RayData
    from ftlib.on_ray.session import session

    compute = Compute(data_workers=2, data_worker_memory_mb=768, max_failures=1)
    spec, other = dataset(bench.own), dataset(bench.other)
    raw, guard = bench.ingested(spec, InProcess(), 1), bench.ingested(other, InProcess(), 1)
    job = bench.job(spec, raw, (other, guard))
    made = bench.prepared(job, InProcess(), 1 << 30)
    with session(compute):
        on_ray = RayData(compute)
        assert [*on_ray.map(Dying(tmp_path, 4, always=False), range(9))] == [i * i for i in range(9)]
        assert {path.read_text() for path in tmp_path.glob("made-*")} == {"x"}  # nothing else was made again
        with pytest.raises(TransientError, match=r"a worker was lost more than 1 times"):
            list(on_ray.map(Dying(tmp_path, 4, always=True), range(9)))
        with pytest.raises(DataError, match=r"^block 3 is bad$"):
            list(on_ray.map(_refusing, range(9)))
        with pytest.raises(OSError, match="No space left"):
            list(on_ray.map(_from_disk, range(3)))
        again = bench.ingested(spec, on_ray, 20_000)
        assert (facts(again), files_of(again.path)) == (facts(raw), files_of(raw.path))
        assert facts(bench.prepared(job, on_ray, 10_000)) == facts(made)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_stage_on_ray_that_fails_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    compute = Compute(data_workers=1, data_worker_memory_mb=768)
    job = bench.ingest_job(dataset(bench.own, limits={"bad_rows": 0.0}), compute=compute)
    work = Workspace(tmp_path / "work")
    with pytest.raises(ReglageError, match=r"datasets\.d: \d+ of 500 rows"):
        ingest_stage.ingest(job, work)
    assert not work.has(job)
    good = job.model_copy(update={"limits": dataset(bench.own).limits})
    assert ingest_stage.ingest(good, work).content == bench.ingested(dataset(bench.own), InProcess(), 1).content
    assert not [*work.folder(good).glob(".exchange*")]


@pytest.mark.parametrize("good", [False, True])
def test_a_cluster_is_handed_the_stage_and_says_what_it_raised(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bool
) -> None:
    """The driver's side runs in this process: what a cluster would be sent is what it is given."""
    from ftlib.on_ray import jobs
    from ftlib.stages.data_workers import StagePlan, run_stage

    def drive(module: str, plan: str, *_: Any) -> None:
        assert module == "ftlib.stages.ingest"
        told = StagePlan.model_validate_json(plan)
        told.job["compute"]["data_workers"] = 0  # here there is no Ray to join
        try:
            run_stage(told, IngestJob, ingest_stage.ingest)
        except ReglageError as error:
            raise TransientError("Ray job ended as FAILED") from error

    monkeypatch.setattr(jobs, "run_plan", drive)
    work = Workspace(tmp_path / "work")
    compute = Compute(data_workers=2, ray_address="http://127.0.0.1:1")
    spec = dataset(bench.own) if good else dataset(bench.own, limits={"bad_rows": 0.0})
    job = bench.ingest_job(spec, compute=compute)
    if good:
        assert ingest_stage.ingest(job, work).content == bench.ingested(spec, InProcess(), 1).content
        return
    with pytest.raises(DataError, match=r"^datasets\.d: \d+ of 500 rows"):
        ingest_stage.ingest(job, work)
    assert not [*(tmp_path / "work" / "jobs").glob("*")]


def test_an_earlier_drivers_failure_is_not_raised_for_a_later_driver_that_was_lost(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftlib.on_ray import jobs

    def lost(*_: Any) -> None:
        raise TransientError("Ray job ended as FAILED: a node was lost")

    monkeypatch.setattr(jobs, "run_plan", lost)
    job = bench.ingest_job(dataset(bench.own), compute=Compute(data_workers=2, ray_address="http://127.0.0.1:1"))
    old = tmp_path / "work" / "jobs" / f"{job.stage}-{job.fingerprint}.failed"
    old.parent.mkdir(parents=True)
    old.write_text('{"kind": "DataError", "said": "an old one"}')
    with pytest.raises(TransientError, match="a node was lost"):
        ingest_stage.ingest(job, Workspace(tmp_path / "work"))
    assert not old.exists()


def test_jobs_are_the_same_for_any_number_of_workers(bench: Bench) -> None:
    job: Job = bench.ingest_job(dataset(bench.own))
    assert job.fingerprint == job.model_copy(update={"compute": Compute(data_workers=3)}).fingerprint
