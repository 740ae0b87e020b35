"""A language model on one GPU against Trainer and TRL's SFTTrainer: `python -m benchmarks.gpu_train --model 1b`.

The weights are random and the rows are drawn, so that it needs no network: speed and memory do not depend on what a
model knows. The same rows, starting weights, rate, rows a step and precision for everyone; `benchmarks.gpu_settings`
has every setting. One model a call, and no contestant is begun that might not end within `--seconds`.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import torch

from benchmarks.gpu_contestants import Task
from benchmarks.gpu_settings import DEFAULTS, NAMES, OURS, SIZES, TUNED, Contestant, Size, settings_of
from benchmarks.machine import cores, describe_machine
from benchmarks.rounds import BASELINES, append, fresh_process, interleaved, middle, print_table
from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.prepared import SPLITS, PreparedRow, split_file, write_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import tiny_lm_tokenizer
from ftlib.workspace import RECORD, write_durably

RECORDS = BASELINES / "gpu_train.jsonl"
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16, by the vendors' datasheets: what model FLOPs utilisation (MFU) is a share of."""
TARGETS = {"over_defaults": 1.3, "over_tuned": 1.0}
"""The best of ours over the better of the rivals, by default and tuned."""


@click.command()
@click.option("--model", "name", type=click.Choice(list(SIZES)), default="1b", show_default=True)
@click.option("--repetitions", type=click.IntRange(1), default=1, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(get_args(Contestant)), help="Leave the others out.")
@click.option("--seconds", type=click.FloatRange(1), default=280.0, show_default=True, help="For all of them together.")
@click.option("--cpu", is_flag=True, help="Rehearse on the processor; nothing is added to the baselines.")
def main(name: str, repetitions: int, only: tuple[str, ...], seconds: float, cpu: bool) -> None:
    """Measure tokens/s, memory and the loss; add card, versions, settings and figures to the baselines."""
    if not cpu and not torch.cuda.is_available():
        raise click.UsageError("torch sees no GPU here; --cpu rehearses on the processor")
    names: list[Contestant] = [one for one in get_args(Contestant) if not only or one in only]
    size, budget = SIZES[name], Budget(seconds)
    with tempfile.TemporaryDirectory() as folder:
        start = _model(Path(folder) / "start", size, use_gpu=not cpu)
        data = _rows(Path(folder) / "data", size)

        def measure(contestant: str, repetition: int) -> dict[str, Any]:
            task = Task.model_validate(
                {
                    "contestant": contestant,
                    "size": name,
                    "start": start.uri,
                    "data": data.uri,
                    "batch_size": size.batch_size,
                    "use_gpu": not cpu,
                    "precision": "fp32" if cpu else "bf16",
                    "seed": 0,
                    "threads": cores(),
                }
            )
            asked = task.model_dump(mode="json")
            return budget.spend(lambda: fresh_process("benchmarks.gpu_contestants", asked, threads=cores()))

        outcomes = interleaved(names, repetitions, measure)
    failed = {one: found[0]["failed"] for one, found in outcomes.items() if "failed" in found[0]}
    outcomes = {one: found for one, found in outcomes.items() if not any("failed" in each for each in found)}
    settings = {
        "model": name,
        "parameters": start.parameters,
        "steps": size.steps,
        "batch_size": size.batch_size,
        "tokens": data.splits["train"].tokens,
        "longest": size.longest,
        "repetitions": repetitions,
        "targets": {**TARGETS, "tokens_per_second": size.at_least},
        "contestants": {one: settings_of(one, size) for one in names},
        "failed": failed,
        **describe_machine(),
    }
    ratios = figures(outcomes, start.parameters, size, str(settings["gpu"]))
    title = f"{name}: {start.parameters / 1e9:.2f} B parameters, {settings['tokens']:,} tokens in {size.steps} steps"
    _print(outcomes, ratios, failed, title)
    record = {"benchmark": "gpu_train", "ratios": ratios, "settings": settings}
    print(json.dumps(record))
    if not cpu:
        append(RECORDS, record)


class Budget:
    """Seconds that are spent by calls of about the same length."""

    def __init__(self, seconds: float) -> None:
        self._ends, self._longest = time.monotonic() + seconds, 0.0

    def spend(self, measure: Any) -> dict[str, Any]:
        """Return what a call does, or why it has nothing to say: a contestant that fails does not end the others."""
        if time.monotonic() + self._longest > self._ends:
            return {"failed": "not begun: there was no time left"}
        began = time.monotonic()
        try:
            return measure()
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return {"failed": lines[-1][:300]}
        finally:
            self._longest = max(self._longest, time.monotonic() - began)


def figures(outcomes: dict[str, list[dict[str, Any]]], parameters: int, size: Size, gpu: str) -> dict[str, Any]:
    """Return the medians, MFU where the card's peak is known, the ratios, and each one's first loss curve."""
    keys = ("tokens_per_second", "peak_gpu_bytes", "seconds_before_step_2", "seconds_after_last_step", "held_out_loss")
    found: dict[str, Any] = {
        key: {name: round(middle(values, key), 4) for name, values in outcomes.items() if key in values[0]}
        for key in keys
    }
    speed = found["tokens_per_second"]
    if peak := next((flops for card, flops in PEAK_FLOPS.items() if card in gpu), None):
        found["mfu"] = {name: round(size.flops * parameters * rate / peak, 4) for name, rate in speed.items()}
    ours = max((speed[name] for name in OURS if name in speed), default=None)
    for claim, rivals in (("over_defaults", DEFAULTS), ("over_tuned", TUNED)):
        theirs = max((speed[name] for name in rivals if name in speed), default=None)
        if ours and theirs:
            found[claim] = round(ours / theirs, 3)
    for series in ("losses", "grad_norms"):
        found[series] = {name: [round(one, 4) for one in values[0][series]] for name, values in outcomes.items()}
    if "reglage" in outcomes and len(outcomes["reglage"]) > 1:
        found["same_weights_every_time"] = len({one["weights"] for one in outcomes["reglage"]}) == 1
    return found


def _model(folder: Path, size: Size, *, use_gpu: bool) -> Checkpoint:
    """Write a Llama of random weights and return it as a checkpoint; for an adapter in bf16, as large ones come."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **size.config,
        max_position_embeddings=size.longest,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if use_gpu else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16 if size.lora and use_gpu else torch.float32)
    model.save_pretrained(folder / "model")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    del model  # or the card would be short of it
    if use_gpu:
        torch.cuda.empty_cache()
    tiny_lm_tokenizer().save_pretrained(folder / "model")
    made = Checkpoint(
        uri=str(folder),
        weights="drawn with seed 0",
        parent=None,
        tokenizer="tiny",
        phase="base",
        fresh_head=False,
        labels=(),
        parameters=parameters,
        trained_parameters=0,
    )
    write_durably(folder / RECORD, made.model_dump_json().encode())
    return made


def _rows(folder: Path, size: Size) -> PreparedDataset:
    """Write rows whose lengths spread as documents' do (log-normal) and whose tokens are Zipf's."""
    folder.mkdir(parents=True)
    draw, longest, count = np.random.default_rng(0), size.longest, size.steps * size.batch_size
    share = 1.0 / np.arange(1, size.config["vocab_size"] - 2)
    wanted = {"train": count, "validation": 0, "test": 32}
    facts = {}
    for split in SPLITS:
        lengths = np.clip(draw.lognormal(np.log(longest / 3), 0.7, wanted[split]).astype(int), 16, longest)
        rows = [
            PreparedRow(
                f"{split}-{i}",
                {"input_ids": (3 + draw.choice(len(share), length, p=share / share.sum())).tolist()},
                supervised=int(length) - 1,
            )
            for i, length in enumerate(lengths)
        ]
        write_split(split_file(folder, split), "tokens", rows)
        tokens = int(lengths.sum())
        facts[split] = SplitFacts(
            rows=len(rows),
            tokens=tokens,
            supervised=tokens - len(rows),
            truncated=0,
            longest=int(lengths.max(initial=0)),
            labels={},
        )
    made = PreparedDataset(
        uri=str(folder),
        content="drawn with seed 0",
        kind="tokens",
        labels=(),
        splits=facts,
        ledger=Ledger(rows_in=count, kept=count),
        leaked=0,
        tokenizer="tiny",
    )
    write_durably(folder / RECORD, made.model_dump_json().encode())
    return made


def _print(
    outcomes: dict[Contestant, list[dict[str, Any]]], ratios: dict[str, Any], failed: dict[Contestant, str], title: str
) -> None:
    rows = [
        [
            NAMES[name],
            f"{middle(found, 'tokens_per_second'):,.0f}",
            f"{ratios['mfu'][name]:.1%}" if "mfu" in ratios else "-",
            f"{middle(found, 'peak_gpu_bytes') / (1 << 30):.1f}",
            f"{middle(found, 'seconds_before_step_2'):.1f}",
            f"{middle(found, 'seconds_after_last_step'):.1f}",
            f"{found[0]['losses'][0]:.3f} to {found[0]['losses'][-1]:.3f}",
            f"{middle(found, 'held_out_loss'):.4f}" if "held_out_loss" in found[0] else "-",
        ]
        for name, found in outcomes.items()
    ]
    columns = ("", "tokens/s", "MFU", "peak GiB", "s before step 2", "s after the last", "loss", "held-out loss")
    print_table(title, columns, rows)
    for name, reason in failed.items():
        print(f"{NAMES[name]}: {reason}")


if __name__ == "__main__":
    main()
