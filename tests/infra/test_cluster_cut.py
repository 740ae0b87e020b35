"""Links that are cut and healed under a training on Ray nodes that share nothing but a bucket."""

from __future__ import annotations

import time

from infra.cluster import Cluster
from tests.infra.cluster_runs import ALONE, ENDLESS, MARKS, Run, put_project, with_nodes

pytestmark = MARKS


def test_links_that_are_cut_for_a_while_cost_no_restart(cluster: Cluster, undisturbed: Run) -> None:
    """A node's link for seconds; half a minute long all ways to the bucket, and that of a node that trains."""
    run = undisturbed.again("dark", ENDLESS).is_at(40)
    node = run.busy()[-1]
    for cut, other, seconds in ((node, None, 4), ("bucket", None, 30), (node, "bucket", 30)):
        cluster.cut(cut, other)
        time.sleep(seconds)
        cluster.heal(cut)
        saved = run.saved()
        run.wait_for(lambda saved=saved: run.saved() > saved + 1)  # the first may have been under way
        assert run.starts() == [0]
    run.stops()


def test_a_machine_that_comes_back_after_its_claim_ended_takes_the_others_training(cluster: Cluster) -> None:
    """Each trains by itself; the first one's link is cut until the second has taken over, and healed then."""
    put_project(cluster, second := cluster.add(1))
    cluster.kill(second)  # its disk and its network stay
    asked = ("phases.tune.optimizer.epochs=600", *ALONE)  # more than the first has trained when its claim ends
    first = Run(cluster, "returned", *asked).is_at(40)
    other = Run(cluster, "returned", *asked, "name=second", machine=second)  # two of one name are refused
    other.wait_for(lambda: "waiting for it" in other.output)
    cluster.cut("laptop")
    print(f"{other.goes_on():.1f} s from the cut to the second machine's first step")
    cluster.heal("laptop")
    first.succeeds()
    other.succeeds()
    assert "waiting for it" in first.output
    assert first.begun()[1] > 0
    assert len(first.records("train")) == 1
    with_nodes(cluster, 3)
