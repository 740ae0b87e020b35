"""Bring a server up to date with what an installation runs: `python -P -m deployments.machine.setup [RECIPE]...`.

A program of its own, which ends: the supervisor stays small, and Prefect reads its settings once a process.
"""

import os
import sys

from deployments.environment import WorkPool, read_environment
from deployments.machine.api import POOL
from ftlib.errors import ReglageError


def set_up(recipes: tuple[str, ...]) -> list[str]:
    """Create or update pool, deployments, limits and automations, and deploy recipes; return what changed, in lines.

    What is deployed is what $REGLAGE_ENVIRONMENT says, with this machine's pool and home.
    """
    from deployments.apply import apply
    from deployments.recipe_deployment import Wishes, deploy_recipe

    here = {"pool": WorkPool(name=POOL), "home": os.environ["REGLAGE_HOME"]}
    environment = read_environment().model_copy(update=here)
    done = [*apply(environment), *(deploy_recipe(recipe, Wishes(), environment)[1] for recipe in recipes)]
    return [line for change in done if change.what != "unchanged" for line in change.lines()]


if __name__ == "__main__":
    try:
        print("\n".join(set_up(tuple(sys.argv[1:]))))
    except ReglageError as problem:
        print(f"reglage: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
