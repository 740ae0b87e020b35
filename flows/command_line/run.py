"""`reglage run` and `retrain`: a flow from the terminal, with a Prefect server of its own where the user has none."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from flows.command_line.quiet import log_to, quiet_libraries
from flows.prefect_server import TemporaryServer, check_user_server, settings, user_has_server
from ftlib.costs.prices import read_prices
from ftlib.recipe.file import load_recipe
from ftlib.tracking.budget import check_budget

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.retraining.challenge import Challenge
    from flows.run.record import RunRecord
    from ftlib.retraining.live_verdict import LiveVerdict
    from ftlib.search.record import SearchRecord


def run_recipe(
    path: Path,
    overrides: Sequence[str],
    work: str,
    started: float,
    tensorboard: str | None = None,
    mlflow: str | None = None,
) -> "RunRecord":
    """Run a recipe and return its record, timed from `started` (monotonic seconds).

    Raises whatever a stage raises, RecipeError before anything starts, BusyError if the same recipe is running.
    """

    def load() -> Callable[[], "State[Any]"]:
        from flows.finetune import finetune
        from flows.pages.finetune_form import Tracking

        shown = Tracking(tensorboard=tensorboard, mlflow=mlflow)
        return lambda: finetune(str(path), tracking=shown, overrides=list(overrides), work=str(work), return_state=True)

    record = cast("RunRecord", _run(load, _folder(path, overrides, work)))
    timed = record.model_copy(update={"wall_seconds": round(monotonic() - started, 3)})
    timed.write(record.evidence.recipe.work_place(work))
    return timed


def run_retraining(
    path: Path, overrides: Sequence[str], work: str, tensorboard: str | None = None, mlflow: str | None = None
) -> "Challenge":
    """Retrain a recipe's model if that is worth it. Raises what `run_recipe` raises."""

    def load() -> Callable[[], "State[Any]"]:
        from flows.pages.finetune_form import Tracking
        from flows.retrain import retrain

        shown = Tracking(tensorboard=tensorboard, mlflow=mlflow)
        return lambda: retrain(str(path), tracking=shown, overrides=list(overrides), work=str(work), return_state=True)

    return cast("Challenge", _run(load, _folder(path, overrides, work)))


def run_monitor(path: Path, log: str | None, overrides: Sequence[str], work: str) -> "LiveVerdict":
    """Look once at a recipe's live answers. Raises RecipeError before anything starts."""

    def load() -> Callable[[], "State[Any]"]:
        from flows.monitor import monitor

        return lambda: monitor(str(path), log=log, overrides=list(overrides), work=str(work), return_state=True)

    r = load_recipe(path, overrides)
    folder = r.work_place(work).root / "runs" / r.name / "monitor"
    return cast("LiveVerdict", _run(load, folder))


def run_search(path: Path, overrides: Sequence[str], work: str, asked: Mapping[str, Any]) -> "SearchRecord":
    """Search a recipe; `asked` are the flow's other parameters. Raises what `run_recipe` raises."""

    def load() -> Callable[[], "State[Any]"]:
        from flows.search import search

        return lambda: search(str(path), **asked, overrides=list(overrides), work=str(work), return_state=True)

    return cast("SearchRecord", _run(load, _folder(path, overrides, work)))


def _folder(path: Path, overrides: Sequence[str], work: str) -> Path:
    """Return where the recipe's runs leave their words. Says now if one is going on; the flow takes the lock itself.

    Raises RecipeError now, too, for a budget that no price can exhaust.
    """
    r = load_recipe(path, overrides)
    check_budget(r.compute, read_prices())
    place = r.work_place(work)
    with place.hold(f"runs/{r.name}", wait=False):
        return place.root / "runs" / r.name


def _run(load: Callable[[], Callable[[], "State[Any]"]], folder: Path) -> object:
    """Run the flow that `load` imports on the user's Prefect server, or on one of its own, and return its result."""
    quiet_libraries()
    server = None if user_has_server() else TemporaryServer(folder / "prefect-server.log")
    if server:
        server.use()
        settings()
    else:
        check_user_server()

    from flows.command_line.terminal import say_on_stderr, shown, stoppable

    with stoppable(say_on_stderr):
        start = load()  # the heavy imports, while the server starts
        log_to(folder / "run.log")
        if server:
            server.wait()
        with shown():
            return start().result()
