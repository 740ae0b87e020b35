"""How much memory a rank takes to load and to save a model, over what it trains with: 0.3 B parameters, 1, 2, 4 ranks.

Prints a line a number of ranks, which docs/train-reference.md has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import config_digest, weights_digest
from ftlib.training.checkpoints.resumable import State
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.loops.attempt import Trained
from ftlib.training.loops.phase_model import build_model, place
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.phase import Phase
from ftlib.training.plan import Plan
from ftlib.training.tuning.full import Full
from ftlib.training.worker import _write_result
from tests.ftlib.training.ranks import in_ranks

GB = 10**9


def now(name: str) -> int:
    """Return a line of /proc/self/status, in bytes: RssAnon is this process's own, without mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def peak_over(before: int) -> int:
    return max(0, now("VmHWM") - before)


def forget_peak() -> int:
    """Begin to measure anew, and return what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return now("VmRSS")


def sizes(group: Group, folder: Path) -> dict[str, int]:
    plan = Plan.model_validate_json((folder / "plan.json").read_text())
    plan = plan.model_copy(update={"run": f"{folder}/run{group.world_size}"})
    Path(plan.run).mkdir(exist_ok=True)
    build_model(plan, dropout=None)  # what is imported on the way is not the model's
    empty = forget_peak()
    model: Any = place(build_model(plan, dropout=None)[0], plan.compute, "fp32", group)
    loading = peak_over(empty)
    shard = sum(getattr(p, "_local_tensor", p).nbytes for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.arange(1, 17)[None]  # not the padding: its row of zeros makes gradients overflow
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # what is outside of layers stays gathered for the next step
    held = forget_peak()
    _write_result(plan, Trained(model, State(step=1), frozenset(), {}), group, 0.0)
    return {"shard": shard, "loading": loading - shard, "saving": peak_over(held)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftlib.testing import tiny_lm_tokenizer

    folder = tmp_path_factory.mktemp("large")
    tokenizer = tiny_lm_tokenizer()
    config = LlamaConfig(
        vocab_size=16_000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=16, num_attention_heads=16,
        pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "start" / "model")
    tokenizer.save_pretrained(folder / "start" / "model")
    start = Checkpoint(
        uri=str(folder / "start"), weights=weights_digest(folder / "start" / "model"), parent=None, tokenizer="tiny",
        config=config_digest(folder / "start" / "model"), phase="base", fresh_head=False, labels=(),
        parameters=model.num_parameters(), trained_parameters=0,
    )  # fmt: skip
    plan = Plan(
        fingerprint="f", start=start, parts=(), run="", kind="tokens", labels=(), precision="fp32", seed=1,
        phase=Phase(name="tune", dataset="d", objective=CausalLM(), tuning=Full()),
        compute=Compute(workers=4, threads=1, sharding="fsdp"),
    )  # fmt: skip
    (folder / "plan.json").write_text(plan.model_dump_json())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_rank_loads_and_saves_with_little_more_than_its_shard(folder: Path, world_size: int) -> None:
    for number, said in enumerate(in_ranks(world_size, sizes, folder, folder)):
        print(f"{world_size} ranks, rank {number}: ", {name: f"{size / GB:.3f} GB" for name, size in said.items()})
        assert said["loading"] + said["shard"] <= 1.2 * said["shard"] + GB
        assert said["saving"] <= 1.2 * said["shard"] + GB
