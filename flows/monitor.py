"""Look at what a model answers live: whether what it is asked has drifted, whether it answers worse, and say so.

An event is a hint that `retrain` may consume; what is done to the alias is the recipe's rule, and the registry decides
who wins. A look that is killed is one that never was: the next one finds the same.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed

from flows.events import DRIFT, QUALITY, send_event
from flows.one_line_errors import one_line_errors
from flows.pages.run_name import add_to_name, asked_name
from flows.pages.run_page import artifact_key, artifact_url, inlined, show_markdown
from flows.retraining.live_look import go_back, look, now_utc, the_log
from ftlib.errors import first_line
from ftlib.progress import note
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.report.live_answers import live_answers_page
from ftlib.report.measured_page import write_page
from ftlib.retraining.live_verdict import TITLES, LiveVerdict, Remembered, Watched, remember, remembered
from ftlib.workspace import Workspace, overwrite

one_line_errors()


@flow(name="monitor", flow_run_name=asked_name("monitor-"))
def monitor(
    recipe: str = "recipes/monitored.yaml",
    log: str | None = None,
    overrides: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    work: str = "work",
) -> State[Any]:
    """Look once at the live answers of the version in place: drift, and how good they were, against stated limits.

    Returns a Completed state with the verdict, named Quiet, Drifted, Worse, Rolled back or Too few. All five are normal
    ends. What is new is told by the events reglage.drift and reglage.quality, each finding once.

    Args:
        recipe: Path of the recipe, a YAML file that the worker sees. Its `monitor` part holds the rules.
        log: The log of answers, a folder or s3://bucket/prefix; as the recipe says if empty.
        overrides: Any other field of the recipe, as path=value.
        work: The folder or s3://bucket/prefix that keeps what was told already.
    """
    r = load_recipe(recipe, overrides)
    place = r.work_place(work)
    name = r.publish.name
    source, registry = the_log(r, log), ModelRegistry(r.registry_store())
    if deployment.id is not None and registry.alias(name, r.retrain.alias) is None:  # a schedule begins before it
        none = f"{registry.store.uri} has no {name}@{r.retrain.alias} yet: its first promotion begins the looks"
        return Completed(name=TITLES["too_few"], message=f"{TITLES['too_few']}: {none}")
    watched = Watched(name, r.retrain.alias, registry.store.identity)
    with place.hold(f"monitor/{name}", wait=True, waiter="monitor"):
        verdict, entry = look(r, source, registry, now_utc())
        before = remembered(place, watched)
        told = [key for key in (before.told if before else ()) if _of_entry(key) == verdict.entry]
        show(r, verdict, place)
        _tell(watched, verdict, told, recipe)
        who = f"{flow_run.name or 'monitor'} {flow_run.id or uuid4()}"  # no other look's: of two one moves the alias
        verdict = go_back(r, registry, verdict, entry, who)
        remember(place, watched, Remembered(verdict=verdict, told=tuple(sorted({*told, *verdict.findings()}))))
        show(r, verdict, place)
    add_to_name(f"{verdict.model} {verdict.title.lower()}")
    return Completed(name=verdict.title, message=verdict.line(), data=verdict)


def _of_entry(key: str) -> int:
    return int(key.split(":")[1])


def _tell(watched: Watched, verdict: LiveVerdict, told: list[str], recipe: str) -> None:
    """Send an event for each finding that none was sent for; before it is noted down, so that none is lost."""
    link = artifact_url(artifact_key("monitor", watched.name))
    for key, said in verdict.findings().items():
        if key in told:
            continue
        payload = {
            "recipe": recipe,
            "version": verdict.version,
            "entry": verdict.entry,
            "message": f"{verdict.model}: {said}",
            **({"link": link} if link else {}),
        }
        event = QUALITY if key.startswith("quality:") else DRIFT
        send_event(event, watched.name, watched.event_id(key), payload)


def show(r: Recipe, verdict: LiveVerdict, work: Workspace) -> None:
    """Put the page on the run, where a model's looks form a timeline, and into the work place.

    What keeps that from being done is said and no error of the look's, which has a rule to act by.
    """
    try:
        with TemporaryDirectory() as made:
            folder = Path(made)
            page = live_answers_page(verdict, r.monitor.drift, r.monitor.quality.false_alarms, folder)
            text = inlined(write_page(page, folder))
            overwrite(work, f"runs/{r.name}/monitor.html", (folder / "report.html").read_bytes())
        show_markdown(artifact_key("monitor", r.publish.name), text, verdict.line())
    except Exception as error:
        note("monitor", f"the page of this look is missing: {first_line(error)}")
