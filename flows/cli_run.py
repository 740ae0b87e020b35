"""`reglage run`: a flow run from the terminal, with a Prefect server of its own where the user has none."""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, cast

from flows.prefect_server import TemporaryServer, user_has_server
from flows.quiet import log_to, quiet_libraries
from ftlib.recipe_file import load_recipe
from ftlib.workspace import Workspace, exclusive

if TYPE_CHECKING:
    from flows.run_record import RunRecord


def run_recipe(path: Path, overrides: Sequence[str], work: Path, started: float) -> "RunRecord":
    """Run a recipe and return its record, timed from `started` (monotonic seconds).

    Raises whatever a stage raises, RecipeError before anything starts, BusyError if the same recipe is running.
    """
    recipe = load_recipe(path, overrides)
    folder = Workspace(work).root / "runs" / recipe.name
    with exclusive(folder.with_suffix(".lock"), wait=False):
        pass  # say so now; the flow takes the lock itself, since not every flow run comes from here
    quiet_libraries()
    server = None if user_has_server() else TemporaryServer(folder / "prefect-server.log")
    if server:
        server.use()

    from flows.terminal import say_on_stderr, shown, stoppable

    with stoppable(say_on_stderr):
        from flows.finetune import finetune

        log_to(folder / "run.log")
        if server:
            server.wait()
        with shown():
            state = finetune(str(path), overrides=list(overrides), work=str(work), return_state=True)
            record = cast("RunRecord", state.result())
    timed = record.model_copy(update={"wall_seconds": round(monotonic() - started, 3)})
    timed.write(folder)
    return timed
