"""The whole pipeline, from raw rows to a verified, published model version.

    ingest > preprocess > base > train > interpolate > evaluate > select > evaluate > report > register

`flows.run.steps` is this line as a program, `tasks.stages` how each of these is run.
"""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.one_line_errors import one_line_errors
from flows.pages.finetune_form import Computing, Publishing, Tracking, Training, answered_recipe
from flows.pages.live_page import live_page
from flows.pages.run_name import add_to_name, asked_name
from flows.pages.run_page import RunPage
from flows.run.record import RunRecord, installed_versions
from flows.run.steps import inputs, steps
from flows.run.tracked import tracked
from flows.run_entry import entered
from ftlib.errors import OverBudget
from ftlib.registry.outcome import Refusal

one_line_errors()


@flow(name="finetune", flow_run_name=asked_name())
def finetune(
    recipe: str = "recipes/quickstart.yaml",
    training: Training = Training(),
    publishing: Publishing = Publishing(),
    computing: Computing = Computing(),
    tracking: Tracking = Tracking(),
    overrides: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    work: str = "work",
) -> State[Any]:
    """Fine-tune a model as a recipe says: ingest, train, evaluate, interpolate, select, publish.

    Returns a Completed state with a RunRecord; it is named Refused where a gate said no, which is a normal end.
    One that failed is named Over budget where the budget ended it: the next run, with a larger one, goes on.

    Args:
        recipe: Path of the recipe, a YAML file that the worker sees.
        training: How the last phase trains. What is left empty is as the recipe says.
        publishing: What is published, and where. What is left empty is as the recipe says.
        computing: Where it runs, and how fast. What is left empty is as the recipe says.
        tracking: Where the run is shown beside Prefect's page. May be left empty.
        overrides: Any other field of the recipe, as path=value.
        work: The folder or s3://bucket/prefix that keeps what every stage made; what it has is not made again.
    """
    r = answered_recipe(recipe, training, publishing, computing, overrides)
    place = r.work_place(work)
    try:
        with (
            place.hold(f"runs/{r.name}", wait=False),
            live_page(r.name, place) as live,
            tracked(tracking, r, place, RunPage(r.name, r.datasets), live.begun) as run,
            entered(r, run) as entry,
        ):
            given = inputs(r, run.work)
            evidence, page, result = run.through(lambda: steps(r, run.work, given))
            record = RunRecord(
                evidence=evidence, steps=tuple(run.steps), report=page, result=result, versions=installed_versions()
            )
            record = record.model_copy(update={"cost": entry.ended(record).cost})
            record.write(place)
            live.ended(result.line())
    except OverBudget as error:
        add_to_name("over budget")
        return Failed(name="Over budget", message=str(error), data=error)
    if isinstance(result, Refusal):
        add_to_name("refused")
        return Completed(name="Refused", message="; ".join(result.reasons), data=record)
    add_to_name(f"{result.name}@{result.version}")
    return Completed(message=f"{result.name}@{result.version} in {result.registry}", data=record)
