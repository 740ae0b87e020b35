"""What a superseded retraining leaves, without a server: its process is long gone, and cannot clear it away."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, State, Suspended

from flows.retraining.challenge import listing_of
from flows.retraining.waiting import _supersede
from ftlib.recipe.recipe import Recipe


def test_its_listing_goes_with_it_and_that_of_one_that_goes_on_stays(tmp_path: Path) -> None:
    runs = [FlowRun(id=uuid4(), flow_id=uuid4(), parameters={"work": str(tmp_path / name)}) for name in ("a", "b")]
    waits, goes_on = runs
    states: dict[Any, State] = {waits.id: Suspended(), goes_on.id: Completed()}
    listings = [Path(str(run.parameters["work"]), listing_of(str(run.id))) for run in runs]
    cases = [Path(str(run.parameters["work"]), f"runs/tickets/asked/{run.id}-0123.json") for run in runs]
    for kept in (*listings, *cases):
        kept.parent.mkdir(parents=True)
        kept.write_text("{}")

    def become(run: Any, state: State) -> None:
        states[run] = state

    client: Any = SimpleNamespace(
        read_flow_run=lambda run: SimpleNamespace(state=states[run]),
        set_flow_run_state=become,
        read_artifacts=lambda artifact_filter: [],
    )
    recipe = cast("Recipe", SimpleNamespace(name="tickets", publish=SimpleNamespace(name="router")))
    _supersede(client, recipe, runs, FlowRun(id=uuid4(), flow_id=uuid4()))
    assert states[waits.id].name == "Superseded"
    assert [listing.exists() for listing in listings] == [case.exists() for case in cases] == [False, True]
