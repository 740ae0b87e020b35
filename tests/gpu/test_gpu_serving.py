"""A version that is served from the GPU: it computes there, and says what it does on the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ftlib.kinds.predictions import LabelPrediction, WrittenText
from ftlib.published.loaded import LoadedVersion
from ftlib.testing import tiny_rows
from tests.ftlib.published.test_loaded import FORMATS, version

pytestmark = pytest.mark.gpu
TEXTS = [str(row["text"]) for row in tiny_rows(40, seed=3)] + ["short", "a crash " * 40]


@pytest.mark.parametrize("objective", [*FORMATS])
def test_it_answers_from_the_gpu_as_from_the_processor(tmp_path: Path, use_gpu: bool, objective: str) -> None:
    folder = version(tmp_path / "v", objective)
    device = "cuda" if use_gpu else "cpu"
    loaded = LoadedVersion(folder, max_new_tokens=8, device=device)
    loaded.warm()
    assert {tensor.device.type for tensor in loaded._model.parameters()} == {device}
    before = torch.cuda.max_memory_allocated() if use_gpu else 0
    there, here = loaded.answers(TEXTS, 7), LoadedVersion(folder, max_new_tokens=8).answers(TEXTS, 7)
    if use_gpu:
        assert before > sum(tensor.nbytes for tensor in loaded._model.parameters())
    same = 0
    for ours, theirs in zip(there, here, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, LabelPrediction) and isinstance(theirs, LabelPrediction):
            assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-3)
        assert isinstance(ours, LabelPrediction | WrittenText)
        same += ours == theirs if isinstance(ours, WrittenText) else 1
    assert same > 0.8 * len(TEXTS)  # sums in another order may turn a token that was nearly another
