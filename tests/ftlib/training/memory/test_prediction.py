"""What is predicted of a worker's memory, against tensors counted by hand and against a live model and optimiser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ftlib.data.formats.text_to_text import TextToText
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.loading import head_modules, load_model, load_processor
from ftlib.kinds.open_split import open_split
from ftlib.testing import (
    LABELS,
    tiny_causal_lm,
    tiny_classifier,
    tiny_prepared,
    tiny_prepared_as,
    tiny_rows,
    tiny_text_to_text,
)
from ftlib.training.compute import Compute
from ftlib.training.memory import prediction as memory
from ftlib.training.memory.cards import CARDS, find_card
from ftlib.training.memory.live_bytes import LiveBytes
from ftlib.training.memory.prediction import Memory, Sized, fitting, predict
from ftlib.training.optimizer import build_optimizer
from ftlib.training.phase import Phase

ROWS, WIDTH = 8, 16


def test_a_layer_is_counted_by_hand() -> None:
    """Of x W, then tanh, then a sum: on the way back tanh's output is there, and the gradient that is made of it."""
    model = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
    live, x = LiveBytes(model, {}), torch.ones(ROWS, WIDTH)
    out, weights = 4 * ROWS * 4 * WIDTH, 4 * WIDTH * 4 * WIDTH
    held = live.peak(lambda: live.model(x).tanh().sum().backward())
    # tanh's output, the gradient of it, the sum and its gradient's scalar; then the weight's gradient beside the last.
    assert held.total - max(2 * out, out + weights) in range(0, out + 17)
    kept = live.peak(lambda: live.model(x).tanh().sum().backward(), gradients="kept")
    assert kept.gradients == weights
    with torch.no_grad():
        assert live.peak(lambda: live.model(x)).activations == out


def test_what_is_kept_for_the_way_back_grows_with_the_layers() -> None:
    """Each tanh keeps its own output, and a linear layer what enters it, which is the same tensor."""
    rows = torch.ones(64, WIDTH)

    def held(layers: int) -> int:
        live = LiveBytes(nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(layers))), {})
        return live.peak(lambda: live.model(rows).sum()).activations

    of_one = 4 * rows.numel()
    assert held(5) - held(4) == held(9) - held(8) == of_one


def test_the_widest_batch_of_sources_and_targets_has_the_longest_of_each(tmp_path: Path) -> None:
    """Three rows of a middling source and target are longest in sum; a batch is as wide as its longest of each."""
    words = "invoice card "
    lengths = [(9, 9), (9, 9), (9, 9), (15, 1), (1, 14), (2, 2)]
    rows: Any = [{"a": words * source, "b": words * target} for source, target in lengths]
    folder = tiny_text_to_text(tmp_path / "model")
    format = TextToText(source="a", target="b", max_tokens=100, max_target_tokens=100)
    data = tiny_prepared_as(tmp_path / "data", format, {"train": rows}, load_processor(folder))
    split = open_split(data.path / "train.arrow", ())
    _, chosen = memory.widest([split], 3, None)
    assert len({*chosen.tolist()}) == 3
    for column in split.lists.values():
        assert column[chosen].max() == column.max()
    assert len(memory.widest([split], 1, None)[1]) == 1


@pytest.mark.parametrize("taught", [3, 11])
def test_rows_that_a_mask_chooses_are_as_many_as_it_has(taught: int) -> None:
    """The model asks for values: the logits of the supervised positions alone."""
    words = 50
    model = nn.Linear(WIDTH, words, bias=False)
    live, x, targets = LiveBytes(model, {}, words), torch.ones(20, WIDTH), torch.full((20,), -100)
    targets[:taught] = 7
    asked = targets != -100

    def work() -> None:
        assert int(asked.sum()) == taught
        cross_entropy(live.model(x[asked]), targets[asked], reduction="sum")

    with torch.no_grad():
        assert live.peak(work).logits == 2 * 4 * taught * words  # logits, and their logarithms


def test_tied_weights_are_copied_as_one() -> None:
    model = nn.Sequential(nn.Embedding(9, WIDTH), nn.Linear(WIDTH, 9, bias=False))
    model[1].weight = model[0].weight
    copied = LiveBytes(model, {}).model
    assert copied[1].weight is copied[0].weight  # type: ignore[index]


@pytest.fixture(autouse=True)
def quick_prediction() -> None:
    """Predict the passes too."""


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Sized]:
    root = tmp_path_factory.mktemp("sized")
    data = tiny_prepared(root / "data", {"train": tiny_rows(40), "validation": tiny_rows(8, seed=1)})
    texts = tiny_prepared(root / "texts", {"train": tiny_rows(40), "validation": []}, kind="tokens")
    classifier, lm = tiny_classifier(root / "classifier", LABELS), tiny_causal_lm(root / "lm")

    def of(tuning: dict[str, Any] | None = None, *, tokens: bool = False, **more: Any) -> Sized:
        kind = "tokens" if tokens else "labeled"
        settings = {key: more.pop(key) for key in ("ema_decay", "penalty", "self_kl") if key in more}
        phase = Phase.model_validate(
            {
                "name": "tune",
                "dataset": "d",
                "objective": {"kind": "causal_lm" if tokens else "classification"},
                "tuning": tuning or {"kind": "full"},
                "optimizer": {"batch_size": 16},
                **settings,
            }
        )
        model = load_model(lm if tokens else classifier, kind)
        tuned = phase.tuning.prepare(model, kind, head_modules(model))
        folder = Path(texts.uri if tokens else data.uri)
        train, validation = (
            open_split(folder / f"{split}.arrow", () if tokens else LABELS) for split in ("train", "validation")
        )
        precision = more.pop("precision", "fp32")
        return Sized(tuned, phase, Compute(**{"workers": 1, **more}), precision, [train], [validation], {})

    return of


@pytest.mark.parametrize(
    "tuning", [{"kind": "full"}, {"kind": "lora", "rank": 2}, {"kind": "frozen_layers", "layers": 1}]
)
def test_weights_and_moments_are_those_of_a_live_model_and_optimiser(sized: Any, tuning: dict[str, Any]) -> None:
    one = sized(tuning, ema_decay=0.9, micro_batch_size=4)
    model = one.model
    optimizer = build_optimizer(model, one.phase.optimizer, 1.0, [], 0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    found = predict(one)
    assert found.weights == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert found.moments == sum(t.nbytes for t in moments)
    trained = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert found.copies == trained
    # Micro-batches before this one have left their gradients.
    assert found.gradients == trained
    assert found.held == found.total - found.process == sum(found.as_facts().values()) - found.held
    assert Memory.of_facts(found.as_facts()) == found.model_copy(update={"process": 0})
    assert Memory.of_facts({"steps": 3}) is None


def test_shards_are_a_share_and_layers_come_and_go(sized: Any) -> None:
    whole, shared = predict(sized()), predict(sized(workers=4, sharding="fsdp"))
    model = sized().model
    buffers = sum(b.nbytes for b in model.buffers())
    assert shared.weights - buffers == -(-(whole.weights - buffers) // 4)
    assert shared.moments == pytest.approx(whole.moments / 4, abs=8)
    layers = [sum(p.nbytes for p in layer.parameters()) for layer in model.bert.encoder.layer]
    outside = whole.weights - buffers - sum(layers)
    assert shared.exchange == outside + 3 * layers[0]  # two layers, and one's gradients
    copies = predict(sized(workers=4, sharding="fsdp", replicas=2))
    assert copies.moments == 2 * shared.moments
    assert predict(sized(workers=2)).exchange == whole.weights - buffers  # DDP's buckets are as large as the gradients


def test_rows_at_a_time_and_layers_that_are_computed_again_take_less(sized: Any) -> None:
    """Logits grow with the rows; a layer that is computed again leaves what enters it."""
    of_rows = [predict(sized(tokens=True, micro_batch_size=rows)) for rows in (2, 4, 8)]
    assert of_rows[2].logits - of_rows[1].logits == 2 * (of_rows[1].logits - of_rows[0].logits) > 0
    again = predict(sized(tokens=True, micro_batch_size=8, activation_checkpointing="full"))
    assert again.activations < 0.8 * of_rows[2].activations
    assert predict(sized(tokens=True, pack_tokens=64)).activations > 0


def test_what_the_average_says_is_held_beside_what_the_model_says(sized: Any) -> None:
    without, beside = (predict(sized(tokens=True, micro_batch_size=4, ema_decay=0.9, self_kl=kl)) for kl in (0.0, 0.5))
    assert beside.logits > without.logits
    assert beside.copies == without.copies


@pytest.mark.slow
def test_what_fits_is_told_and_fits(sized: Any) -> None:
    one = sized(tokens=True)
    whole = predict(one)
    found = fitting(one, whole.total)
    assert found is not None
    assert not found.settings
    found = fitting(one, whole.total - whole.activations // 2)
    assert found is not None
    assert set(found.settings) == {"micro_batch_size"}
    assert found.memory.total <= whole.total - whole.activations // 2
    assert found.memory == predict(one.changed(**found.settings))
    assert str(found).startswith("compute.micro_batch_size ")
    assert fitting(one, whole.process) is None
    gpu = sized(tokens=True, use_gpu=True)
    room = predict(gpu.changed(micro_batch_size=1, activation_checkpointing="full")).total - 100_000
    found = fitting(gpu, room)
    assert found is not None
    assert found.settings["sharding"] == "fsdp"
    assert int(str(found.settings["workers"])) > 1


def test_a_pass_that_cannot_be_followed_is_said(sized: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("data-dependent")

    monkeypatch.setattr(memory, "_passes", refuse)
    with pytest.raises(ModelError, match=r"phases\[tune\]: what a pass of BertFor.* holds cannot be counted: data-dep"):
        predict(sized())


def test_cards_are_found_in_any_case_and_others_refused() -> None:
    assert find_card("h100-80") is CARDS["H100-80"]
    with pytest.raises(RecipeError, match=r"--card: got 'H100', allowed are T4-16, .*MI300X-192"):
        find_card("H100")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["bert-66m full, 16 rows by 4", "bert-66m LoRA, 16 rows", "llama-66m LoRA, 8 rows", "full, sgd"]
)
def test_what_is_predicted_is_within_a_tenth_of_what_is_measured(case: str) -> None:
    from benchmarks.memory_table import alone

    predicted, measured = alone(case)
    assert predicted == pytest.approx(measured, rel=0.1)
