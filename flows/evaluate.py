"""Measure finished models on a recipe's evaluations, from Prefect's form or its API; nothing is trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.models.comparison import Comparison, compare, only
from flows.one_line_errors import one_line_errors
from flows.pages.live_page import live_page
from flows.pages.rows_page import rows_lines
from flows.pages.run_page import artifact_key, inlined, show_markdown
from ftlib.artifacts import Artifact
from ftlib.config import user_path
from ftlib.evaluation.measured import EvalReport
from ftlib.progress import note
from ftlib.recipe.file import load_recipe
from ftlib.report.measured_page import measured_page, write_page
from ftlib.stages.step import Step, Steps
from ftlib.storage import Place
from ftlib.wording import escaped
from ftlib.workspace import Workspace, overwrite
from tasks.runner import Runner

one_line_errors()


def _run_name() -> str:
    return f"evaluate-{Path(flow_run.parameters['recipe']).stem}"


@flow(name="evaluate", flow_run_name=_run_name)
def evaluate(
    models: list[str],
    recipe: str = "recipes/quickstart.yaml",
    split: Literal["test", "validation"] = "test",
    evaluations: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    overrides: list[str] = [],  # noqa: B006
    registry: str = "registry",
    endpoint_url: str | None = None,
    bases: list[str] = [],  # noqa: B006
    work: str = "work",
) -> State[Any]:
    """Measure models on a recipe's evaluations: each is compared with the first, on the same rows.

    What was measured before in the same work folder is not measured again. The tables and the plot are on the run's
    page, and in `evaluation.html` of the recipe's folder of runs. Returns a Completed state with the numbers.

    Args:
        models: Versions as name@3 or name@champion, or model folders that the worker sees. The first is the reference.
        recipe: The recipe whose evaluations are measured, a YAML file that the worker sees.
        split: The rows to measure on. Candidates were chosen by the validation rows, so they look better there.
        evaluations: Names of the evaluations to measure; all of them if empty.
        overrides: Any field of the recipe, as path=value.
        registry: Where versions are, a folder that the worker sees, or s3://bucket/prefix.
        endpoint_url: The S3 server, if it is not AWS.
        bases: Folders of models that adapters stand on, where these are not found by their names.
        work: The folder or s3://bucket/prefix that keeps what every stage made; what it has is not made again.
    """
    r = only(load_recipe(recipe, overrides), evaluations)
    place = r.work_place(work)

    def through(
        name: str, steps: Callable[[], Steps[list[EvalReport]]], made: Callable[[Step, Artifact], None]
    ) -> list[EvalReport]:
        return replace(run, whose=name, made=made).through(steps)

    def say(words: str) -> None:
        note("evaluate", words)

    with live_page(r.name, place) as live:
        run = Runner(place, r.compute, begun=live.begun)
        at, given = Place.parse(registry, endpoint_url), [user_path(folder) for folder in bases]
        comparison = compare(r, models, split, place, at, given, through, say)
        verdict = _show(comparison, place)
        live.ended(verdict)
    return Completed(message=verdict, data=comparison.record())


def _show(comparison: Comparison, work: Workspace) -> str:
    """Put the page on the run and into the recipe's folder of runs; return its verdict."""
    r = comparison.recipe
    with TemporaryDirectory() as made:
        folder = Path(made)
        page = measured_page(
            r.name, r.evaluations, comparison.reports, comparison.differences, comparison.split, folder
        )
        text = inlined(write_page(page, folder))
        overwrite(work, f"runs/{r.name}/evaluation.html", (folder / "report.html").read_bytes())
    dropped = [f"- {escaped(line)}" for line in rows_lines(comparison.rows)]
    whole = "\n".join([text, "## Rows\n", *dropped, ""]) if dropped else text
    show_markdown(artifact_key("evaluation", r.name), whole, page.verdict)
    return page.verdict
