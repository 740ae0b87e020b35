"""Batches: every row once, the same global batches for any number of workers, little padding."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from ftlib.data.prepared import PreparedRow, split_file, write_split
from ftlib.errors import DataError, TrainingError
from ftlib.fingerprint import identify
from ftlib.kinds.collate import Collator
from ftlib.kinds.open_split import open_split
from ftlib.training.loops.batches import Order, by_length, global_batches, micro_batches, packs, token_batches
from ftlib.training.optimizer import total_steps
from ftlib.training.optimizers import AdamW

lengths = st.lists(st.integers(1, 200), min_size=1, max_size=300).map(np.array)


@settings(max_examples=50)
@given(lengths, st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_every_row_once(lengths: np.ndarray, size: int, seed: int, epoch: int) -> None:
    batches = global_batches(lengths, size, seed, epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size)
    assert sum(len(batch) < size for batch in batches) <= 1
    again = global_batches(lengths, size, seed, epoch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_epochs_and_seeds_differ() -> None:
    lengths = np.arange(1, 200)
    first = np.concatenate(global_batches(lengths, 8, 0, 0))
    assert not np.array_equal(first, np.concatenate(global_batches(lengths, 8, 0, 1)))
    assert not np.array_equal(first, np.concatenate(global_batches(lengths, 8, 1, 0)))


@settings(max_examples=80)
@given(st.integers(1, 50), st.integers(1, 6), st.none() | st.integers(1, 9))
def test_ranks_share_a_batch_without_loss_or_overlap(rows: int, world: int, size: int | None) -> None:
    batch = np.arange(100, 100 + rows)
    shares = [micro_batches(batch, rank, world, size) for rank in range(world)]
    assert len({len(pieces) for pieces in shares}) == 1  # collective forward passes must pair up
    counted = [row for pieces in shares for piece, counts in pieces if counts for row in piece]
    assert sorted(counted) == list(batch)
    assert all(0 < len(piece) <= (size or rows) for pieces in shares for piece, _ in pieces)


@settings(max_examples=80)
@given(lengths, st.integers(1, 6), st.integers(200, 900), st.randoms(use_true_random=False))
def test_ranks_share_packs_without_loss_or_overlap(lengths: np.ndarray, world: int, most: int, draw: Random) -> None:
    batch = np.array(draw.sample(range(len(lengths)), draw.randint(1, len(lengths))))
    shares = [packs(batch, lengths, rank, world, most) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1  # collective forward passes must pair up
    counted = [pack for share in shares for pack, counts in share if counts]
    assert sorted(np.concatenate(counted)) == sorted(batch)
    tokens = [int(lengths[pack].sum()) for pack in counted]
    assert max(tokens) <= most
    assert all(np.array_equal(pack, batch[:1]) for share in shares for pack, counts in share if not counts)
    # No more packs than it takes to fill them all by half, and of like size: the shortest row would fit in no other.
    assert len(shares[0]) <= -(-2 * int(lengths[batch].sum()) // most // world) + 1
    if len(batch) >= world * len(shares[0]):
        assert max(tokens) - min(tokens) <= max(lengths[batch])


def test_packs_are_a_pure_function_of_the_batch() -> None:
    lengths = np.array([5, 9, 3, 9, 4, 2])
    rows = np.array([4, 1, 0, 3])
    found = [pack.tolist() for pack, _ in packs(rows, lengths, 0, 1, 14)]
    assert found == [[1, 0], [3, 4]]  # longest first, each into the emptiest
    assert [packs(rows, lengths, rank, 2, 14)[0][0].tolist() for rank in (0, 1)] == found
    assert [(p.tolist(), counts) for p, counts in packs(rows[:1], lengths, 2, 3, 14)] == [([4], False)]
    with pytest.raises(TrainingError, match=r"pack_tokens: a row of 9 tokens is longer than a pack, which has 8"):
        packs(rows, lengths, 0, 1, 8)


def test_bucketing_leaves_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 250, 4000)
    padded = sum(len(batch) * lengths[batch].max() for batch in global_batches(lengths, 32, 0, 0))
    shuffled = np.random.default_rng(1).permutation(4000).reshape(-1, 32)
    random = sum(32 * lengths[batch].max() for batch in shuffled)
    assert padded / lengths.sum() < 1.05 < 1.5 < random / lengths.sum()


def test_by_length_is_longest_first_and_stable() -> None:
    batches = by_length(np.array([3, 9, 3, 9, 1]), 2)
    assert [list(batch) for batch in batches] == [[1, 3], [0, 2], [4]]


def test_a_split_of_several_record_batches_reads_like_one(tmp_path: Path) -> None:
    rows = [PreparedRow(f"r{i}", {"input_ids": list(range(i, 2 * i + 1))}, "ab"[i % 2]) for i in range(7)]
    path = split_file(tmp_path, "train")
    write_split(path, "labeled", rows)
    split = open_split(path, ("b", "a"))
    assert [split.tokens(i).tolist() for i in range(7)] == [r.inputs["input_ids"] for r in rows]
    batch = split.batch([0, 6, 3], Collator(9, None, frozenset({"input_ids"}), torch.device("cpu")))
    assert batch.inputs["input_ids"].tolist() == [[0] + [9] * 6, list(range(6, 13)), [3, 4, 5, 6, 9, 9, 9]]
    assert batch.inputs["attention_mask"].sum(1).tolist() == [1, 7, 4]
    assert batch.targets is not None
    assert batch.targets.tolist() == [1, 1, 0]


def test_a_label_the_model_lacks_is_named(tmp_path: Path) -> None:
    path = split_file(tmp_path, "test")
    write_split(path, "labeled", [PreparedRow("r", {"input_ids": [1]}, "spam")])
    with pytest.raises(DataError, match="no label 'spam'; it has ham, eggs"):
        open_split(path, ("ham", "eggs"))


@settings(max_examples=40)
@given(
    lengths=arrays(np.int64, st.integers(1, 300), elements=st.integers(1, 60)),
    tokens=st.integers(1, 200),
    seed=st.integers(0, 3),
)
def test_token_batches_hold_every_row_once_and_take_in_what_fits(lengths: np.ndarray, tokens: int, seed: int) -> None:
    epochs = [token_batches(lengths, tokens, seed, epoch) for epoch in range(3)]
    again = [token_batches(lengths, tokens, seed, epoch) for epoch in range(3)]
    for batches, same in zip(epochs, again, strict=True):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert all(map(np.array_equal, batches, same))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * int(lengths[batch].max()) <= tokens
    shapes = [sorted(tuple(sorted(lengths[batch].tolist())) for batch in batches) for batches in epochs]
    assert shapes[0] == shapes[1] == shapes[2], "a schedule knows its steps"
    if lengths.sum() <= 32 * tokens:  # all rows are sorted together: no batch could take the next row
        left, expected = sorted(lengths.tolist(), reverse=True), []
        while left:
            count = 1
            while count < len(left) and (count + 1) * left[0] <= tokens:
                count += 1
            expected.append(tuple(sorted(left[:count])))
            left = left[count:]
        assert shapes[0] == sorted(expected)


def test_token_batches_mix_rows_of_one_length_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 20_000)
    first, second = (token_batches(lengths, 4096, 7, epoch) for epoch in (0, 1))
    assert len(first) == len(second)
    seen = {tuple(sorted(batch.tolist())) for batch in first}
    assert sum(tuple(sorted(batch.tolist())) in seen for batch in second) < len(first) / 20
    assert [len(batch) for batch in first] != [len(batch) for batch in second], "nor is their order the same"
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in first)
    assert padded < 1.05 * lengths.sum()
    full = [batch for batch in first if len(batch) * lengths[batch].max() > 0.9 * 4096]
    assert len(full) > 0.9 * len(first)


def test_forward_passes_hold_to_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 90, 500)
    batches = by_length(lengths, 4, 256)
    assert np.array_equal(np.concatenate(batches), np.argsort(-lengths, kind="stable"))
    assert all(len(batch) * lengths[batch].max() <= 256 for batch in batches)


@settings(max_examples=15)
@given(st.data())
def test_mixtures_of_token_batches_are_known_by_step(data: st.DataObject) -> None:
    sizes = st.integers(1, 40)
    parts = [data.draw(arrays(np.int64, st.integers(1, 80), elements=sizes)) for _ in range(2)]
    order = Order(parts, [0.7, 0.3], 4, 3, 64)
    passes = [len(token_batches(part, 64, 3, 0, i)) for i, part in enumerate(parts)]
    assert order.steps_per_epoch == sum(passes)
    taken: list[list[int]] = [[], []]
    for step in range(6 * order.steps_per_epoch):
        batch = order.at(step)
        taken[batch.part] += batch.rows.tolist()
        assert batch.part in (0, 1)
    for part, rows in enumerate(taken):  # pass after pass, each row once
        whole = len(rows) // len(parts[part])
        for i in range(whole):
            one = rows[i * len(parts[part]) : (i + 1) * len(parts[part])]
            assert sorted(one) == list(range(len(parts[part])))
    step = data.draw(st.integers(0, 5 * order.steps_per_epoch))
    resumed = Order(parts, [0.7, 0.3], 4, 3, 64).at(step)
    assert np.array_equal(resumed.rows, order.at(step).rows)


def test_settings_say_one_size() -> None:
    with pytest.raises(ValidationError, match="batch_size: 16 and batch_tokens: 512: a step has so many rows or so"):
        AdamW(batch_size=16, batch_tokens=512)
    optimizer = AdamW.model_validate(AdamW(batch_tokens=512).model_dump())  # as a plan travels
    assert optimizer.batch_words == "512 tokens"
    lengths = np.random.default_rng(0).integers(1, 90, 500)
    steps = total_steps([lengths, lengths[:100]], optimizer, 5)
    passes = [len(token_batches(part, 512, 5, 0, i)) for i, part in enumerate((lengths, lengths[:100]))]
    assert steps == round(optimizer.epochs * sum(passes))
    assert identify(AdamW()) == identify(AdamW.model_validate({"batch_tokens": None}))
    assert "batch_tokens" not in str(identify(AdamW()))
