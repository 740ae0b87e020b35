"""Bring a server up to date with what an installation runs: `python -P -m deployments.machine.setup [RECIPE]...`.

A program of its own, which ends: the supervisor stays small, and Prefect reads its settings once a process. Its last
line on stdout is JSON: `pool`, the work pool that the worker is to serve, and `changes`, what was done.
"""

import json
import sys
import time
from contextlib import suppress
from typing import Any

from ftlib.errors import RecipeError, ReglageError, StorageError, TransientError

ATTEMPTS = 6
"""How often a server that does not answer in time is asked: `reglage up` holds its socket, so it will."""
PAUSE = 5.0
"""Seconds between two attempts."""


def set_up(recipes: tuple[str, ...]) -> dict[str, Any]:
    """Create or update pool, deployments, limits and automations; return the pool's name and a line for each change.

    The environment is the one that $REGLAGE_ENVIRONMENT names. Raises RecipeError for one whose runs are no processes
    of this machine, and what `deployments.apply` and `reglage deploy` raise.
    """
    from deployments.apply import apply
    from deployments.deployment import below
    from deployments.environment import read_environment
    from deployments.recipe_deployment import Wishes, deploy_recipe
    from deployments.server import connected
    from flows.pages.runs_shown import show_runs_at_first
    from ftlib.workspace import Workspace

    environment = read_environment()
    if environment.pool.type != "process":
        raise RecipeError(
            f"environment {environment.name}: pool.type: got {environment.pool.type}, allowed here is process: "
            "`reglage up` starts runs on this machine; give another environment by --env"
        )
    changes = apply(environment)
    for recipe in recipes:
        changes += deploy_recipe(recipe, Wishes(moves=True), environment)[1]
    with suppress(StorageError), connected() as client:  # no page of runs is no reason not to start
        show_runs_at_first(client, Workspace(below(environment.home, environment.work)))
    lines = [line for change in changes if change.what != "unchanged" for line in change.lines()]
    return {"pool": environment.pool.name, "changes": lines}


def set_up_patiently(recipes: tuple[str, ...]) -> dict[str, Any]:
    """Set up, again where the server is too busy to answer: on a loaded machine its first seconds are the longest.

    Raises TransientError where it never answers, and what `set_up` raises.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return set_up(recipes)
        except TransientError:
            time.sleep(PAUSE)
    return set_up(recipes)


if __name__ == "__main__":
    try:
        print(json.dumps(set_up_patiently(tuple(sys.argv[1:]))))
    except ReglageError as problem:
        print("\n".join(f"reglage: {line}" for line in str(problem).splitlines()), file=sys.stderr)
        sys.exit(problem.exit_code)
