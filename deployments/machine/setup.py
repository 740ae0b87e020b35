"""Bring a server up to date with what an installation runs: `python -P -m deployments.machine.setup [RECIPE]...`.

A program of its own, which ends: the supervisor stays small, and Prefect reads its settings once a process.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deployments.machine.api import POOL
from ftlib.errors import ReglageError, StorageError


def set_up(recipes: tuple[str, ...]) -> list[str]:
    """Create or update pool, deployments, limits and automations; return a line for each that changed."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    from deployments.automations import automations, install

    said: list[str] = []
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=_template()))
            said.append(f"created: work pool {POOL}")
        except ObjectAlreadyExists:
            client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=_template()))
    file = Path(__file__).parents[1] / "prefect.yaml"
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=os.environ["REGLAGE_HOME"])
    if done.returncode:
        raise StorageError(f"the deployments could not be made: {(done.stderr or done.stdout).strip()[-500:]}")
    return [*said, *install(automations())]


def _template() -> dict[str, Any]:
    """Return what a run is started with: as Prefect has it, but not on a pipe to its worker.

    A run whose worker was killed goes on, until it writes its next line into a pipe that nobody reads any more. What
    it says stands on its page in Prefect.
    """
    from prefect.workers.process import ProcessWorker

    template = copy.deepcopy(ProcessWorker.get_default_base_job_template())
    template["variables"]["properties"]["stream_output"]["default"] = False
    return template


if __name__ == "__main__":
    try:
        print("\n".join(set_up(tuple(sys.argv[1:]))))
    except ReglageError as problem:
        print(f"reglage: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
