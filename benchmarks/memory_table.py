"""Memory of a worker, predicted beside measured, on this machine's CPU: the table of docs/plan.md.

    python -m benchmarks.memory_table [NAME...]
    python -m benchmarks.memory_table --every [OPTIMISER...]    # each tuning by each, on one model; recorded
    python -m benchmarks.memory_table --page                    # the records' table, to docs/plan.md

Each case trains a model of random weights for some steps in a process of its own. About five minutes on two cores.
With `--every` what is recorded is not measured again: it can be stopped, and goes on.
malloc is told to give freed blocks back at once, so that what is measured is what tensors take: left alone, glibc keeps
up to 60 % more in pieces, and trains up to 40 % faster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.memory_page import PAGE, Held, append, page, read
from ftlib.config import BatchKind
from ftlib.errors import RecipeError
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import config_digest, weights_digest
from ftlib.stages.quantize import QuantizeJob, quantize
from ftlib.testing import LABELS, tiny_lm_tokenizer, tiny_prepared, tiny_rows, tiny_tokenizer
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.training.plan import Part, Plan
from ftlib.training.worker import outcome, work
from ftlib.workspace import Workspace

FULL, LORA, QLORA = {"kind": "full"}, {"kind": "lora", "rank": 8}, {"kind": "qlora", "rank": 8}
BOTTLENECKS = {"kind": "houlsby"}
CASES: dict[str, tuple[str, dict[str, Any], int, int | None, dict[str, Any]]] = {
    "bert-66m full, 16 rows": ("bert", FULL, 16, None, {}),
    "bert-66m full, 16 rows by 4": ("bert", FULL, 16, 4, {}),
    "bert-66m LoRA, 16 rows": ("bert", LORA, 16, None, {}),
    "bert-66m full, average, 4 rows": ("bert", FULL, 4, None, {"ema_decay": 0.9}),
    "bert-66m top layer, 16 rows": ("bert", {"kind": "frozen_layers", "layers": 5}, 16, None, {}),
    "llama-66m full, 8 rows": ("llama", FULL, 8, None, {}),
    "llama-66m full, 8 rows by 2": ("llama", FULL, 8, 2, {}),
    "llama-66m LoRA, 8 rows": ("llama", LORA, 8, None, {}),
    "llama-66m full, 8 rows, checkpointed": ("llama", FULL, 8, None, {"activation_checkpointing": "full"}),
    "llama-66m full, 4 rows, bf16": ("llama", FULL, 4, None, {"precision": "bf16"}),
    "bert-110m full, 8 rows": ("bert-large", FULL, 8, None, {}),
    "llama-66m QLoRA, 8 rows": ("llama", QLORA, 8, None, {}),
    "bert-66m houlsby, 16 rows": ("bert", BOTTLENECKS, 16, None, {}),
}
TUNINGS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "top layers": {"kind": "frozen_layers", "layers": 3},
    "by depth": {"kind": "gradual_unfreezing", "epochs_per_group": 0.5, "layers_per_group": 3},
    "LoRA": LORA,
    "QLoRA": QLORA,
    "IA3": {"kind": "ia3"},
    "prompt": {"kind": "prompt_tuning"},
    "P-tuning": {"kind": "p_tuning"},
    "prefix": {"kind": "prefix_tuning"},
    "houlsby": BOTTLENECKS,
}
"""Those that take steps, each as a recipe has it that says no more."""
OPTIMIZERS = ("adamw", "sgd", "adafactor", "muon", "adamw_8bit", "galore", "apollo")
ONCE: dict[str, dict[str, Any]] = {"muon": {"iterations": 1}}
"""One iteration holds what five do, in a fifth of the time, which in bf16 is minutes a step on a CPU."""
EVERY = {
    f"{named}, {optimizer}": ("bert-small", tuning, 8, None, {"optimizer": optimizer})
    for named, tuning in TUNINGS.items()
    for optimizer in OPTIMIZERS
}


def measure(name: str, *, use_gpu: bool = False) -> dict[str, Any]:
    """Train one case in this process, and return its record's facts."""
    family, tuning, rows, micro, more = (CASES | EVERY)[name]
    optimizer = more.get("optimizer", "adamw")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kind: BatchKind = "tokens" if family == "llama" else "labeled"
        start = _checkpoint(root / "start", family)
        texts = tiny_rows(2 * rows, words=60)
        data = tiny_prepared(root / "data", {"train": texts, "validation": texts[:4]}, kind=kind)
        epochs = 3 if tuning["kind"] == "gradual_unfreezing" else 1.5  # its last stage, which is predicted, is reached
        phase = Phase.model_validate(
            {
                "name": "tune",
                "dataset": "rows",
                "objective": {"kind": "causal_lm" if kind == "tokens" else "classification"},
                "tuning": tuning,
                "optimizer": {"kind": optimizer, "epochs": epochs, "batch_size": rows, **ONCE.get(optimizer, {})},
                **{key: value for key, value in more.items() if key in Phase.model_fields and key != "optimizer"},
            }
        )
        if quantization := phase.tuning.quantization:
            start = quantize(QuantizeJob(start=start, kind=kind, quantization=quantization), Workspace(root / "work"))
        compute = {key: value for key, value in more.items() if key in Compute.model_fields}
        (run := root / "run").mkdir()
        plan = Plan(
            fingerprint="memory",
            start=start,
            parts=(Part(name="rows", folder=data.uri),),
            run=str(run),
            kind=kind,
            labels=start.labels,
            phase=phase,
            precision="bf16" if phase.precision == "bf16" else "fp32",
            seed=0,
            compute=Compute(workers=0, use_gpu=use_gpu, micro_batch_size=micro, checkpoint_seconds=3600.0, **compute),
        )
        work(plan)
        return outcome(plan)


def _checkpoint(folder: Path, family: str) -> Checkpoint:
    """Write a model of random weights as a checkpoint."""
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    from ftlib.models.checkpoint import model_in

    if family == "llama":
        sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
        config = LlamaConfig(vocab_size=32_000, num_key_value_heads=8, pad_token_id=0, **sizes)
        model, tokenizer, labels = LlamaForCausalLM(config), tiny_lm_tokenizer(), ()
    else:
        labels = LABELS
        sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
        config = BertConfig(
            num_hidden_layers=12 if family == "bert-large" else 6,
            num_labels=len(labels),
            **(sizes if family == "bert-small" else {}),
        )
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        model, tokenizer = BertForSequenceClassification(config), tiny_tokenizer()
    model.save_pretrained(model_in(folder))
    tokenizer.save_pretrained(model_in(folder))
    parameters = sum(p.numel() for p in model.parameters())
    return Checkpoint(
        uri=str(folder.absolute()),
        weights=weights_digest(model_in(folder)),
        parent=None,
        tokenizer="tiny",
        config=config_digest(model_in(folder)),
        phase="base",
        fresh_head=False,
        labels=labels,
        parameters=parameters,
        trained_parameters=0,
    )


def alone(name: str) -> tuple[int, int]:
    """Return the bytes that a case is predicted to hold, and those that it held in a process of its own.

    Both are 0 where the optimiser refuses the tuning.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory_table", "--one", name]
    malloc = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18), "MALLOC_TRIM_THRESHOLD_": str(8 << 20)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | malloc)
    facts = json.loads(done.stdout.splitlines()[-1])
    return facts.get("predicted_memory_bytes", 0), facts.get("measured_memory_bytes", 0)


def main() -> None:
    """Measure cases, each in a process of its own, and print their rows in Markdown."""
    if sys.argv[1:2] == ["--one"]:
        try:
            print(json.dumps(measure(sys.argv[2])))
        except RecipeError as refused:
            print(json.dumps({"refused": str(refused)}))
        return
    if sys.argv[1:] == ["--page"]:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")
        return
    every = sys.argv[1:2] == ["--every"]
    done = {f"{held.tuning}, {held.optimizer}" for held in read()}
    asked = [name for name in EVERY if not sys.argv[2:] or EVERY[name][4]["optimizer"] in sys.argv[2:]]
    names = [name for name in asked if name not in done]
    print("| case | predicted MB | measured MB | |\n|---|---|---|---|")
    for name in names if every else sys.argv[1:] or CASES:
        predicted, measured = alone(name)
        if every:
            tuning, _, optimizer = name.rpartition(", ")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            append(Held(tuning, optimizer, predicted, measured, now, version("torch")))
        off = f"{predicted / measured - 1:+.1%}" if measured else "refused"
        said = f"| {name} | {predicted / 1e6:,.0f} | {measured / 1e6:,.0f} | {off} |"
        print(said, flush=True)


if __name__ == "__main__":
    main()
