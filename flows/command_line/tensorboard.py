"""`reglage tensorboard`: event files of what a work folder has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.console import UserPath, emit, json_option
from flows.command_line.options import work_option
from ftlib.errors import DataError, StorageError
from ftlib.storage.files import local_errors
from ftlib.training.curves import FILE
from ftlib.wording import counted, some
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from ftlib.tracking.state import Curve, RunState

_RECORDS = ("run.json", "retrain.json")


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@work_option
@click.option("--out", type=UserPath(file_okay=False), required=True, metavar="DIR", help="Written for TensorBoard.")
@json_option
def tensorboard(runs: tuple[str, ...], work: str, out: Path, as_json: bool) -> None:
    """Write event files for TensorBoard: of the last RUN of these recipes, or of all in the work folder.

    Without a name also of trainings that are not over. `reglage run --tensorboard DIR` writes while it trains.
    """
    from ftlib.tracking.tensorboard import TensorBoard

    place = Workspace(work)
    states = [*_finished(place, runs)]
    curves = [] if runs else [*_unfinished(place.root)]
    if not states and not curves:
        raise DataError(f"{place} holds no run and no training; give the work folder by --work")
    board = TensorBoard(out)
    with local_errors(out, elsewhere="choose another --out"):
        for state in states:
            for curve in state.curves:
                curve.read()
            board.show(state)
        for curve in curves:
            board.draw(f"unfinished/{curve.fingerprint}/{curve.name}", curve)
        board.close()
    trained = sum(len(state.curves) for state in states) + len(curves)
    words = f"{counted(len(states), 'run')}, {counted(trained, 'training')}: tensorboard --logdir {out}"
    record = {"folder": str(out.absolute()), "runs": [f"{s.recipe.name}/{s.key}" for s in states], "trainings": trained}
    emit(words, record, as_json)


def _finished(work: Workspace, runs: Sequence[str]) -> Iterator[RunState]:
    """Yield the state of each run that left a record. Raises DataError for a name that none has."""
    names = [name.rstrip("/") for name in work.names("runs") if name.endswith("/")]
    have = [name for name in dict.fromkeys(names) if {*_RECORDS} & {*work.names(f"runs/{name}")}]
    if missing := [name for name in runs if name not in have]:
        raise DataError(f"{work}: no finished run {missing[0]!r}; there are {some(have, 20) or 'none'}")
    for name in runs or have:
        for record in _RECORDS:
            if (evidence := _read(work.newest(f"runs/{name}/{record}"))) is not None:
                yield _state(*evidence)


def _read(path: Path) -> tuple[Any, str] | None:
    """Return a record's evidence, and what became of it; None where there is no record, or nothing was trained."""
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StorageError(f"{path} is damaged: {error}; run the recipe again, which does nothing twice") from None
    result: dict[str, Any] = record.get("result") or record.get("version") or {}
    published = f"{result['name']}@{result['version']}" if "version" in result else ""
    return (record["evidence"], published) if record.get("evidence") else None


def _state(said: Any, published: str) -> RunState:
    from ftlib.recipe.evidence import Evidence
    from ftlib.tracking.state import Curve, RunState

    evidence = Evidence.model_validate(said)
    return RunState(
        recipe=evidence.recipe,
        data={name: data.content for name, data in evidence.prepared.items()},
        curves=[Curve(c.phase, c.fingerprint, c.local(Path(FILE)).parent) for c in evidence.checkpoints[1:]],
        reports=[*evidence.sweep, *evidence.final],
        published=published,
        ended="finished",
    )


def _unfinished(root: Path) -> Iterator[Curve]:
    """Yield what trains, or was stopped."""
    from ftlib.tracking.state import Curve

    for plan in sorted((root / "stages" / "train").glob("*.work/plan.json")):
        phase = json.loads(plan.read_bytes())["phase"]["name"]
        curve = Curve(phase, plan.parent.stem, plan.parent.with_suffix(""))
        if curve.read():
            yield curve
