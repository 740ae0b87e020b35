"""A whole run with the kind of batch that docs/add/kind.md brings, in one process without Prefect.

python follow_kind.py RECIPE WORK TEXT...     prints what the test looks at, as one JSON object
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scipy.stats import poisson

from flows.run.steps import inputs, steps
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.published.predict import predict
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.stages.evaluate import outcomes_file
from ftlib.stages.step import walk
from ftlib.workspace import Workspace

recipe, work = load_recipe(sys.argv[1]), Workspace(sys.argv[2])
outcome = walk(steps(recipe, work, inputs(recipe, work)), lambda step: step.stage(step.job, work))
assert outcome is not None
evidence = outcome.evidence
errors = [evidence.measured(end.phase)["calls"].metrics["mean_count_error"].value for end in evidence.checkpoints]
table = read_outcomes(work.root / outcomes_file(evidence.selection.chosen, evidence.prepared["calls"], "test", 0))
registry = ModelRegistry(recipe.publish.to.store())
registry.pull(registry.version(recipe.publish.name), Path("pulled"))
print(
    json.dumps(
        {
            "nll": [float(table.nll.sum()), float(-poisson.logpmf(table.gold, table.predicted).sum())],
            "errors": errors,
            "answers": [answer.count for answer in predict(Path("pulled"), sys.argv[3:])],
        }
    )
)
