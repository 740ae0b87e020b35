"""Models that are read, compared and written in parts, against stock transformers and peft, which do it in one piece.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ftlib.errors import ModelError, StorageError, TrainingError
from ftlib.kinds.loading import head_modules, load, merged
from ftlib.kinds.writing import save_adapter, save_model
from ftlib.models import tensor_parts
from ftlib.models.adapter import base_of
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import config_digest, tensor_spans, weights_digest
from ftlib.models.unread import Unread, unread_names
from ftlib.testing import LABELS, tiny_adapter, tiny_checkpoint, tiny_image_classifier
from ftlib.training.checkpoints import saving
from ftlib.training.checkpoints.resumable import State
from ftlib.training.checkpoints.shards import whole
from ftlib.training.compute import Compute
from ftlib.training.group import Group, own_part
from ftlib.training.loops.attempt import Trained
from ftlib.training.loops.phase_model import build_model, place
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.objectives.classification import Classification
from ftlib.training.phase import Phase
from ftlib.training.plan import Plan
from ftlib.training.tuning.frozen_layers import FrozenLayers
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.training.worker import RESULT, _write_result
from tests.ftlib.training.ranks import in_ranks

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))


def make_plan(start: Checkpoint, run: Path, tuning: Any, kind: str = "labeled", **compute: Any) -> Plan:
    objective = CausalLM() if kind == "tokens" else Classification()
    phase = Phase(name="tune", dataset="d", objective=objective, tuning=tuning)
    return Plan(
        fingerprint="f", start=start, parts=(), run=str(run), kind=cast(Any, kind), labels=start.labels, phase=phase,
        precision="fp32", seed=3, compute=Compute(workers=2, threads=1, **compute),
    )  # fmt: skip


def image_checkpoint(folder: Path) -> Checkpoint:
    model = tiny_image_classifier(folder / "model", "efficientnet", LABELS)
    return Checkpoint(
        uri=str(folder), weights=weights_digest(model), parent=None, tokenizer="tiny", config=config_digest(model),
        phase="base", fresh_head=False, labels=LABELS, parameters=1, trained_parameters=0,
    )  # fmt: skip


def tied(folder: Path) -> Checkpoint:
    """A Llama whose embeddings are its head too, and whose file has them once."""
    start = tiny_checkpoint(folder, labels=())
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    file = folder / "model" / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if n != "lm_head.weight"}, file, metadata={"format": "pt"})
    return start


def cases(folder: Path) -> dict[str, Plan]:
    """Make plans of many families and tunings; each run's folder is its name."""
    bert, llama = tiny_checkpoint(folder / "bert"), tiny_checkpoint(folder / "llama", labels=())
    over = tiny_adapter(folder / "over", bert)
    lora = LoRA(rank=2, alpha=4)
    made: dict[str, tuple[Checkpoint, Any, str]] = {
        "encoder": (bert, Full(), "labeled"),
        "frozen": (bert, FrozenLayers(layers=1), "labeled"),
        "decoder": (llama, Full(), "tokens"),
        "tied": (tied(folder / "tied"), Full(), "tokens"),
        "batch_norm": (image_checkpoint(folder / "images"), Full(), "labeled_images"),
        "lora": (bert, lora, "labeled"),
        "lora_lm": (llama, lora, "tokens"),
        "dora": (bert, LoRA(rank=2, alpha=4, use_dora=True), "labeled"),
        "adapter": (bert, LoRA(rank=2, alpha=4, keep="adapter"), "labeled"),
        "going_on": (over, LoRA(rank=2, alpha=4, targets=("query", "value"), keep="adapter"), "labeled"),
        "merged_first": (over, Full(), "labeled"),
    }
    return {name: make_plan(start, folder / name, tuning, kind) for name, (start, tuning, kind) in made.items()}


def stock(plan: Plan) -> nn.Module:
    """Build the phase's model as it was before anything was read in parts: whole, by `from_pretrained`."""
    torch.manual_seed(plan.seed)
    model = load(plan.start, plan.kind)
    if plan.phase.tuning.leaves == "dense":
        model = merged(model)
    return plan.phase.tuning.prepare(model, plan.kind, head_modules(model))


@torch.no_grad()
def move(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            own_part(parameter).mul_(1.25).add_(0.125)


def write_by_stock(plan: Plan, folder: Path) -> None:
    model = stock(plan)
    move(model)
    if plan.phase.tuning.leaves == "adapter":
        save_adapter(model, folder / "model", plan.start.folder, base_of(plan.start))
        return
    if hasattr(model, "peft_config"):
        cast(Any, model).save_pretrained(folder / "adapter")
        model = cast(Any, model).merge_and_unload(safe_merge=True)
    save_model(model, folder / "model", plan.labels, plan.start.folder)


def in_parts(plan: Plan, group: Group) -> None:
    """Read, compare with stock, move what trains, and write."""
    expected = stock(plan)
    placed = place(build_model(plan, dropout=None)[0], plan.compute, "fp32", group).eval()
    for name, tensor in (*expected.named_parameters(), *expected.named_buffers()):
        found = placed.get_parameter(name) if isinstance(tensor, nn.Parameter) else placed.get_buffer(name)
        assert torch.equal(whole(found), tensor.detach()), name
        assert found.requires_grad == tensor.requires_grad
    move(placed)
    Path(plan.run).mkdir(parents=True, exist_ok=True)
    _write_result(plan, Trained(placed, State(step=2), frozenset(), {}), group, 0.0)


def assert_same_files(found: Path, expected: Path) -> None:
    for path in (path for path in expected.rglob("*") if path.is_file() and path.name != "README.md"):
        same = found / path.relative_to(expected)
        if path.name == "adapter_config.json":
            said = (json.loads(file.read_text()) for file in (same, path))
            first, second = ({**one, "target_modules": sorted(one["target_modules"])} for one in said)
            assert first == second
        else:
            assert same.read_bytes() == path.read_bytes(), path


def each_in_parts(group: Group, plans: list[Plan]) -> None:
    for plan in plans:
        for sharding in ("ddp", "fsdp"):
            compute = plan.compute.model_copy(update={"sharding": sharding, "workers": group.world_size})
            in_parts(plan.model_copy(update={"compute": compute, "run": f"{plan.run}-{sharding}"}), group)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    return cases(tmp_path_factory.mktemp("plans"))


@pytest.mark.parametrize("world_size", [pytest.param(each, marks=pytest.mark.slow) for each in (2, 4)])
def test_ranks_read_and_write_what_transformers_and_peft_would(
    tmp_path: Path, plans: dict[str, Plan], world_size: int
) -> None:
    """Every file, to the byte; every tensor in memory, to the bit."""
    for name, plan in plans.items():
        write_by_stock(plan, tmp_path / "stock" / name)
    moved = [plan.model_copy(update={"run": str(tmp_path / name)}) for name, plan in plans.items()]
    in_ranks(world_size, each_in_parts, tmp_path, moved)
    for name in plans:
        for sharding in ("ddp", "fsdp"):
            assert_same_files(tmp_path / f"{name}-{sharding}", tmp_path / "stock" / name)
            assert (tmp_path / f"{name}-{sharding}" / RESULT).is_file()


def test_one_process_reads_and_writes_the_same_in_small_pieces(
    tmp_path: Path, plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tensor_parts, saving):
        monkeypatch.setattr(module, "PIECE_BYTES", 1000)
    for name in ("tied", "batch_norm", "dora", "merged_first"):
        plan = plans[name].model_copy(update={"run": str(tmp_path / name)})
        in_parts(plan, ALONE)
        write_by_stock(plan, tmp_path / "stock" / name)
        assert_same_files(tmp_path / name, tmp_path / "stock" / name)


def test_a_model_is_cut_into_the_files_that_transformers_would_write(
    tmp_path: Path, plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlib.kinds.writing.SHARD_SIZE", 40_000)
    monkeypatch.setattr(saving, "SHARD_SIZE", 40_000)
    plan = plans["encoder"].model_copy(update={"run": str(tmp_path / "parts")})
    in_parts(plan, ALONE)
    write_by_stock(plan, tmp_path / "stock")
    assert len([*(tmp_path / "stock" / "model").glob("*.safetensors")]) > 2
    assert_same_files(tmp_path / "parts", tmp_path / "stock")


def test_a_family_whose_files_have_other_tensors_is_written_whole(
    tmp_path: Path, plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_layout", lambda *_: None)
    for name in ("tied", "lora"):
        plan = plans[name].model_copy(update={"run": str(tmp_path / name)})
        in_parts(plan, ALONE)
        write_by_stock(plan, tmp_path / "stock" / name)
        assert_same_files(tmp_path / name, tmp_path / "stock" / name)


def test_no_weight_is_read_before_the_model_is_placed(plans: dict[str, Plan]) -> None:
    """Of LoRA over a base, memory is taken by the adapter, the head that trains, and buffers."""
    tuned, _ = build_model(plans["lora"], dropout=None)
    unread = unread_names(tuned)
    assert {name for name, p in tuned.named_parameters() if p.requires_grad}.isdisjoint(unread)
    assert all(p.untyped_storage().nbytes() == 4 for p in tuned.parameters() if isinstance(p, Unread))
    frozen = {name for name, p in tuned.named_parameters() if not p.requires_grad}
    assert unread == frozen


def damaged(start: Checkpoint, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Checkpoint:
    shutil.copytree(start.path, folder)
    tensors = load_file(folder / "model" / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    return start.model_copy(update={"uri": str(folder)})


def test_what_is_wrong_with_a_base_is_said_as_ever(tmp_path: Path, plans: dict[str, Plan]) -> None:
    def lack(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["bert.pooler.dense.weight"]

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.pooler.dense.weight"][0, :3] = float("nan")

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.pooler.dense.bias"] = tensors["bert.pooler.dense.bias"][:5].clone()

    plan = plans["encoder"]
    for change, words in (
        (lack, r"lacks 1 tensor, among them bert\.pooler\.dense\.weight"),
        (cut, r"lacks 1 tensor, among them bert\.pooler\.dense\.bias"),
        (spoil, r"tensor 'bert\.pooler\.dense\.weight' holds NaN or infinity, 3 of 1024 values"),
    ):
        broken = plan.model_copy(update={"start": damaged(plan.start, tmp_path / change.__name__, change)})
        with pytest.raises(ModelError, match=words):
            place(build_model(broken, dropout=None)[0], broken.compute, "fp32", ALONE)


def test_tied_weights_stay_one_parameter_and_are_saved_once(plans: dict[str, Plan]) -> None:
    plan = plans["tied"]
    model = cast(Any, place(build_model(plan, dropout=None)[0], plan.compute, "fp32", ALONE))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_tied_weight_that_a_file_has_twice_is_tied_all_the_same(tmp_path: Path, plans: dict[str, Plan]) -> None:
    def twice(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    plan = plans["tied"]
    plan = plan.model_copy(update={"start": damaged(plan.start, tmp_path / "twice", twice)})
    model = cast(Any, place(build_model(plan, dropout=None)[0], plan.compute, "fp32", ALONE))
    assert model.lm_head.weight is model.model.embed_tokens.weight


class Reads(Full):
    """A tuning that wants a weight's values before they are read."""

    def prepare(self, model: nn.Module, kind: Any, head: Any) -> nn.Module:
        pooler = cast(Any, model).bert.pooler.dense
        pooler.bias = nn.Parameter(pooler.weight.sum(dim=1))
        return super().prepare(model, kind, head)


def test_a_tuning_that_computes_with_unread_weights_is_told(plans: dict[str, Plan]) -> None:
    plan = plans["encoder"]
    phase = plan.phase.model_copy(update={"tuning": Reads()})
    with pytest.raises(ModelError, match=r"computes bert\.pooler\.dense\.bias from weights, which are not read yet"):
        build_model(plan.model_copy(update={"phase": phase}), dropout=None)


def test_what_moved_though_frozen_is_found_in_parts(tmp_path: Path, plans: dict[str, Plan]) -> None:
    plan = plans["frozen"].model_copy(update={"run": str(tmp_path)})
    placed = place(build_model(plan, dropout=None)[0], plan.compute, "fp32", ALONE)
    move(placed)
    with torch.no_grad():
        placed.get_parameter("bert.encoder.layer.0.output.dense.weight").view(-1)[-1].add_(1e-6)
    trained = Trained(placed, State(step=2), frozenset(), {})
    with pytest.raises(TrainingError, match=r"frozen parameters moved: bert\.encoder\.layer\.0\.output\.dense\.weight"):
        _write_result(plan, trained, ALONE, 0.0)
    assert not (tmp_path / "model").exists()


def test_a_save_that_a_full_disk_ends_is_no_model_and_the_next_writes_all_of_it(
    tmp_path: Path, plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans["encoder"].model_copy(update={"run": str(tmp_path / "run")})
    pwrite, left = os.pwrite, [20]

    def full(descriptor: int, data: Any, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, os.strerror(28))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=r"No space left on device.*are needed and .* are free"):
        in_parts(plan, ALONE)
    assert not (tmp_path / "run" / RESULT).exists()
    with pytest.raises(ModelError, match=r"is not a safetensors file|damaged"):  # as after a kill: no header yet
        tensor_spans(tmp_path / "run" / "model")
    monkeypatch.setattr(os, "pwrite", pwrite)
    in_parts(plan, ALONE)
    write_by_stock(plan, tmp_path / "stock")
    assert_same_files(tmp_path / "run", tmp_path / "stock")
