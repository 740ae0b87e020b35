"""Ask a cluster what its nodes have, and whether more of them may come."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import ray
from ray.job_submission import JobSubmissionClient

from ftlib.errors import RecipeError, TransientError, first_line
from ftlib.progress import note
from ftlib.training.compute import Compute
from ftlib.training.resources import Wanted, lacking
from ftlib.wording import counted, some

NO_ANSWER = (OSError, RuntimeError)
"""What the Jobs API raises where no cluster answers it: an error of requests, or RuntimeError for a status."""


def job_client(address: str) -> JobSubmissionClient:
    """Open a cluster's Jobs API. Raises TransientError, with the address and the remedy, if it does not answer."""
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TransientError(
            f"compute.ray_address is {address}, where no Ray cluster answers ({first_line(error)[:200]}); start it, "
            "correct the address, or set it to local; a cluster with tokens wants RAY_AUTH_MODE and RAY_AUTH_TOKEN"
        ) from error


def check_cluster(compute: Compute, asked: Sequence[Wanted]) -> None:
    """Compare what is asked for with the nodes that a cluster has.

    Raises RecipeError where it can never come. On a cluster that makes nodes by itself they may still: then a line
    says what is waited for, `compute.start_timeout_seconds` an attempt. Raises TransientError if it does not answer.
    """
    client = job_client(compute.ray_address)
    nodes = _nodes(client)
    if nodes is None:
        return
    if (missing := lacking(asked, nodes)) is None:
        if (later := lacking([replace(one, workers=one.most) for one in asked], nodes)) is not None:
            has = told(compute.ray_address, nodes)
            note("cluster", f"{has}, room for fewer than {later.most} workers: a training grows when nodes come")
        return
    if _grows(client):
        note("cluster", f"{missing}; nodes may still come")
        return
    raise RecipeError(f"{missing}, but {told(compute.ray_address, nodes)}; lower it, compute.threads, or add nodes")


def told(cluster: str, nodes: Sequence[dict[str, float]]) -> str:
    """Say what a cluster's nodes have, those alike together. A head that runs nothing is none of them."""
    alike = Counter(tuple(int(node.get(kind, 0)) for kind in ("CPU", "GPU")) for node in nodes)
    each = [
        f"{counted(count, 'node')} of {counted(cpus, 'CPU')} and {counted(gpus, 'GPU')}"
        for (cpus, gpus), count in alike.items()
        if cpus or gpus
    ]
    return f"{cluster} has {some(each) or 'no node that runs anything'}"


def nodes_here() -> list[dict[str, float]]:
    """Return the resources of each node of the cluster that this process has joined."""
    return [cast("dict[str, float]", node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _nodes(client: JobSubmissionClient) -> list[dict[str, float]] | None:
    """Return the resources of each living node; None where the dashboard does not say."""
    answer = _get(client, "/api/v0/nodes?limit=10000&detail=1")
    rows: Any = answer
    for name in ("data", "result", "result"):
        rows = rows.get(name) if isinstance(rows, dict) else None
    if not isinstance(rows, list):
        return None
    alive = [row.get("resources_total") or {} for row in rows if row.get("state") == "ALIVE"]
    return alive or None  # a head that has just started does not know of itself yet


def _grows(client: JobSubmissionClient) -> bool:
    """Say whether an autoscaler makes nodes of kinds it knows; without one every node is of a kind of its own."""
    report: Any = _get(client, "/api/cluster_status?format=0")
    for name in ("data", "clusterStatus", "autoscalerReport"):
        report = report.get(name) if isinstance(report, dict) else None
    if not isinstance(report, dict):
        return False
    kinds = {*(report.get("activeNodes") or {}), *(report.get("pendingLaunches") or {})}
    return any(not re.fullmatch(r"node_?[0-9a-fA-F]+", kind) for kind in kinds)


def _get(client: JobSubmissionClient, path: str) -> object:
    answer: Any = cast(Any, client)._do_request("GET", path)
    return answer.json() if answer.status_code == 200 else None
