"""The whole pipeline: from raw rows to a verified, published model version."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows import finetune_jobs as jobs
from flows.finetune_form import Computing, Publishing, Training, answered_recipe
from flows.ray_when_needed import RayWhenNeeded
from flows.run_page import PageProgress, show_report
from flows.run_record import RunRecord, installed_versions
from ftlib.artifacts import Candidate, Refusal
from ftlib.preflight import check_labels, check_registry
from ftlib.progress import listen
from ftlib.recipe import REPORT, SELECTION
from ftlib.stages.interpolate import InterpolateJob
from ftlib.stages.register import RegisterJob
from ftlib.stages.report import ReportJob
from ftlib.stages.select import SelectJob
from ftlib.training.model import find_model
from ftlib.workspace import Workspace, exclusive
from tasks.assess import evaluate, interpolate, select
from tasks.data import ingest, preprocess
from tasks.publish import register, report
from tasks.runner import Runner
from tasks.train import base, train


def _run_name() -> str:
    return Path(flow_run.parameters["recipe"]).stem


@flow(name="finetune", flow_run_name=_run_name)
def finetune(
    recipe: str = "recipes/quickstart.yaml",
    training: Training = Training(),
    publishing: Publishing = Publishing(),
    computing: Computing = Computing(),
    overrides: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    work: str = "work",
) -> State[Any]:
    """Fine-tune a model as a recipe says: ingest, train, evaluate, interpolate, select, publish.

    Returns a Completed state with a RunRecord; it is named Refused where a gate said no, which is a normal end.

    Args:
        recipe: Path of the recipe, a YAML file that the worker sees.
        training: How the last phase trains. None is what the recipe says.
        publishing: What is published, and where. None is what the recipe says.
        computing: Where it runs, and how fast. None is what the recipe says.
        overrides: Any other field of the recipe, as path=value.
        work: The folder that keeps what every stage made; what is there is not made again.
    """
    r = answered_recipe(recipe, training, publishing, computing, overrides)
    run = Runner(Workspace(work))
    folder = run.work.root / "runs" / r.name
    with exclusive(folder.with_suffix(".lock"), wait=False), listen(PageProgress(r.name)):
        check_registry(r)
        model = find_model(r.model)
        raw = {name: run(ingest, jobs.ingest_job(r, name)) for name in r.datasets}
        prepared = {name: run(preprocess, jobs.preprocess_job(r, name, raw, model)) for name in r.datasets}
        labels = check_labels(r, prepared)

        trail = [run(base, jobs.base_job(r, model, labels))]
        with RayWhenNeeded(r.compute) as ray:
            for phase in r.phases:
                job = jobs.train_job(r, phase, trail[-1], prepared)
                if job.needs_ray() and not run.work.has(job):
                    ray.start()
                trail.append(run.on_thread(train, job))

        candidates = run(interpolate, InterpolateJob(start=trail[-2], end=trail[-1], interpolation=r.interpolation))
        sweep = tuple(run(evaluate, job) for job in jobs.evaluate_jobs(r, candidates.members, prepared, SELECTION))
        selection = run(
            select, SelectJob(candidates=candidates, reports=sweep, evaluations=r.evaluations, select=r.select)
        )
        finalists = [*map(Candidate.of, trail), selection.chosen]
        final = tuple(run(evaluate, job) for job in jobs.evaluate_jobs(r, finalists, prepared, REPORT))

        page = run(
            report,
            ReportJob(
                recipe=r,
                model=model,
                raw=raw,
                prepared=prepared,
                checkpoints=tuple(trail),
                candidates=candidates,
                sweep=sweep,
                selection=selection,
                final=final,
            ),
        )
        show_report(r.name, page)
        result = run(
            register,
            RegisterJob(
                recipe=r, model=model, raw=raw, prepared=prepared, selection=selection, final=final, report=page
            ),
        )
        record = RunRecord(
            recipe=r,
            steps=tuple(run.steps),
            model=model,
            raw=raw,
            prepared=prepared,
            checkpoints=tuple(trail),
            candidates=candidates,
            sweep=sweep,
            selection=selection,
            final=final,
            report=page,
            result=result,
            versions=installed_versions(),
        )
        record.write(folder)
    if isinstance(result, Refusal):
        return Completed(name="Refused", message="; ".join(result.reasons), data=record)
    return Completed(message=f"{result.name}@{result.version} in {result.registry}", data=record)
