"""Which points a line has, which lines are refused, and what survives being read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ftlib.errors import ModelError, RecipeError
from ftlib.merging.interpolation import ModelStock, Off, WiseFT
from ftlib.merging.interpolation.ends import Ends
from ftlib.merging.layer_distances import reach
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import Progress, listen
from ftlib.stages.interpolate import InterpolateJob, interpolate
from ftlib.testing import tiny_checkpoint
from ftlib.workspace import Workspace


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    folder = tmp_path_factory.mktemp("ends")
    start = tiny_checkpoint(folder / "start", phase="probe")
    return start, tiny_checkpoint(folder / "end", phase="tune", start=start, seed=1)


@settings(max_examples=50)
@given(alphas=st.lists(st.integers(0, 100).map(lambda k: k / 100)))
def test_points_ascend_are_distinct_and_hold_both_ends(alphas: list[float]) -> None:
    start, end = (
        Checkpoint(
            weights=name, parent=None, tokenizer="", phase=name, fresh_head=False, labels=(),
            parameters=1, trained_parameters=1,
        )
        for name in ("start", "end")
    )  # fmt: skip
    points = WiseFT(alphas=tuple(alphas)).points(Ends(start, end))
    assert [point.alpha for point in points] == sorted({0.0, 1.0, *alphas})
    assert len({point.name for point in points}) == len({point.digest() for point in points}) == len(points)
    assert (points[0].weights, points[-1].weights) == ("start", "end")


def test_a_record_read_back_still_knows_its_folders(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    job = InterpolateJob(start=ends[0], end=ends[1], interpolation=WiseFT(alphas=(0.5,)))
    for _ in range(2):
        found = interpolate(job, Workspace(tmp_path))
        assert [member.name for member in found.members] == ["alpha=0", "alpha=0.5", "alpha=1"]
        assert all((member.start.path, member.end.path) == (ends[0].path, ends[1].path) for member in found.members)
        assert [path.name for path in found.path.iterdir()] == ["artifact.json"]


@pytest.mark.parametrize("update", [{"fresh_head": True}, {"weights": "0" * 64}, {"labels": ("other",)}])
def test_a_line_that_means_nothing_is_refused_and_leaves_nothing(
    ends: tuple[Checkpoint, Checkpoint], tmp_path: Path, update: dict[str, object]
) -> None:
    start = ends[0].model_copy(update=update)
    job = InterpolateJob(start=start, end=ends[1], interpolation=WiseFT())
    with pytest.raises(ModelError):
        interpolate(job, Workspace(tmp_path))
    assert not Workspace(tmp_path).folder(job).exists()


def test_without_interpolation_a_fresh_head_is_fine(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    start = ends[0].model_copy(update={"fresh_head": True})
    found = interpolate(InterpolateJob(start=start, end=ends[1], interpolation=Off()), Workspace(tmp_path))
    assert [(member.name, member.weights) for member in found.members] == [("tune", ends[1].weights)]


def test_alphas_too_close_to_tell_apart_are_refused(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    job = InterpolateJob(start=ends[0], end=ends[1], interpolation=WiseFT(alphas=(0.5, 0.50000001)))
    with pytest.raises(RecipeError, match=r"alpha=0\.5 is there twice"):
        interpolate(job, Workspace(tmp_path))


def test_model_stock_says_how_far_it_went(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    start, end = ends
    sibling = tiny_checkpoint(tmp_path / "sibling", phase="again", start=start, seed=2)
    job = InterpolateJob(start=start, end=end, siblings=(sibling,), interpolation=ModelStock())
    heard = list[Progress]()
    with listen(heard.append):
        found = interpolate(job, Workspace(tmp_path))
    zero, *tuned = (
        {name: t.double().numpy() for name, t in load_file(one.folder / "model.safetensors").items()}
        for one in (start, end, sibling)
    )
    moved = all_of_it = 0.0
    for name, before in zero.items():
        deltas = [one[name] - before for one in tuned]
        lengths = [np.linalg.norm(delta) for delta in deltas]
        cosine = (deltas[0] * deltas[1]).sum() / np.prod(lengths) if np.prod(lengths) else 0.0
        t = np.clip(2 * cosine / (1 + cosine), 0, 1)
        mean = np.linalg.norm(sum(deltas) / 2)
        moved, all_of_it = moved + (t * mean) ** 2, all_of_it + mean**2
    share = np.sqrt(moved / all_of_it)
    assert found.remarks == (f"model_stock goes {share:.0%} of the way from probe to the mean of 2 fine-tunes",)
    assert [one.text for one in heard] == [*found.remarks]
    assert reach(found.members[1]) == pytest.approx(share, rel=1e-9)
    stock = found.members[1]  # running statistics that moved far are no weights, and no part of the way
    parts = [_with_batch_norm(one, tmp_path / f"bn{i}", float(i)) for i, one in enumerate(stock.parts)]
    moved_too = stock.model_copy(update={"start": parts[0], "end": parts[1], "siblings": (parts[2],)})
    assert reach(moved_too) == pytest.approx(share, rel=1e-9)


def _with_batch_norm(checkpoint: Checkpoint, folder: Path, mean: float) -> Checkpoint:
    """Return a copy of it that has a BatchNorm layer's running statistics beside its weights."""
    shutil.copytree(checkpoint.path, folder)
    copy = checkpoint.model_copy(update={"uri": str(folder)})
    file = copy.weights_folder / "model.safetensors"
    statistics = {"running_mean": torch.full((4,), mean), "running_var": torch.full((4,), 1e3 + mean)}
    seen = {"num_batches_tracked": torch.tensor(int(mean))}
    named = {f"norm.{name}": tensor for name, tensor in {**statistics, **seen}.items()}
    save_file({**load_file(file), **named}, file, metadata={"format": "pt"})
    return copy
