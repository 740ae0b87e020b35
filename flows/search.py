"""Search for the values of a recipe's fields that do best on the validation rows, and publish what they make.

Each trial is the recipe with other values: a run up to its choice, by the same jobs, so what two searches have in
common is made once and a search that was killed goes on. The test rows are read once, for the winner.
"""

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.one_line_errors import one_line_errors
from flows.pages.live_page import live_page
from flows.pages.run_name import add_to_name, asked_name
from flows.pages.run_page import RunPage
from flows.run.steps import inputs, prepare
from flows.searching.recipes import Searched
from flows.searching.record import finished, show_search
from flows.searching.trials import Trials
from ftlib.registry.outcome import Refusal
from tasks.runner import Runner

one_line_errors()


@flow(name="search", flow_run_name=asked_name("search-"))
def search(
    recipe: str = "recipes/search.yaml",
    tries: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    trials: int | None = None,
    metric: str | None = None,
    sampler: Literal["from recipe", "tpe", "random", "grid"] = "from recipe",
    at_once: int | None = None,
    seed: int | None = None,
    soup: int | None = None,
    publish: bool = True,
    overrides: list[str] = [],  # noqa: B006
    work: str = "work",
) -> State[Any]:
    """Try values of a recipe's fields, and publish the model that does best on the validation rows.

    Returns a Completed state with a SearchRecord; it is named Refused where a gate said no to the best, which is a
    normal end. What is left empty is as the recipe's `search` says.

    Args:
        recipe: Path of the recipe, a YAML file that the worker sees.
        tries: Fields to try beside the recipe's, as PATH=1e-5..1e-3 log, PATH=4..64 or PATH=[a, b].
        trials: How many trials there are in all; as the recipe says if empty.
        metric: What trials are compared by, as evaluation/metric; as the recipe says if empty.
        sampler: How values are proposed.
        at_once: How many trials go on at a time, each in a process of its own; as the recipe says if empty.
        seed: Of what is proposed; as the recipe says if empty.
        soup: How many of the best trials feed a greedy soup; as the recipe says if empty.
        publish: Whether the best is published. If not, it is measured on the test rows, and that is all.
        overrides: Any other field of the recipe, as path=value.
        work: The folder or s3://bucket/prefix that keeps what every stage made; what it has is not made again.
    """
    asked = Searched.load(
        recipe,
        overrides,
        tries,
        trials=trials,
        metric=metric,
        sampler=None if sampler == "from recipe" else sampler,
        at_once=at_once,
        seed=seed,
        soup=soup,
    )
    asked.check()
    r = asked.recipe
    place = r.work_place(work)
    with place.hold(f"runs/{r.name}", wait=False), live_page(r.name, place) as live:
        given = inputs(r, place)
        page = RunPage(r.name, r.datasets)
        run = Runner(place, r.compute, page, live.begun)
        with Trials(asked, place, given) as trying:
            run.through(lambda: prepare(r, given))
            tried = trying.run()
        record = finished(asked, tried, run, given.files, publish=publish)
        verdict = show_search(record, asked.command(record.overrides), place)
        live.ended(verdict)
    if isinstance(record.result, Refusal):
        add_to_name("refused")
        return Completed(name="Refused", message=verdict, data=record)
    if record.result is not None:
        add_to_name(f"{record.result.name}@{record.result.version}")
    return Completed(message=verdict, data=record)
