"""Several threads ask one model, and say what one thread says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from ftlib.errors import Interrupted, ModelError
from ftlib.evaluation.forward_pass import EVERYTHING, Share
from ftlib.evaluation.lanes import lane_of, side_by_side
from ftlib.evaluation.predictor import PredictionPlan
from ftlib.kinds.outcomes import Outcomes
from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation import WiseFT
from ftlib.merging.interpolation.ends import Ends
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.compute import Compute

ROWS = [{**row, "text": f"{row['text']} " * (1 + i % 4)} for i, row in enumerate(tiny_rows(150))]


@pytest.fixture(autouse=True)
def threads() -> Iterator[Callable[[int], None]]:
    """Set the CPU threads of this one, which lanes share."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> PredictionPlan:
    root = tmp_path_factory.mktemp("lanes")
    start = tiny_checkpoint(root / "start")
    probe = moved(root / "probe", start, lambda name: name.startswith("classifier."))
    tune = moved(root / "tune", probe, lambda _: True)
    candidates = [*map(Candidate.of, (start, probe)), *WiseFT(alphas=(0.5,)).points(Ends(probe, tune))]
    return PredictionPlan(
        name="home",
        candidates=tuple(candidates),
        files=tuple(str(root / f"{i}.parquet") for i in range(len(candidates))),
        data=tiny_prepared(root / "data", {"test": ROWS}),
        split="test",
        max_new_tokens=0,
        compute=Compute(workers=0),
    )


def moved(folder: Path, start: Checkpoint, which: Callable[[str], bool]) -> Checkpoint:
    return tiny_checkpoint(folder, start.labels, phase=folder.name, start=start, seed=3, moved=which)


def said(plan: PredictionPlan, share: Share = EVERYTHING) -> list[bytes]:
    models = plan.models(torch.device("cpu"))
    answers = [cast(Outcomes, models.answer(item, share=share)) for item in range(len(plan.candidates))]
    return [answer.to_parquet() for answer in answers]


@pytest.mark.parametrize(("share", "batches"), [(EVERYTHING, 5), (Share(1, 2), 2)])
def test_lanes_of_one_thread_say_what_one_thread_says_to_the_bit(
    plan: PredictionPlan, threads: Callable[[int], None], share: Share, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_in: set[str] = set()
    forward = nn.Embedding.forward

    def noted(self: Any, ids: torch.Tensor) -> torch.Tensor:
        asked_in.add(threading.current_thread().name)
        return forward(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", noted)
    threads(1)
    expected = said(plan, share)
    assert asked_in == {threading.current_thread().name}
    for lanes in (2, 3):
        threads(lanes)
        asked_in.clear()
        assert said(plan, share) == expected
        assert len(asked_in) == min(lanes, batches)
        assert threading.current_thread().name not in asked_in
        assert torch.get_num_threads() == lanes


def test_a_lane_has_modules_of_its_own_and_the_very_tensors() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    lane = lane_of(model)
    with torch.no_grad():
        model[0].weight.fill_(0.25)
    assert torch.equal(lane[0].weight, model[0].weight)  # type: ignore[index]
    shared = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert {tensor.data_ptr() for tensor in lane.state_dict().values()} == shared
    model[0].forward = lambda rows: rows * 0.0
    assert lane(torch.ones(2, 3)).isfinite().all()
    assert not {*lane.modules()} & {*model.modules()}


def test_rows_are_told_in_the_thread_that_asked_and_add_up(
    plan: PredictionPlan, threads: Callable[[int], None]
) -> None:
    threads(2)
    heard: list[int] = []
    inside: set[int] = set()

    def on_rows(done: int) -> None:
        heard.append(done)
        inside.add(threading.get_ident())

    plan.models(torch.device("cpu")).answer(0, on_rows)
    assert inside == {threading.get_ident()}
    assert heard == sorted(heard)
    assert heard[-1] == len(ROWS)


def test_what_on_rows_raises_ends_every_lane_behind_its_batch(threads: Callable[[int], None]) -> None:
    threads(2)
    done: list[int] = []
    told = threading.Event()

    def lane(tell: Callable[[int], None]) -> int:
        for batch in range(1000):
            tell(batch)
            done.append(batch)
            told.wait(10)
        return 0

    def stop(_: int) -> None:
        told.set()
        raise Interrupted("stopped on request")

    with pytest.raises(Interrupted, match="stopped on request"):
        side_by_side([lane, lane], stop)
    assert len(done) < 1000
    assert torch.get_num_threads() == 2


def test_a_lane_that_fails_is_the_error_and_ends_the_others(threads: Callable[[int], None]) -> None:
    threads(2)
    fails = threading.Event()

    def goes_on(tell: Callable[[int], None]) -> int:
        assert fails.wait(10)
        for batch in range(100_000):
            tell(batch)
        return 0

    def breaks(tell: Callable[[int], None]) -> int:
        fails.set()
        raise ModelError("not finite")

    with pytest.raises(ModelError, match="not finite"):
        side_by_side([goes_on, breaks], lambda _: None)
