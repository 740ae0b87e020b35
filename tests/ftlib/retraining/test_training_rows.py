"""Which training rows a retraining uses; held-out rows are never touched."""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ftlib.data.dataset import Dataset
from ftlib.data.datasets import RawDataset
from ftlib.data.passes.exchange import exchange_in
from ftlib.data.passes.executor import InProcess
from ftlib.data.passes.placing import Placement, Placing, place
from ftlib.data.snapshot import read_origins, read_snapshot
from ftlib.errors import DataError
from ftlib.retraining.policy import AllRows, Replay, Window
from ftlib.retraining.training_rows import NOT_REPLAYED, OUTSIDE_WINDOW, UsedRows, leave_out
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.testing import tiny_rows, write_jsonl
from ftlib.workspace import Workspace

START = datetime(2026, 3, 1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> RawDataset:
    """600 old rows and 100 fresh ones; row i was written on day i // 10."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [
        {**row, "text": f"{row['text']} {i}", "written": (START + timedelta(days=i // 10)).isoformat()}
        for i, row in enumerate(tiny_rows(700))
    ]
    write_jsonl(folder / "old.jsonl", rows[:600])
    write_jsonl(folder / "new.jsonl", rows[600:])
    source = dataset().source.model_copy(update={"path": str(folder)})
    job = IngestJob(name="d", source=source, files=source.pin(), limits=dataset().limits)
    return ingest(job, Workspace(folder / "work"))


def dataset() -> Dataset:
    return Dataset.model_validate(
        {
            "source": {"kind": "files", "path": "rows/"},
            "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 16},
        }
    )


def placed(raw: RawDataset, rule: UsedRows) -> Placement:
    with tempfile.TemporaryDirectory() as folder, exchange_in(Path(folder)) as exchange:
        placing = Placing.of("own", raw, dataset(), exchange, 1 << 20, rule.replayed)
        return place(placing, "datasets.d", InProcess(), parts=1)[0]


def used(raw: RawDataset, rule: UsedRows) -> tuple[Placement, Placement]:
    before, after = (placed(raw, rule) for _ in range(2))
    leave_out(after, raw, rule, "datasets.d")
    return before, after


def train(placement: Placement) -> set[int]:
    return {i for i, place in enumerate(placement.places(0, placement.rows)) if place == "train"}


def held(placement: Placement) -> list[str]:
    return [place if place in ("validation", "test") else "" for place in placement.places(0, placement.rows)]


def test_all_rows_are_all_rows(raw: RawDataset):
    before, after = used(raw, UsedRows(rows=AllRows()))
    assert before.places(0, before.rows) == after.places(0, after.rows)


def test_a_window_counts_back_from_the_newest_training_row(raw: RawDataset):
    before, after = used(raw, UsedRows(rows=Window(column="written", days=7)))
    days = [datetime.fromisoformat(str(values["written"])) for _, values in read_snapshot(raw.path / "rows.parquet")]
    newest = max(days[i] for i in train(before))
    assert train(after) == {i for i in train(before) if days[i] >= newest - timedelta(days=7)}
    assert held(after) == held(before)
    assert after.dropped()[OUTSIDE_WINDOW] == len(train(before)) - len(train(after)) > 0


def test_replay_keeps_every_fresh_row_and_a_share_of_the_old_ones(raw: RawDataset):
    new = next(file for file in raw.files if file.uri.endswith("new.jsonl"))
    before, after = used(raw, UsedRows(rows=Replay(share=0.25), fresh=(new.sha256,)))
    origins = [file for _, file in read_origins(raw.path / "rows.parquet")]
    fresh = {i for i in train(before) if raw.files[origins[i] or 0].uri.endswith("new.jsonl")}
    old = train(before) - fresh
    assert fresh
    assert fresh <= train(after)
    replayed = train(after) - fresh
    # Binomial(n, 1/4): four standard deviations either way.
    assert abs(len(replayed) - 0.25 * len(old)) < 4 * (len(old) * 0.25 * 0.75) ** 0.5
    assert after.dropped()[NOT_REPLAYED] == len(old) - len(replayed)
    assert held(after) == held(before)


def test_a_larger_share_replays_the_same_rows_and_more(raw: RawDataset):
    few, many, all_of_them = (train(used(raw, UsedRows(rows=Replay(share=s)))[1]) for s in (0.1, 0.4, 1.0))
    assert few < many < all_of_them == train(used(raw, UsedRows(rows=AllRows()))[0])


@pytest.mark.parametrize(
    ("column", "said"), [("absent", "'absent'"), ("text", "column 'text' has no ISO 8601 date in a training row")]
)
def test_a_window_needs_dates(raw: RawDataset, column: str, said: str):
    with pytest.raises(DataError, match=said):
        used(raw, UsedRows(rows=Window(column=column, days=7)))
