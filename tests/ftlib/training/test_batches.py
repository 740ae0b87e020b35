"""Batches: every row once, the same global batches for any number of workers, little padding."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.prepared import PreparedRow, split_file, write_split
from ftlib.errors import DataError, TrainingError
from ftlib.kinds.collate import Collator
from ftlib.kinds.open_split import open_split
from ftlib.training.batches import by_length, global_batches, micro_batches, packs

lengths = st.lists(st.integers(1, 200), min_size=1, max_size=300).map(np.array)


@settings(deadline=None, max_examples=50)
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


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 50), st.integers(1, 6), st.none() | st.integers(1, 9))
def test_ranks_share_a_batch_without_loss_or_overlap(rows: int, world: int, size: int | None) -> None:
    batch = np.arange(100, 100 + rows)
    shares = [micro_batches(batch, rank, world, size) for rank in range(world)]
    assert len({len(pieces) for pieces in shares}) == 1  # collective forward passes must pair up
    counted = [row for pieces in shares for piece, counts in pieces if counts for row in piece]
    assert sorted(counted) == list(batch)
    assert all(0 < len(piece) <= (size or rows) for pieces in shares for piece, _ in pieces)


@settings(deadline=None, max_examples=80)
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
