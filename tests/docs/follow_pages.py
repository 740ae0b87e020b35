"""A whole run with everything that the how-tos in docs/add bring, in one process without Prefect.

python follow_pages.py RECIPE WORK     prints what the tests look at, as one JSON object
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import torch
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from flows.run.steps import inputs, steps
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.stages.evaluate import outcomes_file
from ftlib.stages.step import walk
from ftlib.storage import Place, open_store
from ftlib.training import curves
from ftlib.training.loops.batches import global_batches
from ftlib.workspace import Workspace

recipe, work = load_recipe(sys.argv[1]), Workspace(sys.argv[2])
outcome = walk(steps(recipe, work, inputs(recipe, work)), lambda step: step.stage(step.job, work))
assert outcome is not None
evidence, phase = outcome.evidence, recipe.phases[1]
prepared, (_, start, end) = evidence.prepared["tickets"], evidence.checkpoints
settings, q, strength = phase.optimizer, phase.objective.q, phase.penalty.strength


def plain_loop() -> tuple[dict[str, Tensor], list[float], list[float]]:
    """Train as the pages say, in plain torch: robust loss, lasso, biases and the head alone, RMSprop."""
    model = load_model(start.path / "model", "labeled").eval()  # the recipe trains without dropout
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(".bias") or name.startswith("classifier"))
    moving = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in moving if p.ndim > 1], [p for p in moving if p.ndim < 2]
    decayed = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.RMSprop(decayed, lr=settings.learning_rate, alpha=0.9, eps=0.01)
    split, collate = open_split(prepared.path / "train.arrow", start.labels), Collator.of(model, torch.device("cpu"))
    batches = global_batches(split.sizes, settings.batch_size, recipe.seed, 0)
    losses, penalties = list[float](), list[float]()
    for step, rows in enumerate(batches):
        batch = split.batch(rows, collate)
        nll = cross_entropy(model(**batch.inputs).logits, batch.targets, reduction="none")
        loss = ((1 - torch.exp(-q * nll)) / q).mean()
        penalty = strength * torch.stack([p.abs().sum() for p in moving]).sum()
        (loss + penalty).backward()
        torch.nn.utils.clip_grad_norm_(moving, settings.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / len(batches))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        penalties.append(float(penalty.detach()))
    return model.state_dict(), losses, penalties


weights, losses, penalties = plain_loop()
before, after = (load_model(one.path / "model", "labeled").state_dict() for one in (start, end))
records = [record for record in curves.read(end.path / curves.FILE) if "loss" in record]
tokenizer = AutoTokenizer.from_pretrained(start.path / "model")
rows = tomllib.loads(Path("tickets.toml").read_text())["row"]
laid_out = {
    tuple(tokenizer(f"{row['subject']}. {row['body']}", truncation=True, max_length=32)["input_ids"]) for row in rows
}
test = open_split(prepared.path / "test.arrow", start.labels)
table = read_outcomes(work.root / outcomes_file(evidence.selection.chosen, prepared, "test", 0))
version = ModelRegistry(open_store(Place.parse("volume://models/team"))).version(recipe.publish.name)
print(
    json.dumps(
        {
            "rows": [evidence.raw["tickets"].ledger.kept, prepared.ledger.dropped],
            "read": [len(test), sum(tuple(test.tokens(i)) in laid_out for i in range(len(test)))],
            "losses": [[record["loss"] for record in records], losses],
            "penalties": [[record["penalty"] for record in records], penalties],
            "moved": [name for name in before if not torch.equal(before[name], after[name])],
            "away": max(float((weights[name] - after[name]).abs().max()) for name in weights),
            "candidates": [candidate.name for candidate in evidence.candidates.members],
            "metric": [
                evidence.measured(evidence.selection.chosen.name)["tickets"].metrics["top_two_accuracy"].value,
                float(top_k_accuracy_score(table.gold, table.probabilities, k=2)),
            ],
            "published": [outcome.result.model_dump(mode="json"), version.version],
        }
    )
)
