"""Ray nodes that share nothing but a bucket, and what runs on them while nothing happens to them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.cluster import Cluster, ClusterError, main
from tests.infra.cluster_runs import LONG, MARKS, Run, keys

pytestmark = MARKS


def test_nodes_share_nothing_but_the_bucket(cluster: Cluster) -> None:
    """No other path can be written to, and neither networks nor processes of others are seen."""
    look = "touch /tmp/mine; touch /root/all 2>&1; touch /opt/all 2>&1; ls /tmp; hostname -I"
    said = cluster.popen(["sh", "-c", look], stdout=subprocess.PIPE).communicate(timeout=30)[0]
    assert said.count("Read-only file system") == 2
    assert "node-" not in said
    assert cluster.machines["laptop"].address in said


def test_data_and_evaluation_shared_out_among_nodes_make_the_same(cluster: Cluster, undisturbed: Run) -> None:
    shared = ("compute.data_workers=2", "compute.data_worker_memory_mb=768", "compute.evaluation_workers=2")
    run = Run(cluster, "shared-out", LONG, *shared).succeeds()
    for stage in ("ingest", "preprocess", "train", "evaluate"):
        assert made(run, stage) == made(undisturbed, stage) != {}


def made(run: Run, stage: str) -> dict[str, Any]:
    """What a stage says of what it made, but for how long it took and where it is."""
    varies = {"uri", "seconds", "facts", "base"}
    return {
        key: {name: value for name, value in record["artifact"].items() if name not in varies}
        for key, record in run.records(stage).items()
    }


def test_more_workers_than_the_cluster_can_give_are_refused_at_once(cluster: Cluster) -> None:
    run = Run(cluster, "many", "compute.workers=9")
    assert run.ends() == 2
    assert "9" in run.output
    assert f"has {len(cluster.nodes)} nodes of 1 CPU and no GPUs; lower it" in run.output
    assert keys(cluster, "many/stages/") == []


def test_a_second_cluster_in_the_folder_is_refused(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError, match="has a cluster"):
        cluster.up(1, 1)
    assert main(["--folder", str(cluster.folder), "kill", "node-99"]) == 1
    assert "there is no 'node-99'" in capsys.readouterr().err


def test_without_namespaces_it_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ClusterError, match="iproute2"):
        Cluster(tmp_path / "c")
