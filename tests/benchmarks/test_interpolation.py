"""The merge benchmark's own arithmetic, on checkpoints of a few kilobytes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import interpolation_task as task
from benchmarks.interpolation import MemoryWatch


@pytest.fixture
def ends(tmp_path: Path) -> list[str]:
    for i in (0, 1):
        folder = tmp_path / f"m{i}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({}))
        save_file({"w": task.random_weights(0, (50, 70), seed=i)}, folder / "model.safetensors")
    return [str(tmp_path / f"m{i}") for i in (0, 1)]


def test_the_default_model_has_eight_tenths_of_a_billion_parameters() -> None:
    count = sum(int(torch.Size(shape).numel()) for shape in task.llama_shapes(13).values())
    assert count == pytest.approx(0.8e9, rel=0.01)


def test_raw_io_moves_every_byte_of_the_second(ends: list[str], tmp_path: Path) -> None:
    task.raw(ends, tmp_path / "out")
    files = [Path(folder) / "model.safetensors" for folder in (ends[1], str(tmp_path / "out"))]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_every_element_is_compared(ends: list[str], tmp_path: Path) -> None:
    task.ours(ends, tmp_path / "ours")
    mine = load_file(tmp_path / "ours" / "model.safetensors")["w"]
    theirs = mine.clone()
    theirs.view(-1)[7] += 1
    (tmp_path / "theirs").mkdir()
    save_file({"w": theirs}, tmp_path / "theirs" / "model.safetensors")
    found = task.compare(ends, str(tmp_path / "ours"), str(tmp_path / "theirs"))
    assert (found["elements"], found["differing"], found["same_keys"]) == (3500, 1, True)
    assert found["they_wrong"] == found["we_wrong"] + 1
    assert found["we_wrong"] < 10


def test_memory_that_is_held_for_a_while_is_seen() -> None:
    with MemoryWatch() as watch:
        held = [torch.ones(10_000_000)]
        while watch.extra_mb < 30 and len(held) < 20:  # what others in this process free meanwhile counts against it
            held.append(torch.ones(10_000_000))
            time.sleep(0.05)
    assert watch.extra_mb >= 30
