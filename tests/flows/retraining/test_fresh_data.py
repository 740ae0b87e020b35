"""What is new against a champion of before identity had versions: its records are written by hand, by the old rules."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows.retraining.challenge import _check_labels as check_labels_kept
from flows.retraining.champion import InPlace, unseen
from flows.retraining.fresh_data import Listing, Seen, news, used_rows
from flows.run.values import Data
from ftlib.config import Split
from ftlib.data.limits import Limits
from ftlib.data.listed import ListedFile
from ftlib.data.sources.feedback import Feedback
from ftlib.kinds.outcomes import ScoreOutcomes
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.published.row_index import rows_from
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_labels
from ftlib.recipe.recipe import Recipe
from ftlib.registry.versions import Version
from ftlib.retraining.decisions import Champion, worth_training
from ftlib.retraining.file_ledger import Changes, LedgerState, compare, fresh_places
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.testing import tiny_recipe, tiny_rows, write_jsonl
from ftlib.workspace import Workspace

GROUPS: list[Any] = ["Ann", "ANN", 7, 7.0, "ca\u00adfé", "café", "café"]


def old_row_id(row: dict[str, Any]) -> str:
    """See docs/lineage.md: half of the sha256 of the row's canonical JSON, then as now."""
    canonical = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def old_side(group: object) -> Split:
    """The side of a group until identity had versions: by the hash of what Python makes of it."""
    share = int.from_bytes(hashlib.sha256(b"reglage\0" + str(group).encode()).digest()[:8]) / 2**64
    return "test" if share < 0.2 else "validation" if share < 0.3 else "train"


class Before:
    """Rows and the version that the code of before made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, Workspace(folder / "work")
        self.recipe: Recipe = load_recipe(
            tiny_recipe(folder), ["datasets.home.split={by: group, column: group}", "datasets.home.key=id"]
        )
        self.rows: list[dict[str, Any]] = [
            {**row, "label": (True, "True", False)[i % 3], "group": GROUPS[i % 7] if i % 2 else f"g{i % 40}", "id": i}
            for i, row in enumerate(tiny_rows(120))
        ]
        self.rows += [{**self.rows[0], "label": "True", "id": 500, "group": "g0"}]  # a contradiction then, a copy now
        write_jsonl(folder / "home.jsonl", self.rows)

    def champion(self) -> InPlace:
        data = self.folder / "home.jsonl"
        contradicting = {self.rows[0]["text"]}
        kept = [row for row in self.rows if row["text"] not in contradicting]
        splits: dict[str, int] = {}
        for side in ("train", "validation", "test"):
            ids = sorted(bytes.fromhex(old_row_id(row)) for row in kept if old_side(row["group"]) == side)
            path = self.folder / "pulled/lineage/home" / f"{side}.rows"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(ids))
            splits[side] = len(ids)
        sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
        lineage: dict[str, Any] = {
            "data": {
                "home": {
                    "files": [{"uri": str(data), "bytes": data.stat().st_size, "sha256": sha256, "rows": 121}],
                    "index": {"splits": splits, "key": "id", "salt": "reglage"},
                }
            }
        }
        facts = Champion(name="tiny-router", version=1, sequence=1, age_days=1.0)
        version = Version.model_construct(name="tiny-router", version=1)
        return InPlace(facts, version, lineage)

    def found(self) -> Data:
        model = find_model(ModelRef(path=str(self.folder / "model")))
        dataset = self.recipe.datasets["home"]
        pins = dataset.source.pin()
        job = IngestJob(name="home", source=dataset.source, files=pins, limits=dataset.limits, key="id")
        raw = ingest(job, self.work)
        prepared = preprocess(
            PreprocessJob(name="home", raw=raw, dataset=dataset, model=model, tokenizer=model.tokenizer, trains=True),
            self.work,
        )
        return Data(model=model, raw={"home": raw}, prepared={"home": prepared}, labels=())

    def news(self) -> tuple[Any, Data]:
        data = self.found()
        listed = Changes(edited=tuple(self.recipe.datasets["home"].source.list()), known=1)  # touched, or restored
        listing = Listing(seen={"home": Seen(changes=listed, sequence=1)})
        return news(self.recipe, listing, data, self.champion(), self.folder / "pulled"), data


@pytest.fixture
def before(tmp_path: Path) -> Before:
    return Before(tmp_path)


def test_unchanged_rows_are_no_news_to_a_champion_of_the_old_identity(before: Before) -> None:
    found, data = before.news()
    assert (found["home"].fresh_rows, found["home"].gone_rows) == (0, 0)
    assert data.prepared["home"].ledger.dropped == {"duplicate": 1}  # what contradicted itself is one label now
    verdict = worth_training(found, before.champion().facts, before.recipe.retrain)
    assert (verdict.go, verdict.considered) == (False, True)


def test_rows_that_are_new_are_counted_against_a_champion_of_the_old_identity(before: Before) -> None:
    champion = before.champion()
    more = [{**row, "label": False, "group": "New", "id": 1000 + i} for i, row in enumerate(tiny_rows(9, seed=4))]
    write_jsonl(before.folder / "home.jsonl", [*before.rows[3:], *more])
    before.champion = lambda: champion  # type: ignore[method-assign]
    found, _ = before.news()
    assert found["home"].fresh_rows == 9 + 1  # and the copy that was dropped with its contradiction
    gone = [row for row in before.rows[1:3] if old_side(row["group"]) == "train"]
    assert found["home"].gone_rows == len(gone)


def test_the_labels_of_a_champion_of_the_old_identity_keep_their_names(before: Before) -> None:
    data = before.found()
    names = ("False", "True")
    both = {"home": data.prepared["home"], "away": data.prepared["home"]}
    assert data.prepared["home"].labels == ("True", "false")  # as most rows spell them
    assert check_labels(before.recipe, both, names) == names
    check_labels_kept(before.recipe, ("True", "false"), names)


def test_rows_that_the_champion_was_trained_on_are_not_compared(before: Before) -> None:
    trained = before.champion().trained_on(before.folder / "pulled")
    ids = [old_row_id(row) for row in before.rows[1:-1]]
    sides = [old_side(row["group"]) for row in before.rows[1:-1]]
    assert len(trained) == sides.count("train") > 0
    numbers = np.arange(len(ids), dtype=np.float64)
    table = ScoreOutcomes(
        row_ids=tuple(f"{one}-0" for one in ids),
        nll=numbers,
        targets=numbers.astype(int),
        gold=numbers,
        predicted=numbers,
    )
    left = unseen(table, trained)
    assert isinstance(left, ScoreOutcomes)
    assert left.gold.tolist() == [i for i, side in enumerate(sides) if side != "train"]
    assert unseen(table, trained[:0]) is table


def test_a_request_is_a_fresh_row_when_its_feedback_is_new(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = [{"request_id": i, "prompt": f"p{i}", "answer": "a", "time": i} for i in range(12)]
    write_jsonl(path / "1.jsonl", [{**line, "correction": "c"} if line["time"] < 6 else line for line in log])
    source = Feedback(path=str(path), gives="corrections")
    known = LedgerState(sequence=1, files=source.list())
    job = IngestJob(name="log", source=source, files=source.pin(), limits=Limits(rows=1), key="request_id")
    before = ingest(job, Workspace(tmp_path / "work"))
    late = [{"request_id": i, "correction": "c" if i == 2 else "new", "time": 50 + i} for i in (2, 3, 7)]
    write_jsonl(path / "2.jsonl", [*late, {"request_id": 4, "thumb": False, "time": 60}])
    raw = ingest(job.model_copy(update={"files": source.pin()}), Workspace(tmp_path / "work"))
    fresh = rows_from(raw, fresh_places(raw, compare(known, source.list())))
    assert (before.ledger.kept, raw.ledger.kept, len(fresh)) == (6, 7, 2)  # of 2 and 4 is known what was known
    assert raw.ledger.dropped == {"joined": 4, "no_correction": 5}
    assert len(np.intersect1d(rows_from(before), rows_from(raw))) == 5  # and one was replaced


def test_what_a_refused_challenger_saw_stays_fresh_until_a_champion_has_read_it(tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe(tmp_path), ["retrain={start: champion, rows: {kind: replay, share: 0.2}}"])
    monday, tuesday, today = (SimpleNamespace(uri=name, sha256=name[0] * 64) for name in ("a", "b", "c"))
    changes = Changes(added=(ListedFile.model_construct(uri="c"),))
    listing = Listing.model_construct(seen={"home": Seen.model_construct(changes=changes, sequence=2)})
    champion: Any = SimpleNamespace(has_read=lambda _: frozenset({monday.sha256}))
    files: Any = {"home": (monday, tuesday, today)}
    assert used_rows(recipe, listing, files, champion)["home"].fresh == (tuesday.sha256, today.sha256)
    assert used_rows(recipe, listing, files, None) == {}
