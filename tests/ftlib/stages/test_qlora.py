"""Adapters over a base in four bits: against stock transformers and peft, and what becomes of the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import TrainingError
from ftlib.kinds.loading import load, load_model
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.folder import find_model
from ftlib.models.four_bits import FILE, FourBits, layers_to_quantize
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.quantize import QuantizeJob, quantize
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_causal_lm, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

ROWS, STEPS, SEED = 16, 4, 7


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[FoundModel, Checkpoint, Checkpoint, PreparedDataset]:
    root = tmp_path_factory.mktemp("qlora")
    data = tiny_prepared(root / "data", {"train": tiny_rows(ROWS)}, kind="tokens")
    found = find_model(ModelRef(path=str(tiny_causal_lm(root / "tiny", hidden=64))))
    start = base(
        BaseJob(model=find_model(ModelRef(path=found.name)), kind="tokens", labels=(), seed=1), Workspace(root)
    )
    rounded = quantize(QuantizeJob(start=start, kind="tokens", quantization="nf4_double"), Workspace(root))
    return found, start, rounded, data


def trained(root: Path, start: Checkpoint, data: PreparedDataset, compute: Any = None, **tuning: Any) -> Checkpoint:
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "rows",
            "objective": {"kind": "causal_lm"},
            "tuning": {"kind": "qlora", "rank": 2, "alpha": 8.0, **tuning},
            "optimizer": {
                **{"learning_rate": 1e-2, "epochs": STEPS, "batch_size": ROWS, "schedule": "constant", "warmup": 0.0},
                **{"weight_decay": 0.0, "clip_norm": None},
            },
            "precision": "fp32",
        }
    )
    job = TrainJob(
        start=start,
        data=data,
        phase=phase,
        precision="fp32",
        seed=SEED,
        compute=Compute.model_validate({"workers": 0, "threads": 1, **(compute or {})}),
    )
    return train(job, Workspace(root))


def losses(checkpoint: Checkpoint) -> list[float]:
    return [record["loss"] for record in curves.read(checkpoint.path / curves.FILE) if "loss" in record]


def test_the_start_is_the_base_rounded_and_says_how_far_it_is(
    given: tuple[FoundModel, Checkpoint, Checkpoint, PreparedDataset],
) -> None:
    found, start, rounded, _ = given
    stock: Any = AutoModelForCausalLM.from_pretrained(
        found.uri,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
    ).dequantize()
    before, after = load_model(start.folder, "tokens"), load_model(rounded.folder, "tokens")
    theirs = dict(stock.named_parameters())
    off = size = 0.0
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(new, theirs[name]), name
        if "_proj" not in name:
            assert torch.equal(old, new), name
        else:
            off += float((old - new).detach().double().square().sum())
            size += float(old.detach().double().square().sum())
    assert rounded.facts["relative_error_of_rounding"] == pytest.approx((off / size) ** 0.5)
    assert rounded.facts["rounded_parameters"] == sum(p.numel() for n, p in before.named_parameters() if "_proj" in n)
    assert (rounded.parent, rounded.phase, rounded.form) == (start.weights, "base-4bit", "dense")
    held = (rounded.path / FILE).stat().st_size
    assert held < 0.6 * int(rounded.facts["rounded_parameters"])


@pytest.mark.parametrize("keep", [pytest.param("merged", marks=pytest.mark.slow), "adapter"])
def test_it_learns_as_stock_peft_does_over_stock_four_bits(
    given: tuple[FoundModel, Checkpoint, Checkpoint, PreparedDataset], tmp_path: Path, keep: str
) -> None:
    found, _, rounded, data = given
    end = trained(tmp_path, rounded, data, keep=keep)
    torch.manual_seed(SEED)
    stock: Any = AutoModelForCausalLM.from_pretrained(
        found.uri,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    torch.manual_seed(SEED)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=8, target_modules="all-linear")
    model: Any = peft.get_peft_model(stock, config).train()  # asked in eval mode it computes in bf16 on CPUs
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    rows = [
        torch.tensor(row)
        for row in pa.ipc.open_file(split_file(data.path, "train")).read_all()["input_ids"].to_pylist()
    ]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.stack([torch.arange(ids.shape[1]) < len(row) for row in rows])
    said: list[float] = []
    for _ in range(STEPS):
        loss = model(input_ids=ids, attention_mask=mask.long(), labels=ids.masked_fill(~mask, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        said.append(float(loss))
    np.testing.assert_allclose(losses(end), said, rtol=1e-5)
    assert said[-1] < said[0] - 0.1
    # Theirs re-quantises when it merges; ours is what the four bits stand for, and the product beside it.
    ours = load(end, "tokens")
    torch.testing.assert_close(ours(input_ids=ids).logits, model(input_ids=ids).logits, rtol=0, atol=2e-5)
    if keep == "adapter":  # the base that it stands on there is rounded already
        assert json.loads((end.folder / "base.json").read_text()).keys() == {"name", "weights"}
    assert end.trained_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_nothing_but_the_adapter_moves_and_merging_adds_it_to_the_rounded_base(
    given: tuple[FoundModel, Checkpoint, Checkpoint, PreparedDataset], tmp_path: Path
) -> None:
    _, _, rounded, data = given
    end = trained(tmp_path, rounded, data, targets=["q_proj", "down_proj"])
    before, after = (load_file(one.folder / "model.safetensors") for one in (rounded, end))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "q_proj" in name or "down_proj" in name}
    adapter = load_file(end.path / "adapter" / "adapter_model.safetensors")
    for name in moved:
        a, b = (adapter[f"base_model.model.{name.removesuffix('weight')}lora_{one}.weight"] for one in "AB")
        torch.testing.assert_close(after[name], before[name] + 4.0 * b @ a)


@pytest.mark.slow
def test_less_is_held_while_it_trains_and_it_is_predicted(
    given: tuple[FoundModel, Checkpoint, Checkpoint, PreparedDataset], tmp_path: Path
) -> None:
    """The weights' part of the prediction, against the tensors of the layers counted by hand."""
    _, start, rounded, data = given
    end = trained(tmp_path, rounded, data)
    model = load_model(start.folder, "tokens")
    layers = layers_to_quantize(model, ["lm_head"])
    four = {name: FourBits.of(layer.weight.detach(), "nf4_double") for name, layer in layers.items()}
    whole = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    held = sum(sum(part.nbytes for part in one.parts.values()) + 4 * 256 for one in four.values())
    expected = whole - sum(layer.weight.nbytes for layer in layers.values()) + held + 4 * end.trained_parameters
    assert end.facts["predicted_weights_bytes"] == expected


@pytest.mark.slow
def test_the_split_of_a_batch_changes_nothing(
    given: tuple[FoundModel, Checkpoint, Checkpoint, PreparedDataset], tmp_path: Path
) -> None:
    _, _, rounded, data = given
    one = trained(tmp_path / "one", rounded, data)
    split = trained(tmp_path / "split", rounded, data, {"micro_batch_size": 5, "activation_checkpointing": "full"})
    np.testing.assert_allclose(losses(split), losses(one), rtol=1e-5)


@pytest.mark.slow
def test_a_start_whose_values_are_not_those_of_its_four_bits_is_found(
    given: tuple[FoundModel, Checkpoint, Checkpoint, PreparedDataset], tmp_path: Path
) -> None:
    """What is trained over is compared with what is merged into, bit for bit."""
    _, start, rounded, data = given
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    (swapped / "model").symlink_to(start.folder)
    (swapped / FILE).symlink_to(rounded.path / FILE)
    with pytest.raises(TrainingError, match="frozen parameters moved"):
        trained(tmp_path, start.model_copy(update={"uri": str(swapped)}), data)
