"""The cluster that the tests of `infra.cluster` share: it takes half a minute to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.cluster import BUCKET, Cluster
from tests.infra.cluster_runs import LONG, Run, client, put_project


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head, three worker nodes and a bucket; afterwards nothing of them is left."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster") / "c")
    try:
        cluster.up(3, 1)
        client(cluster).upload_file(str(put_project(cluster, "laptop") / "rows.jsonl"), BUCKET, "rows.jsonl")
        yield cluster
    finally:
        cluster.down()
    assert cluster.left() == []


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster) -> Run:
    """A run to which nothing happens."""
    return Run(cluster, "undisturbed", LONG).succeeds()
