"""Training a language model on one GPU against transformers' Trainer: `python -m benchmarks.gpu_train --model 1b`.

The weights are random and the rows are drawn, so that it needs no network: speed and memory do not depend on what a
model knows. The same rows, starting weights, rate, batch size and precision (bf16 over fp32 weights) for everyone.
"""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import torch

from benchmarks.gpu_contestants import Contestant, Task
from benchmarks.machine import cores, describe_machine
from benchmarks.rounds import fresh_process, interleaved, middle, print_table
from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.prepared import SPLITS, PreparedRow, split_file, write_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import tiny_lm_tokenizer
from ftlib.workspace import RECORD, write_durably

BASELINES = Path(__file__).parent / "baselines" / "gpu_train.jsonl"
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16, by the vendors' datasheets: what model FLOPs utilisation (MFU) is a share of."""
TARGETS = {"over_tuned_trainer": 1.0}

NAMES = {
    "reglage": "Réglage, in process",
    "trainer": "Trainer, bf16",
    "trainer_tuned": "Trainer, bf16, group_by_length, loader processes",
}
SIZES: dict[str, dict[str, int]] = {
    # The shape of Llama 3.2 1B with a smaller vocabulary: 1.04 billion parameters.
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "vocab_size": 32_000},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 500},
}


@click.command()
@click.option("--model", "size", type=click.Choice(list(SIZES)), default="1b", show_default=True)
@click.option("--steps", type=click.IntRange(2), default=40, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--longest", type=click.IntRange(32), default=1024, show_default=True, help="Tokens of the longest rows.")
@click.option("--repetitions", type=click.IntRange(1), default=1, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(get_args(Contestant)), help="Leave the others out.")
@click.option("--cpu", is_flag=True, help="Rehearse on the processor; nothing is added to the baselines.")
def main(
    size: str, steps: int, batch_size: int, longest: int, repetitions: int, only: tuple[str, ...], cpu: bool
) -> None:
    """Measure tokens/s, memory and seconds around the steps; add card, versions and figures to the baselines."""
    if not cpu and not torch.cuda.is_available():
        raise click.UsageError("torch sees no GPU here; --cpu rehearses on the processor")
    names = [name for name in get_args(Contestant) if name in (only or NAMES)]
    with tempfile.TemporaryDirectory() as folder:
        start = _model(Path(folder) / "start", SIZES[size], longest, use_gpu=not cpu)
        data = _rows(Path(folder) / "data", steps * batch_size, longest, SIZES[size]["vocab_size"])

        def measure(name: str, repetition: int) -> dict[str, Any]:
            task = Task.model_validate(
                {
                    "contestant": name,
                    "start": start.uri,
                    "data": data.uri,
                    "batch_size": batch_size,
                    "epochs": 1.0,
                    "use_gpu": not cpu,
                    "precision": "fp32" if cpu else "bf16",
                    "seed": 0,
                    "threads": cores(),
                }
            )
            return fresh_process("benchmarks.gpu_contestants", task.model_dump(mode="json"), threads=cores())

        outcomes = interleaved(names, repetitions, measure)
    tokens = data.splits["train"].tokens
    settings = {
        "model": size,
        "parameters": start.parameters,
        "steps": steps,
        "batch_size": batch_size,
        "tokens": tokens,
        "repetitions": repetitions,
        "targets": TARGETS,
        **describe_machine(),
    }
    ratios = figures(outcomes, start.parameters, str(settings["gpu"]))
    _print(
        outcomes,
        ratios,
        f"{start.parameters / 1e9:.2f} B parameters, {steps} steps of {batch_size} rows, {tokens} tokens",
    )
    record = json.dumps({"benchmark": "gpu_train", "ratios": ratios, "settings": settings})
    print(record)
    if not cpu:
        BASELINES.parent.mkdir(exist_ok=True)
        with BASELINES.open("a") as stream:
            stream.write(json.dumps({"when": f"{datetime.now(UTC):%Y-%m-%d}", **json.loads(record)}) + "\n")


def figures(outcomes: dict[str, list[dict[str, Any]]], parameters: int, gpu: str) -> dict[str, Any]:
    """Return the medians, MFU (6 FLOPs a parameter and token) where the card's peak is known, and the ratios."""
    keys = ("tokens_per_second", "peak_gpu_bytes", "seconds_before_step_2", "seconds_after_last_step", "held_out_loss")
    found: dict[str, Any] = {
        key: {name: round(middle(values, key), 4) for name, values in outcomes.items()} for key in keys
    }
    speed = found["tokens_per_second"]
    if peak := next((flops for card, flops in PEAK_FLOPS.items() if card in gpu), None):
        found["mfu"] = {name: round(6 * parameters * rate / peak, 4) for name, rate in speed.items()}
    for other, claim in (("trainer", "over_trainer"), ("trainer_tuned", "over_tuned_trainer")):
        if "reglage" in speed and other in speed:
            found[claim] = round(speed["reglage"] / speed[other], 3)
    if "reglage" in outcomes and len(outcomes["reglage"]) > 1:
        found["same_weights_every_time"] = len({one["weights"] for one in outcomes["reglage"]}) == 1
    return found


def _model(folder: Path, size: dict[str, int], longest: int, *, use_gpu: bool) -> Checkpoint:
    """Write a Llama of random weights and return it as a checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **size,
        num_attention_heads=size["hidden_size"] // 64 or 1,
        num_key_value_heads=max(1, size["hidden_size"] // 256),
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if use_gpu else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    tiny_lm_tokenizer().save_pretrained(folder / "model")
    made = Checkpoint(
        uri=str(folder),
        weights="drawn with seed 0",
        parent=None,
        tokenizer="tiny",
        phase="base",
        fresh_head=False,
        labels=(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_parameters=0,
    )
    write_durably(folder / RECORD, made.model_dump_json().encode())
    return made


def _rows(folder: Path, count: int, longest: int, vocabulary: int) -> PreparedDataset:
    """Write rows whose lengths spread as documents' do (log-normal) and whose tokens are Zipf's."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    share = 1.0 / np.arange(1, vocabulary - 2)
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


def _print(outcomes: dict[str, list[dict[str, Any]]], ratios: dict[str, Any], title: str) -> None:
    rows = [
        [
            NAMES[name],
            f"{middle(found, 'tokens_per_second'):,.0f}",
            f"{ratios['mfu'][name]:.1%}" if "mfu" in ratios else "-",
            f"{middle(found, 'peak_gpu_bytes') / (1 << 30):.1f}",
            f"{middle(found, 'seconds_before_step_2'):.1f}",
            f"{middle(found, 'seconds_after_last_step'):.1f}",
            f"{middle(found, 'held_out_loss'):.4f}",
        ]
        for name, found in outcomes.items()
    ]
    columns = ("", "tokens/s", "MFU", "peak GiB", "s before step 2", "s after the last", "held-out loss")
    print_table(title, columns, rows)


if __name__ == "__main__":
    main()
