"""Where and how fast: what does not fit together is said before anything is read, and masters stay fp32."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import OffloadPolicy

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.testing import tiny_recipe
from ftlib.training.compute import Compute
from ftlib.training.group import _policy, _shard, accumulating, backend_of
from ftlib.training.layers import transformer_layers
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.phase import Phase
from ftlib.training.precision import resolve_precision
from ftlib.training.resources import check_bf16
from ftlib.training.tuning.full import Full
from tests.ftlib.training.test_layers import llama, rows


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["replicas=2", "workers=2"], "2 copies of a model in shards, but sharding is ddp; set it to fsdp"),
        (["replicas=3", "workers=4", "sharding=fsdp"], "3 copies cannot have the same number of 4 workers"),
        (["replicas=2", "workers=0", "sharding=fsdp"], "2 copies cannot have the same number of 0 workers"),
        (["replicas=0"], "greater than 0"),
        (["cpu_offload=true", "sharding=fsdp"], "but use_gpu is false; remove it"),
        (["cpu_offload=true", "use_gpu=true"], "but sharding is ddp; set it to fsdp"),
        (["activation_checkpointing=1"], "got 1, allowed are none, selective, full and whole numbers from 2 on"),
        (
            ["activation_checkpointing=some"],
            "got 'some', allowed are none, selective, full and whole numbers from 2 on",
        ),
        (["activation_checkpointing=true"], "got True, allowed are none, selective, full and whole numbers from 2 on"),
        (["compile=3"], "compile"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, settings: list[str], said: str) -> None:
    tiny_recipe(tmp_path)
    (recipe,) = tmp_path.glob("*.yaml")
    with pytest.raises(RecipeError, match=re.escape(said)):
        load_recipe(str(recipe), [f"compute.{one}" for one in settings])


def test_settings_of_compute_are_no_part_of_an_identity() -> None:
    told = Compute(workers=4, sharding="fsdp", replicas=2, activation_checkpointing=2, compile=True)
    assert told.digest() == Compute().digest()


def test_shards_in_the_hosts_memory_are_added_up_there() -> None:
    assert backend_of(Compute()) == "gloo"
    assert backend_of(Compute(use_gpu=True, sharding="fsdp")) == "nccl"
    assert backend_of(Compute(use_gpu=True, sharding="fsdp", cpu_offload=True)) == "cpu:gloo,cuda:nccl"


def test_a_card_without_bf16_is_told_and_auto_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that a card has it where it would emulate it."""
    card = SimpleNamespace(
        is_available=lambda: True,
        is_bf16_supported=lambda including_emulation=True: including_emulation,
        get_device_name=lambda: "Tesla T4",
    )
    monkeypatch.setattr(torch, "cuda", card)
    with pytest.raises(RecipeError, match="bf16, but Tesla T4 does not compute it; set the phase's precision to fp32"):
        check_bf16()
    phase = Phase(name="tune", dataset="d", objective=CausalLM(), tuning=Full())
    assert resolve_precision(phase, Compute(use_gpu=True)) == "fp32"


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_shards_are_fp32_and_compute_in_bf16() -> None:
    """Two micro-batches: each one's gradients are bf16, and their sum is fp32's."""
    seen: set[torch.dtype] = set()

    def look(layer: nn.Linear, given: tuple[torch.Tensor, ...]) -> None:
        seen.update((layer.weight.dtype, given[0].dtype))

    def spread(precision: Any) -> nn.Module:
        model = llama(2, dropout=0.0)
        _shard(model, init_device_mesh("cpu", (1,)), _policy(model, precision), OffloadPolicy())
        return model

    def step(model: nn.Module, micro_batches: int, *, bf16: bool) -> torch.Tensor:
        for i in range(micro_batches):
            with accumulating(model, last=i == micro_batches - 1), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(**rows(), use_cache=False).logits
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows()["input_ids"].flatten())
            loss.backward()
        assert loss.dtype == torch.float32
        return loss.detach()

    model, once, plain = spread("bf16"), spread("bf16"), llama(2, dropout=0.0)
    for layer in transformer_layers(model):
        layer.mlp.down_proj.register_forward_pre_hook(look)
    loss = step(model, 3, bf16=True)
    step(once, 1, bf16=True)
    assert seen == {torch.bfloat16}
    torch.testing.assert_close(loss, step(plain, 1, bf16=True), rtol=5e-3, atol=0)  # autocast over fp32 weights
    for parameter, single in zip(model.parameters(), once.parameters(), strict=True):
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        thrice = 3 * single.grad.full_tensor()  # in bf16 a sum of three is another number
        torch.testing.assert_close(parameter.grad.full_tensor(), thrice, rtol=1e-6, atol=1e-12)


def test_batch_norm_is_gathered_in_the_type_of_its_statistics() -> None:
    assert _policy(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "bf16").param_dtype is None
    assert _policy(nn.Linear(2, 2), "bf16").param_dtype == torch.bfloat16
    assert _policy(nn.Linear(2, 2), "fp32").param_dtype is None


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ({"at_least": 5, "at_most": 4}, "at_most is 4 and at_least 5; give at_most that number or more"),
        ({"at_least": 0, "at_most": 4}, "at_least: Input should be greater than or equal to 1"),
        ({"at_most": 4}, "at_least: Field required"),
        ("four", "got 'four', allowed are a whole number from 0 on, or {at_least: 1, at_most: 4}"),
        (-1, "got -1, allowed are"),
        (True, "got True, allowed are"),
    ],
)
def test_workers_are_a_number_or_two_in_order(workers: object, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Compute.model_validate({"workers": workers})
    (problem,) = caught.value.errors()
    assert said in problem["msg"]


def test_elastic_workers_have_no_copies_of_shards_and_stand_for_no_bytes() -> None:
    elastic = Compute.model_validate({"workers": {"at_least": 2, "at_most": 4}})
    assert (elastic.least_workers, elastic.most_workers, elastic.of_group(3).workers) == (2, 4, 3)
    assert elastic.digest() == Compute(workers=3).digest()
    assert Compute.model_validate_json(elastic.model_dump_json()) == elastic
    assert Compute(workers=3).of_group(3) == Compute(workers=3)
    with pytest.raises(ValidationError, match="2 to 4 workers do not always make 2 copies"):
        Compute.model_validate({**elastic.model_dump(), "sharding": "fsdp", "replicas": 2})
