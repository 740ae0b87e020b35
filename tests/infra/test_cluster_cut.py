"""Links that are cut and healed under a training on Ray nodes that share nothing but a bucket."""

from __future__ import annotations

import time

import pytest

from infra.cluster import Cluster
from tests.infra.cluster_runs import ALONE, MARKS, Run, put_project, versions, with_nodes

pytestmark = MARKS


def test_a_node_that_is_cut_off_is_made_up_for_and_does_no_harm_when_it_is_back(
    cluster: Cluster, undisturbed: Run
) -> None:
    run = undisturbed.again("cut").is_at(40)
    cluster.cut(cut := run.busy()[-1])
    print(f"{run.goes_on():.1f} s from the cut to the next step")
    cluster.heal(cut)
    assert run.succeeds().weights() == undisturbed.weights()
    with_nodes(cluster, 3)


def test_a_link_that_is_cut_for_seconds_costs_no_restart(cluster: Cluster, undisturbed: Run) -> None:
    run = undisturbed.again("blink").is_at(40)
    cluster.cut(cut := run.busy()[-1])
    time.sleep(4)
    cluster.heal(cut)
    assert run.succeeds().weights() == undisturbed.weights()
    assert run.begun() == [0]


@pytest.mark.parametrize("who", ["bucket", "node"])
def test_the_way_to_the_bucket_is_cut_for_half_a_minute_and_the_run_goes_on(
    cluster: Cluster, undisturbed: Run, who: str
) -> None:
    """Of all machines, or of one node that trains."""
    run = undisturbed.again(f"dark-{who}").is_at(40)
    cut = run.busy()[-1] if who == "node" else "bucket"
    cluster.cut(cut, "bucket" if who == "node" else None)
    time.sleep(30)
    cluster.heal(cut)
    assert run.succeeds().weights() == undisturbed.weights()
    assert run.begun() == [0]


def test_a_machine_that_comes_back_after_its_claim_ended_takes_the_others_version(cluster: Cluster) -> None:
    """Each trains by itself; the first one's link is cut until the second has taken over, and healed then."""
    put_project(cluster, second := cluster.add(1))
    cluster.kill(second)  # its disk and its network stay
    long = "phases.tune.optimizer.epochs=2000"
    first = Run(cluster, "returned", long, *ALONE).is_at(100)
    before = versions(cluster)
    cluster.cut("laptop")
    other = Run(cluster, "returned", long, *ALONE, machine=second)
    print(f"{other.goes_on():.1f} s from the start of the second machine to its first step")
    cluster.heal("laptop")
    first.succeeds()
    other.succeeds()
    assert "waiting for it" in first.output
    assert first.begun()[1] > 0
    assert len(versions(cluster)) == len(before) + 1
    with_nodes(cluster, 3)
