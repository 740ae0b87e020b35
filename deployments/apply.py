"""Make a Prefect server what an environment says it is."""

from deployments.changes import Change, steps
from deployments.environment import Environment
from deployments.server import connected


def apply(environment: Environment) -> list[Change]:
    """Create, update and delete what differs, and return everything of the environment with what was done to it.

    It is safe to be run again, also after one that was killed half-way. Raises what `changes` raises.
    """
    with connected() as client:
        planned = steps(client, environment)
        for step in planned:
            if step.change.what != "unchanged":
                step.make()
    return [step.change for step in planned]
