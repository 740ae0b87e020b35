"""Machines of a cluster that are killed, and new ones, under a training on nodes that share nothing but a bucket."""

from __future__ import annotations

import time

import pytest

from infra.cluster import Cluster
from tests.infra.cluster_runs import ALONE, ENDLESS, LONG, MARKS, Run, versions, with_nodes

pytestmark = MARKS

IMPATIENT = """
from flows.command_line.main import main
from ftlib.on_ray import jobs
jobs._AWAY_SECONDS = 10.0
main()
"""


def test_a_node_that_is_killed_or_cut_off_is_made_up_for_with_the_same_weights(
    cluster: Cluster, undisturbed: Run
) -> None:
    run = undisturbed.again("killed").is_at(40)
    cluster.kill(run.busy()[-1])
    print(f"{run.goes_on():.1f} s from the kill to the next step")
    with_nodes(cluster, 3)
    run.is_at(run.starts()[-1] + 40)
    cluster.cut(cut := run.busy()[-1])
    print(f"{run.goes_on():.1f} s from the cut to the next step")
    cluster.heal(cut)  # it comes back, and does no harm
    assert run.succeeds().weights() == undisturbed.weights()
    assert len(run.begun()) == 3
    assert 0 < run.begun()[1] < run.begun()[2]
    cluster.kill(cut)  # Ray had given it up and ends it, at once or some seconds later
    with_nodes(cluster, 3)


def test_workers_become_fewer_with_a_lost_node_and_more_with_a_new_one(cluster: Cluster) -> None:
    """The losses are those of one process, step by step."""
    endless = (ENDLESS, "phases.tune.optimizer.kind=sgd")
    run = Run(cluster, "elastic", *endless, "compute.workers={at_least: 1, at_most: 3}").is_at(40)
    cluster.kill(run.busy()[-1])
    print(f"{run.goes_on():.1f} s from the kill to the next step with fewer")
    cluster.add(1)
    print(f"{run.goes_on():.1f} s from the new node to the next step with more")
    began = run.starts()
    run.is_at(began[-1] + 40)
    losses = losses_of(run)
    run.stops()
    alone = Run(cluster, "elastic-alone", *endless, *ALONE).is_at(max(losses))
    wanted = losses_of(alone)
    alone.stops()
    assert len(began) == 3
    assert losses == pytest.approx({step: wanted[step] for step in losses}, rel=1e-4)
    with_nodes(cluster, 3)


def losses_of(run: Run) -> dict[int, float]:
    """The loss of every step, as the last to make it said."""
    losses = {int(record["step"]): float(record["loss"]) for record in run.curve() if "loss" in record}
    assert [*sorted(losses)] == [*range(1, max(losses) + 1)]
    return losses


def test_a_head_that_is_gone_ends_the_run_in_a_line_and_one_that_is_started_anew_is_given_another_job(
    cluster: Cluster, undisturbed: Run
) -> None:
    run = undisturbed.again("headless", program=("python", "-c", IMPATIENT)).is_at(40)
    before, began = versions(cluster), time.monotonic()
    cluster.kill("head")
    assert run.ends() == 8
    print(f"{time.monotonic() - began:.1f} s from the head's end to the run's", run.output[-600:])
    assert "where no Ray cluster answers" in run.output.strip().splitlines()[-1]
    assert "Traceback" not in run.output
    assert (versions(cluster), run.records("train")) == (before, {})
    start_anew(cluster)
    run = Run(cluster, "headless", LONG).succeeds()  # the workers went on without a head, for a minute perhaps
    assert run.weights() == undisturbed.weights()
    assert run.begun()[-1] > 0
    run, began = undisturbed.again("anew").is_at(40), time.monotonic()
    start_anew(cluster)
    run.succeeds()
    print(f"{time.monotonic() - began:.1f} s from the head's end to the run's")
    assert run.weights() == undisturbed.weights()
    assert len(run.begun()) == 2
    assert run.begun()[-1] > 0
    assert versions(cluster) == before  # it has these weights


def start_anew(cluster: Cluster) -> None:
    """End the head and all nodes, which without a head would end after a minute, and start others."""
    for name in ("head", *cluster.nodes):
        cluster.kill(name)
    cluster.start_head()
    with_nodes(cluster, 3)
