"""Retraining on fresh data: train only for a stated reason, promote only through the gate, and say why."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.one_line_errors import one_line_errors
from flows.pages.finetune_form import Computing, Publishing, Tracking, Training, answered_recipe
from flows.pages.live_page import live_page
from flows.pages.run_name import add_to_name, asked_name
from flows.pages.run_page import RunPage
from flows.retraining.approval import asks_a_person, one_at_a_time
from flows.retraining.challenge import challenge, drop_asked, judged_before, keep_asked, listing_of, settle
from flows.retraining.retrain_page import show_retraining
from flows.retraining.waiting import ask, taken_over
from flows.run.tracked import tracked
from flows.run_entry import entered
from ftlib.errors import OverBudget

one_line_errors()


@flow(name="retrain", flow_run_name=asked_name("retrain-"))
def retrain(
    recipe: str = "recipes/fresh_data.yaml",
    computing: Computing = Computing(),
    tracking: Tracking = Tracking(),
    overrides: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    work: str = "work",
) -> State[Any]:
    """Retrain a model if its sources hold something new, and let the result challenge the version in place.

    Returns a Completed state with a Challenge; it is named Skipped where there was no reason to train, Not promoted
    where the gate or a person said no, Held where a person's rollback holds promotions, Superseded where a newer
    retraining asks in its place, Promoted otherwise. All five are normal ends.

    Args:
        recipe: Path of the recipe, a YAML file that the worker sees. Its `retrain` part holds the rules.
        computing: Where it runs, and how fast. What is left empty is as the recipe says.
        tracking: Where the run is shown beside Prefect's page. May be left empty.
        overrides: Any other field of the recipe, as path=value.
        work: The folder or s3://bucket/prefix that keeps what every stage made; what it has is not made again.
    """
    r = answered_recipe(recipe, Training(), Publishing(), computing, overrides)
    place, approval, shown_hold = r.work_place(work), None, None
    with one_at_a_time(r.publish.name, place):
        try:
            with (
                place.hold(f"runs/{r.name}", wait=True, waiter=r.name),
                live_page(r.name, place) as live,
                tracked(tracking, r, place, page := RunPage(r.name, r.datasets), live.begun) as run,
                entered(r, run) as entry,
            ):
                run_id = str(flow_run.id or "")
                judged = judged_before(r, run.work, run_id) or challenge(r, run, run_id)
                judged = judged.model_copy(update={"cost": entry.judged(judged).cost})
                live.ended(judged.line())
        except OverBudget as error:
            add_to_name("over budget")
            return Failed(name="Over budget", message=str(error), data=error)
        show_retraining(judged, run.work)
        if judged.what == "waiting" and asks_a_person(r):  # while it waits it holds no slot, no lock, no process
            keep_asked(judged, run.work)
            approval, shown_hold = ask(judged, run.work)
        # In the same slot: who comes meanwhile would find nothing decided, and train on the same files.
        settled = taken_over(judged) or settle(r, run, judged, approval, shown_hold)
    live.ended(settled.line())
    page.outcome(settled.line())
    settled.write(run.work)
    entry.judged(settled)
    run.work.drop(listing_of(run_id))
    drop_asked(r, run.work, run_id)
    show_retraining(settled, run.work)
    version = f"{settled.version.name}@{settled.version.version} " if settled.version else ""
    add_to_name(f"{version}{settled.title.lower()}")
    return Completed(name=settled.title, message=f"{settled.title}: {'; '.join(settled.reasons)}", data=settled)
