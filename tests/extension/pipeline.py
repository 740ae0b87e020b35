"""A whole run with what the package of tests/extension/acme brings, in one process without Prefect.

python pipeline.py RECIPE WORK     prints what the test looks at, as one JSON object
"""

import json
import sys

from flows.run.steps import inputs, steps
from ftlib.recipe.file import load_recipe
from ftlib.recipe.schema import recipe_schema
from ftlib.registry import ModelRegistry
from ftlib.stages.step import walk
from ftlib.workspace import Workspace

recipe, work = load_recipe(sys.argv[1]), Workspace(sys.argv[2])
outcome = walk(steps(recipe, work, inputs(recipe, work)), lambda step: step.stage(step.job, work))
assert outcome is not None
evidence, registry = outcome.evidence, ModelRegistry(recipe.publish.to.store())
cells = evidence.measured(evidence.selection.chosen.name)
print(
    json.dumps(
        {
            "rows": sum(facts.rows for facts in evidence.prepared["tickets"].splits.values()),
            "metrics": {name: estimate.value for name, estimate in cells["tickets"].metrics.items()},
            "lineage": registry.manifest(registry.version(recipe.publish.name)).lineage["extensions"],
            "described": recipe_schema()["$defs"]["Cost"]["properties"]["dear"]["description"],
            "published": outcome.result.model_dump(mode="json"),
        }
    )
)
