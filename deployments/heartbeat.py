"""How often a run gives a sign of life. What starts runs and what waits for their silence must have the same number."""

import os

from ftlib.errors import RecipeError

HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
HEARTBEAT_SECONDS = 60
"""Where the variable is not set. Prefect's own default, 180, finds a dead run after nine minutes only."""
LEAST_HEARTBEAT_SECONDS = 30


def heartbeat() -> int:
    """Return the seconds between two heartbeats of a run. Raises RecipeError for what Prefect does not take."""
    told = os.environ.get(HEARTBEAT, str(HEARTBEAT_SECONDS))
    if not told.isdecimal() or int(told) < LEAST_HEARTBEAT_SECONDS:
        raise RecipeError(f"{HEARTBEAT}: got {told!r}, allowed are whole seconds from {LEAST_HEARTBEAT_SECONDS} on")
    return int(told)
