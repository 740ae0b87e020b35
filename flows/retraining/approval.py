"""What keeps two retrainings of one model apart, and the form in which a person approves a promotion."""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Literal

from prefect import get_client
from prefect.concurrency.sync import concurrency
from prefect.input import RunInput
from prefect.runtime import deployment
from pydantic import Field

from flows.prefect_server import is_temporary, server_home
from ftlib.recipe.recipe import Recipe
from ftlib.workspace import Workspace, exclusive

LIMIT = "reglage-retrain-"
"""What the concurrency limit of a model begins with."""
LEASE_SECONDS = 120.0
"""After this long without a sign of life another retraining may begin."""


class Approval(RunInput):
    """May the challenger replace the champion?"""

    seconds: ClassVar[int] = 7 * 24 * 3600
    """How long a run waits for an answer."""

    decision: Literal["promote", "reject"] = Field(title="Decision", json_schema_extra={"position": 0})
    who: str = Field(
        pattern=r"\S",
        title="Your name",
        description="Kept in the alias's history, or as the one who said no.",
        json_schema_extra={"position": 1},
    )
    why: str = Field(default="", title="Reason", json_schema_extra={"position": 2})

    @classmethod
    def asking(cls, case: str) -> Any:
        """Return the form with the case in its description. Nothing is decided in it, and nobody named, beforehand."""
        return cls.with_initial_data(description=case)


def asks_a_person(r: Recipe) -> bool:
    """Say whether the run is to wait for an answer: only one that a deployment can start again is able to."""
    return r.retrain.approval == "by_hand" and deployment.id is not None


@contextmanager
def one_at_a_time(model: str, work: Workspace) -> Generator[None]:
    """Hold the model's only slot while the block runs; whoever comes meanwhile waits.

    The slot is leased: a process that is killed gives it back within two minutes. A temporary server forgets its leases
    when it ends, and never frees their slots, and no other machine knows it; there the slot is a file's lock, which the
    kernel frees, and a claim of the work place where that is in a bucket.
    """
    if is_temporary():
        among_machines = work.hold(f"retraining/{model}", wait=True, waiter=model) if work.store else nullcontext()
        with exclusive(server_home() / f"retrain-{model}.lock", wait=True), among_machines:
            yield
        return
    limit = LIMIT + model
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit, 1)
    with concurrency(limit, occupy=1, strict=True, lease_duration=LEASE_SECONDS):
        yield
