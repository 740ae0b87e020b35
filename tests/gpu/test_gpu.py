"""Every path with CUDA in it. The reference is the same work on the processor, which other tests hold against stock
transformers, torch and scikit-learn; a run that was killed is held against one that was not, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.memory_table import measure
from ftlib.errors import Interrupted, TrainingError
from ftlib.evaluation.divergence import token_divergence
from ftlib.evaluation.publish_check import adapter_difference, logit_difference
from ftlib.kinds import packed_attention
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import listen
from ftlib.stages.train import train
from ftlib.training import curves
from ftlib.training.optimizers.adamw import AdamW
from ftlib.workspace import Workspace
from tests.gpu.bench import KINDS, Bench, losses

pytestmark = pytest.mark.gpu

LORA = {"kind": "lora", "rank": 4}


@pytest.fixture(scope="module", params=list(KINDS))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.make(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.make(tmp_path_factory.mktemp("rows"), "labeled")


@pytest.fixture(scope="module")
def ends(
    labeled: Bench, use_gpu: bool, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Checkpoint, Checkpoint]]:
    """Start and end of a phase on the GPU, dense and LoRA."""
    root = tmp_path_factory.mktemp("ends")
    return {
        name: (labeled.start, labeled.train(root / name, use_gpu=use_gpu, tuning=tuning))
        for name, tuning in (("full", {"kind": "full"}), ("lora", LORA))
    }


def agree(there: Checkpoint, here: Checkpoint) -> None:
    """Two devices add in other orders, and AdamW turns the sign of a gradient near zero into a whole step.

    What fails is said in one line: of a long message a lent machine keeps the end alone.
    """
    ours, theirs = np.array(losses(there)), np.array(losses(here))
    assert len(ours) == len(theirs)
    apart = np.abs(ours - theirs) / theirs
    first = int(np.argmax(apart > np.where(np.arange(len(apart)) < 8, 2e-3, 5e-2)))
    assert (apart[:8] < 2e-3).all(), f"at {first}: {ours[first]} there, {theirs[first]} here, of {len(ours)}"
    assert (apart < 5e-2).all(), f"at {first}: {ours[first]} there, {theirs[first]} here, of {len(ours)}"


def test_every_kind_trains_on_the_gpu_as_on_the_processor(bench: Bench, use_gpu: bool, tmp_path: Path) -> None:
    there = bench.train(tmp_path / "there", use_gpu=use_gpu)
    here = bench.train(tmp_path / "here", use_gpu=False)
    agree(there, here)
    assert np.mean(losses(there)[-5:]) < np.mean(losses(there)[:5])


@pytest.mark.parametrize(
    "tuning",
    [
        LORA,
        {"kind": "frozen_layers", "layers": 1},
        {"kind": "gradual_unfreezing"},
        {"kind": "full", "layer_decay": 0.8},
    ],
)
def test_every_tuning_trains_on_the_gpu_as_on_the_processor(
    labeled: Bench, use_gpu: bool, tmp_path: Path, tuning: dict[str, Any]
) -> None:
    there = labeled.train(tmp_path / "there", use_gpu=use_gpu, tuning=tuning, ema_decay=0.8)
    here = labeled.train(tmp_path / "here", use_gpu=False, tuning=tuning, ema_decay=0.8)
    agree(there, here)
    assert there.trained_parameters == here.trained_parameters


def test_the_probe_is_the_same_head(labeled: Bench, use_gpu: bool, tmp_path: Path) -> None:
    heads = [
        load_model(
            labeled.train(tmp_path / str(gpu), use_gpu=gpu, tuning={"kind": "linear_probe"}).path / "model", "labeled"
        ).get_submodule("classifier")
        for gpu in (use_gpu, False)
    ]
    for there, here in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


def test_bf16_learns_what_fp32_learns_and_writes_fp32(bench: Bench, use_gpu: bool, tmp_path: Path) -> None:
    half = bench.train(tmp_path / "half", use_gpu=use_gpu, precision="bf16")
    full = bench.train(tmp_path / "full", use_gpu=use_gpu)
    assert losses(half)[:10] == pytest.approx(losses(full)[:10], rel=0.05)
    assert losses(half) != losses(full)
    assert {p.dtype for p in load_model(half.path / "model", bench.data.kind).parameters()} == {torch.float32}


@pytest.mark.parametrize("micro", [1, 5])
def test_the_split_of_a_batch_does_not_change_the_loss(
    labeled: Bench, use_gpu: bool, tmp_path: Path, micro: int
) -> None:
    whole = labeled.train(tmp_path / "whole", use_gpu=use_gpu)
    split = labeled.train(tmp_path / "split", use_gpu=use_gpu, compute={"micro_batch_size": micro})
    assert losses(split) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.parametrize(("kind", "precision"), [("tokens", "fp32"), ("tokens", "bf16"), ("completions", "bf16")])
def test_packed_rows_on_the_gpu_teach_what_padded_rows_teach(
    kind: str, precision: str, use_gpu: bool, tmp_path: Path
) -> None:
    made = Bench.make(tmp_path / "made", kind)
    padded = made.train(tmp_path / "padded", use_gpu=use_gpu, precision=precision)
    packed = made.train(tmp_path / "packed", use_gpu=use_gpu, precision=precision, compute={"pack_tokens": 256})
    assert losses(packed)[:8] == pytest.approx(losses(padded)[:8], rel=2e-3 if precision == "fp32" else 2e-2)
    assert np.mean(losses(packed)[-5:]) < np.mean(losses(packed)[:5])


@pytest.mark.parametrize("window", [None, 5])
def test_the_kernel_of_packs_is_attention_row_by_row(
    window: int | None, use_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output and gradients, with fewer key heads than query heads, a scale, and borders at odd places."""
    draw, device = torch.Generator().manual_seed(0), "cuda" if use_gpu else "cpu"
    heads = [torch.randn(1, n, 41, 64, generator=draw).to(device, torch.bfloat16).requires_grad_() for n in (6, 2, 2)]
    borders = torch.tensor([0, 1, 20, 23, 41], dtype=torch.int32, device=device)
    module = torch.nn.Module()
    module.num_key_value_groups = 3  # type: ignore[assignment]
    said: list[list[torch.Tensor]] = []
    for has_kernel in (use_gpu, False):
        monkeypatch.setattr(packed_attention, "_has_kernel", lambda *_, has=has_kernel: has)
        found, _ = packed_attention.attend(
            module, *heads, None, scaling=0.1, sliding_window=window, cu_seq_lens_q=borders, max_length_q=19
        )
        assert found.shape == (1, 41, 6, 64)
        said.append([found, *torch.autograd.grad((found.float() * torch.arange(64, device=device)).sum(), heads)])
    for kernel, rows in zip(*said, strict=True):
        torch.testing.assert_close(kernel.float(), rows.float(), rtol=3e-2, atol=3e-2 * float(rows.abs().max()))


@pytest.mark.parametrize("policy", ["selective", "full", 2])
def test_layers_that_are_computed_again_learn_the_same(
    bench: Bench, use_gpu: bool, tmp_path: Path, policy: str | int
) -> None:
    fields: dict[str, Any] = {"use_gpu": use_gpu, "precision": "bf16", "dropout": 0.1}
    whole = bench.train(tmp_path / "whole", **fields)
    again = bench.train(tmp_path / "again", **fields, compute={"activation_checkpointing": policy})
    assert losses(again) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.parametrize("tuning", [{"kind": "full"}, LORA])
def test_compiled_layers_learn_the_same(bench: Bench, use_gpu: bool, tmp_path: Path, tuning: dict[str, Any]) -> None:
    eager = bench.train(tmp_path / "eager", use_gpu=use_gpu, tuning=tuning)
    compiled = bench.train(tmp_path / "compiled", use_gpu=use_gpu, tuning=tuning, compute={"compile": True})
    agree(compiled, eager)


def test_an_adapter_over_a_base_in_bf16_is_merged_into_the_base_of_the_file(
    bench: Bench, use_gpu: bool, tmp_path: Path
) -> None:
    half = bench.train(tmp_path / "half", use_gpu=use_gpu, tuning=LORA, precision="bf16")
    full = bench.train(tmp_path / "full", use_gpu=use_gpu, tuning=LORA)
    assert losses(half)[:10] == pytest.approx(losses(full)[:10], rel=0.05)
    before, after = (load_model(one.path / "model", bench.data.kind).state_dict() for one in (bench.start, half))
    same = [name for name, tensor in before.items() if torch.equal(after[name].cpu(), tensor.cpu())]
    assert any("embed" in name for name in same)
    assert len(same) < len(before)


SCRIPT = """
import sys
from pathlib import Path
from ftlib.stages.train import TrainJob, train
from ftlib.workspace import Workspace
train(TrainJob.model_validate_json(Path(sys.argv[1]).read_text()), Workspace(sys.argv[2]))
"""
STOPPED = {"checkpoint_seconds": 1e-6}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_ends_with_the_same_bits(bench: Bench, use_gpu: bool, tmp_path: Path, precision: str) -> None:
    """With dropout and an average, so that the GPU's own random numbers and every state of the loop count."""
    job = bench.job(use_gpu=use_gpu, precision=precision, dropout=0.1, ema_decay=0.9, early_stopping={"patience": 9})
    whole = train(job, Workspace(tmp_path / "whole"))
    assert train(job, Workspace(tmp_path / "again")).weights == whole.weights

    def stop(progress: object) -> None:
        if getattr(progress, "done", 0) >= 7:
            raise Interrupted("stopped on request")

    stopped = Workspace(tmp_path / "stopped")
    often = job.model_copy(update={"compute": job.compute.model_copy(update=STOPPED)})
    with listen(stop), pytest.raises(Interrupted):
        train(often, stopped)
    resumed = train(job, stopped)
    assert int(resumed.facts["resumed_from_step"]) > 0
    assert resumed.weights == whole.weights
    assert losses(resumed) == losses(whole)


def test_kill_9_and_resume_gives_bit_identical_weights(labeled: Bench, use_gpu: bool, tmp_path: Path) -> None:
    settings = AdamW(learning_rate=1e-3, epochs=12, batch_size=8)
    job = labeled.job(use_gpu=use_gpu, precision="bf16", optimizer=settings, dropout=0.1)
    whole = train(job, Workspace(tmp_path / "whole"))
    often = job.model_copy(update={"compute": job.compute.model_copy(update=STOPPED)})
    (tmp_path / "job.json").write_text(often.model_dump_json())
    killed = Workspace(tmp_path / "killed")
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "job.json"), str(killed.root)])
    folder, deadline = killed.folder(job).with_suffix(".work"), time.monotonic() + 120
    while not (seen := curves.read(folder / curves.FILE)) or seen[-1]["step"] < 20:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = train(job, killed)
    assert 0 < int(resumed.facts["resumed_from_step"]) < int(resumed.facts["steps"])
    assert resumed.weights == whole.weights


def test_a_loss_that_overflows_ends_the_run(labeled: Bench, use_gpu: bool, tmp_path: Path) -> None:
    settings = AdamW(learning_rate=1e30, epochs=1, batch_size=16, warmup=0, clip_norm=None)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step"):
        labeled.train(tmp_path, use_gpu=use_gpu, optimizer=settings)


def test_peak_memory_is_the_gpus(labeled: Bench, use_gpu: bool, ends: dict[str, Any]) -> None:
    facts = ends["full"][1].facts
    # Weights, gradients and two moments of a tiny model; a process with torch in it is hundreds of megabytes.
    assert int(facts["peak_memory_bytes"]) > 4 * 4 * labeled.start.parameters
    assert (int(facts["peak_memory_bytes"]) < 100e6) == use_gpu


def test_every_kind_answers_on_the_gpu_as_on_the_processor(bench: Bench, use_gpu: bool, tmp_path: Path) -> None:
    end = bench.train(tmp_path / "end", use_gpu=False)
    (there,) = bench.ask(tmp_path / "there", [Candidate.of(end)], use_gpu=use_gpu)
    (here,) = bench.ask(tmp_path / "here", [Candidate.of(end)], use_gpu=False)
    assert there.row_ids == here.row_ids
    np.testing.assert_allclose(there.nll, here.nll, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_sweep_on_the_gpu_is_the_sweep_on_the_processor(
    labeled: Bench, ends: dict[str, tuple[Checkpoint, Checkpoint]], use_gpu: bool, tmp_path: Path, tuning: str
) -> None:
    start, end = ends[tuning]
    line = [Candidate.between(start, end, alpha) for alpha in (0.0, 0.3, 1.0)]
    there = labeled.ask(tmp_path / "there", [*line, Candidate.of(start), Candidate.of(end)], use_gpu=use_gpu)
    here = labeled.ask(tmp_path / "here", line, use_gpu=False)
    for ours, theirs in zip(there, here, strict=False):
        np.testing.assert_allclose(ours.nll, theirs.nll, rtol=1e-3, atol=1e-4)
    if tuning == "full":  # an end of the line is the checkpoint itself
        assert there[0].to_parquet() == there[3].to_parquet()
        assert there[2].to_parquet() == there[4].to_parquet()


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_what_the_gpu_trained_passes_the_publish_gate(
    labeled: Bench, ends: dict[str, tuple[Checkpoint, Checkpoint]], tuning: str
) -> None:
    start, end = ends[tuning]
    assert logit_difference(end.path / "model", Candidate.of(end), labeled.data) < 1e-5
    if tuning == "lora":
        assert adapter_difference(end.path / "adapter", start.path / "model", Candidate.of(end), labeled.data) < 1e-3


@torch.inference_mode()
def test_a_padded_batch_on_the_gpu_is_each_row_alone_by_stock_transformers(
    labeled: Bench, ends: dict[str, tuple[Checkpoint, Checkpoint]], use_gpu: bool
) -> None:
    folder = ends["full"][1].path / "model"
    device = torch.device("cuda" if use_gpu else "cpu")
    split = open_split(labeled.data.path / "test.arrow", labeled.start.labels)
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours = load_model(folder, "labeled").to(device)
    batch = split.batch(np.arange(len(split)), Collator.of(ours))
    assert len(set(split.lengths.tolist())) > 1
    logits = ours(**batch.inputs).logits.cpu()
    for row in range(len(split)):
        alone = stock(input_ids=torch.tensor(split.tokens(row)).long()[None]).logits[0]
        torch.testing.assert_close(logits[row], alone, rtol=1e-3, atol=1e-4)


def test_divergence_on_the_gpu_is_that_on_the_processor(
    use_gpu: bool, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = Bench.make(tmp_path_factory.mktemp("texts"), "tokens")
    end = bench.train(tmp_path / "end", use_gpu=use_gpu)
    split = open_split(bench.data.path / "test.arrow", ())
    sums = []
    for device in ("cuda" if use_gpu else "cpu", "cpu"):
        models = [load_model(one.path / "model", "tokens").to(device) for one in (bench.start, end)]
        sums.append(token_divergence(models[0], models[1], split))
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-3, atol=1e-5)
    assert sums[0].min() > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", ["bert-66m full, 16 rows by 4", "llama-66m LoRA, 8 rows"])
def test_what_is_predicted_is_within_a_tenth_of_what_tensors_took(case: str, use_gpu: bool) -> None:
    if not use_gpu:
        pytest.skip("tests/ftlib/training/memory/test_prediction.py measures the processor")
    facts = measure(case, use_gpu=True)
    assert facts["predicted_memory_bytes"] == pytest.approx(facts["measured_memory_bytes"], rel=0.1)
