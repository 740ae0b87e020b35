"""Sums of adapters, against the same sums of the weights that stock peft merges them into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from ftlib.errors import ModelError
from ftlib.merging.candidate_weights import check_candidate, write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.merging.methods import Average, Blocks, Lerp, Lines, Merge, TaskArithmetic, Ties
from ftlib.models.adapter import WEIGHTS, find_base
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import tiny_adapter, tiny_checkpoint

Trail = tuple[Checkpoint, Checkpoint, Checkpoint, Checkpoint]
"""A start, and three adapters that were trained from it, the last of another rank."""


@pytest.fixture(scope="module")
def over_dense(tmp_path_factory: pytest.TempPathFactory) -> Trail:
    folder = tmp_path_factory.mktemp("dense")
    start = tiny_checkpoint(folder / "start", phase="probe")
    ends = [tiny_adapter(folder / str(i), start, phase=f"tune{i}", seed=i, rank=2 + i // 2) for i in range(3)]
    return (start, *ends)


@pytest.fixture(scope="module")
def over_adapter(over_dense: Trail) -> Trail:
    _, start, *ends = over_dense
    one, other = (end.model_copy(update={"parent": start.weights}) for end in ends)
    third = one.model_copy(update={"phase": "again"})
    return start, one, other, third


def merged(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return its weights as stock transformers and peft make them."""
    if checkpoint.base is None:
        return AutoModelForSequenceClassification.from_pretrained(checkpoint.folder).state_dict()
    model: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint.base.uri)
    return peft.PeftModel.from_pretrained(model, checkpoint.folder).merge_and_unload().state_dict()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([[2, 7, 9, 11, 3], [2, 8, 5, 31, 3]])).logits


@pytest.mark.parametrize(
    ("merge", "shares"),
    [
        (Average(ingredients=(1, 2, 3)), (0, 1 / 3, 1 / 3, 1 / 3)),
        (Average(ingredients=(3, 1)), (0, 0.5, 0, 0.5)),
        (TaskArithmetic(scale=0.5), (-0.5, 0.5, 0.5, 0.5)),
    ],
    ids=["soup of all", "soup of two", "task arithmetic"],
)
@pytest.mark.parametrize("over", ["over_dense", "over_adapter"])
def test_a_sum_of_adapters_is_the_sum_of_what_they_make_of_the_base(
    request: pytest.FixtureRequest, tmp_path: Path, merge: Merge, shares: tuple[float, ...], over: str
) -> None:
    trail: Trail = request.getfixturevalue(over)
    start, end, *siblings = trail
    candidate = Candidate(name="sum", start=start, end=end, siblings=tuple(siblings), merge=merge)
    check_candidate(candidate)
    weights = [merged(one) for one in trail]
    wanted: Any = AutoModelForSequenceClassification.from_pretrained(over_base(end))
    mixed = {n: sum(s * w[n].double() for s, w in zip(shares, weights, strict=True)) for n in weights[0]}
    wanted.load_state_dict({name: torch.as_tensor(value).float() for name, value in mixed.items()})
    torch.testing.assert_close(logits(model_of(candidate, "labeled")), logits(wanted), rtol=0, atol=1e-5)
    written = write_candidate(candidate, tmp_path / "sum")
    assert find_base(tmp_path / "sum") == end.base
    stock: Any = AutoModelForSequenceClassification.from_pretrained(over_base(end))
    torch.nn.init.normal_(stock.classifier.weight)  # the adapter brings its own head
    over_stock = peft.PeftModel.from_pretrained(stock, tmp_path / "sum")
    torch.testing.assert_close(logits(over_stock), logits(wanted), rtol=0, atol=1e-5)
    tensors = load_file(tmp_path / "sum" / WEIGHTS)
    ranks = {one.phase: one.rank for one in map(Rank, candidate.parts) if one.rank}
    assert {value.shape[0] for name, value in tensors.items() if "lora_A" in name} == {sum(ranks.values())}
    assert written.weights not in {one.weights for one in trail}


def alpha_of_lines(name: str) -> float:
    return 0.8 if ".layer.1." in name else 0.2


def alpha_by_module_and_depth(name: str) -> float:
    if "classifier" in name:
        return 0.9
    return 0.6 * next((depth for part, depth in ((".layer.0.", 2 / 3), (".layer.1.", 1 / 3)) if part in name), 0.0)


@pytest.mark.parametrize(
    ("merge", "alpha_of"),
    [
        (Lines(alpha=0.8, shallow=0.25), alpha_of_lines),
        (Lerp(alpha=0.6, depth=(1.0, 0.0), modules={"classifier.*": 0.9}), alpha_by_module_and_depth),
    ],
    ids=["lines", "modules and depth"],
)
@pytest.mark.parametrize("over", ["over_dense", "over_adapter"])
def test_layers_of_an_adapter_get_alphas_of_their_own(
    request: pytest.FixtureRequest, tmp_path: Path, merge: Merge, alpha_of: Callable[[str], float], over: str
) -> None:
    trail: Trail = request.getfixturevalue(over)
    start, end, *_ = trail
    candidate = Candidate(name="layers", start=start, end=end, merge=merge)
    check_candidate(candidate)
    a, b = merged(start), merged(end)
    wanted: Any = AutoModelForSequenceClassification.from_pretrained(over_base(end))
    wanted.load_state_dict({n: (a[n] + alpha_of(n) * (b[n].double() - a[n])).float() for n in a})
    torch.testing.assert_close(logits(model_of(candidate, "labeled")), logits(wanted), rtol=0, atol=1e-5)
    write_candidate(candidate, tmp_path / "layers")
    stock: Any = AutoModelForSequenceClassification.from_pretrained(over_base(end))
    over_stock = peft.PeftModel.from_pretrained(stock, tmp_path / "layers")
    torch.testing.assert_close(logits(over_stock), logits(wanted), rtol=0, atol=1e-5)


def test_three_blocks_want_three_layers(over_dense: Trail, tmp_path: Path) -> None:
    start, end, *_ = over_dense
    blocks = Candidate(name="blocks", start=start, end=end, merge=Blocks(alphas=(0.1, 0.2, 0.3)))
    with pytest.raises(ModelError, match=r"'blocks' gives each layer a share .* has 2 numbered layers where 3"):
        check_candidate(blocks)
    dense = tiny_checkpoint(tmp_path / "dense", phase="full", start=start, seed=3)
    with pytest.raises(ModelError, match=r"'probe' has 2 numbered layers where 3 are the least: use wise_ft"):
        check_candidate(blocks.model_copy(update={"end": dense}))


class Rank:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.phase, self.rank = checkpoint.phase, 0
        if checkpoint.form == "adapter":
            tensors = load_file(checkpoint.folder / WEIGHTS)
            self.rank = next(value.shape[0] for name, value in tensors.items() if "lora_A" in name)


def over_base(end: Checkpoint) -> str:
    assert end.base
    return end.base.uri


def test_one_ingredient_is_that_adapter(over_dense: Trail, tmp_path: Path) -> None:
    start, end, sibling, _ = over_dense
    merge = Average(ingredients=(2,))
    candidate = Candidate(name="one", start=start, end=end, siblings=(sibling,), merge=merge)
    assert write_candidate(candidate, tmp_path / "one").weights == sibling.weights
    stock: Any = AutoModelForSequenceClassification.from_pretrained(over_base(sibling))
    alone = peft.PeftModel.from_pretrained(stock, sibling.folder)
    assert torch.equal(logits(model_of(candidate, "labeled")), logits(alone))


def test_what_is_no_sum_of_adapters_is_refused(over_dense: Trail, tmp_path: Path) -> None:
    start, end, sibling, _ = over_dense
    candidate = Candidate(name="x", start=start, end=end, siblings=(sibling,), merge=Ties(scale=1.0))
    with pytest.raises(ModelError, match="adapters are added up, which 'ties' does not do"):
        check_candidate(candidate)
    dense = tiny_checkpoint(tmp_path / "dense", phase="full", start=start, seed=3)
    soup = Average(ingredients=(1, 2))
    with pytest.raises(ModelError, match="'full' holds dense weights and 'tune0' is an adapter"):
        check_candidate(candidate.model_copy(update={"siblings": (dense,), "merge": soup}))
    with pytest.raises(ModelError, match=r"'tune1' is an adapter over .* and has no file of merged weights"):
        check_candidate(candidate.model_copy(update={"end": dense, "merge": soup}))
