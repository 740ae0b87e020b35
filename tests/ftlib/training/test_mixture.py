"""A phase on several datasets: of which part each global batch is, how often rows are seen, what is learnt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.masked_text import MaskedText
from ftlib.data.processor import Processor
from ftlib.kinds.collate import Collator
from ftlib.kinds.draws import Draw
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split, open_splits
from ftlib.kinds.split import PreparedSplit
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_prepared_as, tiny_rows, tiny_tokenizer
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import MixedOrder, Order, batches_in, batches_of_parts
from ftlib.training.mixture import Mixing, Mixture
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

parts_of = st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 100)), min_size=1, max_size=4)


def order_of(parts: list[tuple[int, float]], size: int, seed: int = 3) -> Order:
    whole = sum(weight for _, weight in parts)
    draw = np.random.default_rng(len(parts))
    lengths = [draw.integers(1, 90, rows) for rows, _ in parts]
    return Order(lengths, [weight / whole for _, weight in parts], size, seed)


@settings(max_examples=60)
@given(parts_of, st.integers(1, 20))
def test_every_part_gives_its_share_of_an_epochs_steps_and_at_least_one(
    parts: list[tuple[int, float]], size: int
) -> None:
    order = order_of(parts, size)
    total = sum(batches_in(rows, size) for rows, _ in parts)
    assert order.steps_per_epoch == total
    whole = sum(weight for _, weight in parts)
    for epoch in (0, 3):
        given = Counter(batch.part for batch in order.batches(epoch))
        assert sum(given.values()) == total
        wanted = [weight / whole * total for _, weight in parts]
        assert all(given[part] >= 1 for part in range(len(parts)))
        if all(share >= 1 for share in wanted):
            assert all(abs(given[part] - share) < 1 for part, share in enumerate(wanted))


@settings(max_examples=40)
@given(parts_of, st.integers(1, 20), st.data())
def test_a_step_depends_on_nothing_but_its_number(
    parts: list[tuple[int, float]], size: int, data: st.DataObject
) -> None:
    order = order_of(parts, size)
    step = data.draw(st.integers(0, 5 * order.steps_per_epoch))
    walked = [order.at(i) for i in range(step + 1)][-1]
    asked = order_of(parts, size).at(step)
    assert walked.part == asked.part
    assert np.array_equal(walked.rows, asked.rows)


@settings(max_examples=40)
@given(parts_of, st.integers(1, 20))
def test_a_part_gives_all_its_rows_before_it_gives_one_again(parts: list[tuple[int, float]], size: int) -> None:
    order = order_of(parts, size)
    for part, (rows, _) in enumerate(parts):
        given = [batch.rows for epoch in range(5) for batch in order.batches(epoch) if batch.part == part]
        passes = batches_in(rows, size)
        for first in range(0, len(given) - passes + 1, passes):
            assert sorted(np.concatenate(given[first : first + passes])) == list(range(rows))


ROWS = {"long": 900, "mid": 100, "short": 25}
EVEN = dict.fromkeys(ROWS, 1.0)


def shares_of(weights: dict[str, float] = EVEN, **mixing: object) -> list[float]:
    return [*Mixing.model_validate(mixing).shares(weights, ROWS).values()]


def test_shares_are_the_rates_of_t5_by_hand() -> None:
    assert shares_of({"long": 3.0, "mid": 1.0, "short": 4.0}) == [3 / 8, 1 / 8, 4 / 8]
    assert shares_of(by="rows") == [900 / 1025, 100 / 1025, 25 / 1025]
    assert shares_of(by="rows", limit=100) == [100 / 225, 100 / 225, 25 / 225]
    assert shares_of(by="rows", temperature=2) == pytest.approx([30 / 45, 10 / 45, 5 / 45], abs=1e-15)
    assert shares_of({"long": 1.0, "mid": 9.0, "short": 36.0}, by="rows", temperature=2) == pytest.approx([1 / 3] * 3)
    third = [1 / 3] * 3
    assert shares_of(by="rows", limit=1) == shares_of() == third  # equal mixing
    assert shares_of(by="rows", limit=10**9) == shares_of(by="rows")  # proportional
    assert shares_of(by="rows", temperature=1e12) == pytest.approx(third, abs=1e-9)
    assert shares_of(by="rows", temperature=1e-3) == pytest.approx([1, 0, 0])  # no rate overflows


@settings(max_examples=40)
@given(parts_of, st.integers(1, 20), st.data())
def test_mixed_batches_have_every_parts_share_of_rows_exactly(
    parts: list[tuple[int, float]], size: int, data: st.DataObject
) -> None:
    rows, whole = [count for count, _ in parts], sum(weight for _, weight in parts)
    lengths = np.random.default_rng(1).integers(1, 90, sum(rows))
    order = MixedOrder(lengths, rows, [weight / whole for _, weight in parts], size, 3)
    starts, seen = np.cumsum([0, *rows]), [list[int]() for _ in rows]
    for epoch in range(3):
        batches = order.batches(epoch)
        assert len(batches) == order.steps_per_epoch == batches_in(sum(rows), size)
        called = np.concatenate([batch.rows for batch in batches])
        assert len(called) == sum(rows)
        assert len({*called}) == len(called)  # one that is there again is called otherwise
        assert called.max() < order.times * sum(rows)
        drawn = called % sum(rows)
        assert {*called // sum(rows)} == {*range(np.bincount(drawn).max())}
        for part, (count, weight) in enumerate(parts):
            mine = drawn[(drawn >= starts[part]) & (drawn < starts[part + 1])] - starts[part]
            assert len(mine) >= 1
            if all(w / whole * sum(rows) >= 1 for _, w in parts):
                assert abs(len(mine) - weight / whole * sum(rows)) < 1
            seen[part] += mine.tolist()
            times = np.bincount(seen[part], minlength=count)
            assert times.max() - times.min() <= 1  # all rows before one again
    step = data.draw(st.integers(0, 3 * order.steps_per_epoch - 1))
    again = MixedOrder(lengths, rows, [weight / whole for _, weight in parts], size, 3)
    assert np.array_equal(again.at(step).rows, order.batches(step // order.steps_per_epoch)[step % len(batches)].rows)


def test_one_dataset_has_the_order_it_always_had() -> None:
    lengths = np.random.default_rng(0).integers(1, 90, 200)
    order = Order([lengths], [1.0], 8, 7)
    for epoch in range(3):
        random = np.random.default_rng([7, epoch])  # as it was drawn before there were mixtures
        mega = random.permutation(200)
        mega = mega[np.argsort(-lengths[mega], kind="stable")]
        batches = [mega[i : i + 8] for i in range(0, 200, 8)]
        expected = [batches[i] for i in random.permutation(25)]
        assert all(np.array_equal(a, b.rows) for a, b in zip(expected, order.batches(epoch), strict=True))


def test_parts_are_shuffled_and_their_rows_are_drawn_apart() -> None:
    lengths = np.full(64, 9)
    order = Order([lengths, lengths], [0.5, 0.5], 4, 0)
    first = [batch.part for batch in order.batches(0)]
    assert first != sorted(first)
    assert first != [batch.part for batch in order.batches(1)]
    mine, theirs = ([b.rows.tolist() for b in order.batches(0) if b.part == part] for part in (0, 1))
    assert mine != theirs


def test_a_share_of_less_than_a_step_is_one() -> None:
    assert batches_of_parts([10, 10], [0.999, 0.001]) == [19, 1]
    assert batches_of_parts([1, 1, 10], [0.98, 0.01, 0.01]) == [10, 1, 1]
    assert batches_of_parts([10, 5], [2 / 3, 1 / 3]) == [10, 5]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedDataset, PreparedDataset]:
    folder, rows, more = tmp_path_factory.mktemp("data"), tiny_rows(60), tiny_rows(30, seed=5, words=20)
    return (
        tiny_prepared(folder / "new", {"train": rows[:45], "validation": rows[45:]}),
        tiny_prepared(folder / "replay", {"train": more[:20], "validation": more[20:]}),
    )


def mixed(
    start: Checkpoint, parts: tuple[PreparedDataset, ...], mixing: dict[str, object] | None = None, **compute: object
) -> TrainJob:
    phase = Phase.model_validate(
        {
            "name": "tune",
            "mixture": {"replay": 1, "new": 3},
            "mixing": mixing or {},
            "objective": {"kind": "classification"},
            "tuning": {"kind": "full"},
            "optimizer": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 6},
            "dropout": 0.0,
        }
    )
    settled = Compute.model_validate({"workers": 0, "threads": 1, **compute})
    return TrainJob(start=start, data=Mixture(parts=parts), phase=phase, precision="fp32", seed=7, compute=settled)


def mean_loss(model: torch.nn.Module, split: PreparedSplit, rows: np.ndarray) -> float:
    batch = split.batch(rows, Collator.of(model))
    with torch.no_grad():
        return float(model(**batch.inputs, labels=batch.targets).loss)


def test_a_mixture_trains_on_its_parts_in_turn_and_watches_each(
    start: Checkpoint, parts: tuple[PreparedDataset, ...], tmp_path: Path
) -> None:
    done = train(mixed(start, parts, micro_batch_size=4), Workspace(tmp_path))
    records = curves.read(done.path / curves.FILE)
    steps = [record for record in records if "loss" in record]
    splits = [open_split(part.path / "train.arrow", LABELS) for part in parts]
    order = Order([split.lengths for split in splits], [0.75, 0.25], 6, 7)
    assert len(steps) == done.facts["steps"] == 2 * (8 + 4)
    names = ("new", "replay")
    for record, batch in zip(steps, (order.at(i) for i in range(len(steps))), strict=True):
        assert record[f"loss:{names[batch.part]}"] == record["loss"]
        assert f"loss:{names[1 - batch.part]}" not in record
    stock, first = load_model(start.path / "model", "labeled"), order.at(0)
    assert steps[0]["loss"] == pytest.approx(mean_loss(stock, splits[first.part], first.rows), rel=1e-5)
    assert sum("loss:replay" in record for record in steps) == 6

    ended = load_model(done.path / "model", "labeled")
    held = [open_split(part.path / "validation.arrow", LABELS) for part in parts]
    each = [mean_loss(ended, split, np.arange(len(split))) for split in held]
    last = records[-1]
    assert [last["validation_loss:new"], last["validation_loss:replay"]] == pytest.approx(each, rel=1e-4)
    assert last["validation_loss"] == pytest.approx(0.75 * each[0] + 0.25 * each[1], rel=1e-4)


def test_a_row_that_an_epoch_has_again_hides_other_words(tmp_path: Path) -> None:
    format, processor = MaskedText(text="text", max_tokens=32), Processor.of(tiny_tokenizer())
    rows = {"train": tiny_rows(8, words=20), "validation": tiny_rows(4, seed=1)}
    few = tiny_prepared_as(tmp_path / "few", format, rows, processor)
    many = tiny_prepared_as(tmp_path / "many", format, {**rows, "train": tiny_rows(24, seed=2, words=20)}, processor)
    files = [part.path / "train.arrow" for part in (few, many)]
    once = open_splits(files, ())
    order = MixedOrder(once.sizes, [8, 24], [0.75, 0.25], 4, 3)
    again = open_splits(files * order.times, ())
    draw = Draw(7, 0)
    assert order.times == 3  # 24 of 8 rows
    read: dict[int, list[bytes]] = {}
    for batch in order.batches(0):
        for row in batch.rows.tolist():
            (tokens,) = again.drawn(draw).targets.read([row])  # type: ignore[union-attr]
            read.setdefault(row % len(once), []).append(tokens.tobytes())
            if row < len(once):  # the first time it is what it was
                assert np.array_equal(tokens, once.drawn(draw).targets.read([row])[0])  # type: ignore[union-attr]
    repeated = [words for words in read.values() if len(words) > 1]
    assert len(repeated) == 8
    assert all(len({*words}) > 1 for words in repeated)


def test_mixed_batches_divide_by_the_items_of_all_parts(
    start: Checkpoint, parts: tuple[PreparedDataset, ...], tmp_path: Path
) -> None:
    alike = tiny_rows(30, seed=5)  # as long as the others, so that a batch has rows of both
    parts = parts[0], tiny_prepared(tmp_path / "alike", {"train": alike[:20], "validation": alike[20:]})
    job = mixed(start, parts, {"batches": "mixed", "by": "rows", "temperature": 2}, micro_batch_size=4)
    rates = (3 * 45) ** 0.5, 20**0.5
    assert job.shares == pytest.approx({"new": rates[0] / sum(rates), "replay": rates[1] / sum(rates)})
    done = train(job, Workspace(tmp_path))
    records = [record for record in curves.read(done.path / curves.FILE) if "loss" in record]
    joined = open_splits([part.path / "train.arrow" for part in parts], LABELS)
    order = MixedOrder(joined.sizes, [45, 20], [*job.shares.values()], 6, 7)
    assert len(records) == done.facts["steps"] == 2 * 11
    assert not any(key.startswith("loss:") for record in records for key in record)
    first, stock = order.at(0), load_model(start.path / "model", "labeled")
    rows = first.rows.tolist()
    assert {row < 45 for row in rows} == {True, False}
    assert records[0]["loss"] == pytest.approx(mean_loss(stock, joined, first.rows), rel=1e-5)
    alone = [open_split(part.path / "train.arrow", LABELS) for part in parts]
    each = [mean_loss(stock, alone[row >= 45], np.array([row - 45 * (row >= 45)])) for row in rows]
    assert records[0]["loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert {"validation_loss:new", "validation_loss:replay"} <= curves.read(done.path / curves.FILE)[-1].keys()


@pytest.mark.parametrize("mixing", [pytest.param({}, marks=pytest.mark.slow), {"batches": "mixed"}])
def test_a_mixture_that_was_stopped_goes_on_in_the_same_order(
    start: Checkpoint, parts: tuple[PreparedDataset, ...], mixing: dict[str, object], tmp_path: Path
) -> None:
    job = mixed(start, parts, mixing)
    whole = train(job, Workspace(tmp_path / "whole"))
    with stopped_at(16):
        train(job, Workspace(tmp_path / "stopped"))
    resumed = train(job, Workspace(tmp_path / "stopped"))
    assert resumed.facts["resumed_from_step"] == 16
    assert resumed.weights == whole.weights


def test_identity_is_the_parts_rows_and_weights_and_not_the_order_they_are_named_in(
    start: Checkpoint, parts: tuple[PreparedDataset, ...]
) -> None:
    job = mixed(start, parts)
    named = {"mixture": {"new": 3, "replay": 1}, "dataset": None}
    again = Phase.model_validate({**job.phase.model_dump(), **named})
    assert job.model_copy(update={"phase": again}).fingerprint == job.fingerprint
    assert [*again.parts.items()] == [*job.phase.parts.items()] == [("new", 3.0), ("replay", 1.0)]
    assert job.shares == {"new": 0.75, "replay": 0.25}
    other = Phase.model_validate({**job.phase.model_dump(), "mixture": {"new": 3, "replay": 2}})
    assert job.model_copy(update={"phase": other}).fingerprint != job.fingerprint
    assert mixed(start, parts[::-1]).fingerprint != job.fingerprint


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "give `dataset`, or a `mixture` of several with their weights, got neither"),
        ({"dataset": "a", "mixture": {"a": 1, "b": 1}}, "got both"),
        ({"mixture": {"a": 1}}, "a mixture of one dataset, 'a'; say it as `dataset`"),
        ({"mixture": {"a": 1, "b": -1}}, "greater than or equal to 0"),
        ({"mixture": {"a": 0, "b": 0}}, "the weights of a, b sum to 0"),
        ({"mixture": {"a": 1, "b": float("inf")}}, "finite number"),
        ({"mixture": ["a", "b"]}, "valid dictionary"),
    ],
)
def test_what_is_no_mixture_is_refused(data: dict[str, object], words: str) -> None:
    rest = {"name": "tune", "objective": {"kind": "classification"}, "tuning": {"kind": "full"}}
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        Phase.model_validate({**rest, **data})
