"""Events of Réglage on Prefect's server: hints that something may be worth a run."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect import get_client
from prefect.runtime import flow_run

DATASET = "reglage.dataset."
"""What an event is about: this and the model's name."""
CHANGED = "reglage.data.changed"
"""Files have come, changed or gone where a model's rows come from."""
DRIFT = "reglage.drift"
"""What a model is asked, or answers, is no longer like what it was made with."""
QUALITY = "reglage.quality"
"""A model's live answers are worse than they were at publishing."""


def send_event(event: str, model: str, identity: str, payload: Mapping[str, Any]) -> None:
    """Send an event, and wait until the server has it. The same identity makes it the same one, also after a kill."""
    told: dict[str, Any] = {
        "id": str(uuid5(NAMESPACE_URL, identity)),
        "occurred": datetime.now(UTC).isoformat(),
        "event": event,
        "resource": {"prefect.resource.id": DATASET + model, "prefect.resource.name": model},
        "payload": dict(payload),
    }
    if flow_run.id:
        run = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
        told["related"] = [run]
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[told])
