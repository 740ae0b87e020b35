"""A whole run with what the package of tests/extension/acme brings, in one process without Prefect.

python pipeline.py RECIPE WORK     prints what the test looks at, as one JSON object
"""

import json
import sys

from flows import jobs
from ftlib.config import REPORT, SELECTION
from ftlib.merging.candidates import Candidate
from ftlib.models.folder import find_model
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_labels
from ftlib.recipe.schema import recipe_schema
from ftlib.registry import ModelRegistry
from ftlib.stages.base import base
from ftlib.stages.evaluate import evaluate
from ftlib.stages.ingest import ingest
from ftlib.stages.interpolate import interpolate
from ftlib.stages.preprocess import preprocess
from ftlib.stages.register import RegisterJob, register
from ftlib.stages.report import ReportJob, report
from ftlib.stages.select import select
from ftlib.stages.train import train
from ftlib.workspace import Workspace

recipe, work = load_recipe(sys.argv[1]), Workspace(sys.argv[2])
model = find_model(recipe.model)
raw = {name: ingest(jobs.ingest_job(recipe, name), work) for name in recipe.datasets}
prepared = {name: preprocess(jobs.preprocess_job(recipe, name, raw, model), work) for name in recipe.datasets}
trail = [base(jobs.base_job(recipe, model, check_labels(recipe, prepared)), work)]
for phase in recipe.phases:
    trail.append(train(jobs.train_job(recipe, phase, trail[-1], prepared), work))
candidates = interpolate(jobs.interpolate_job(recipe, trail, ()), work)
sweep = [evaluate(job, work) for job in jobs.evaluate_jobs(recipe, candidates.members, prepared, SELECTION)]
selection = select(jobs.select_job(recipe, candidates, sweep), work)
measuring = jobs.evaluate_jobs(recipe, [*map(Candidate.of, trail), selection.chosen], prepared, REPORT)
evidence = Evidence(
    recipe=recipe,
    model=model,
    raw=raw,
    prepared=prepared,
    checkpoints=tuple(trail),
    candidates=candidates,
    sweep=tuple(sweep),
    selection=selection,
    final=tuple(evaluate(job, work) for job in measuring),
)
result = register(RegisterJob(evidence=evidence, report=report(ReportJob(evidence=evidence), work)), work)
registry = ModelRegistry(recipe.publish.to.store())
cells = evidence.measured(selection.chosen.name)
print(
    json.dumps(
        {
            "rows": sum(facts.rows for facts in prepared["tickets"].splits.values()),
            "metrics": {name: estimate.value for name, estimate in cells["tickets"].metrics.items()},
            "lineage": registry.manifest(registry.version(recipe.publish.name)).lineage["extensions"],
            "described": recipe_schema()["$defs"]["Cost"]["properties"]["dear"]["description"],
            "published": result.model_dump(mode="json"),
        }
    )
)
