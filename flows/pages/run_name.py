"""What runs are called, so that two of one recipe can be told apart: by what was asked, and then by what came of it.

tickets · seed=7                        while it runs
tickets · seed=7 · ticket-router@3      at its end
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import httpx
from prefect import get_client
from prefect.runtime import flow_run
from pydantic import BaseModel

from ftlib.urls import redacted

LONGEST = 100
"""Characters; Prefect's lists show about as many."""
_SAME = ("publish.to=", "retrain.")
"""Overrides of a deployment, which all its runs have."""


def asked_name(prefix: str = "") -> Callable[[], str]:
    """Return what names a run when it starts: its recipe, and what was asked beside it."""

    def name() -> str:
        given = cast("Mapping[str, Any]", flow_run.parameters)
        return _cut(redacted(" · ".join([prefix + Path(given["recipe"]).stem, *_asked(given)])))

    return name


def add_to_name(words: str) -> None:
    """Add to this run's name what came of it; a server that is away for a moment leaves it as it was."""
    run = flow_run.id
    if run is None:  # the flow's function was called by itself: no server knows of a run
        return
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        before = client.read_flow_run(run).name
        if not before.endswith(f" · {words}"):
            client.set_flow_run_name(run, f"{_cut(before)} · {words}")


def _asked(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the answers of the form and the overrides that change a result, by the last word of their path."""
    for group in ("training", "publishing"):
        answers = given.get(group) or {}
        fields = answers.model_dump(exclude_defaults=True) if isinstance(answers, BaseModel) else answers
        if group == "publishing":
            fields = {name: value for name, value in fields.items() if name == "name"}
        yield from (f"{name}={value}" for name, value in fields.items() if value not in (None, "from recipe"))
    for override in given.get("overrides") or ():
        if not override.startswith(_SAME):
            path, _, value = override.partition("=")
            yield f"{path.rpartition('.')[2]}={value}"


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
