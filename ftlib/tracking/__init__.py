"""Trackers outside: what a run's curves and evaluations look like in TensorBoard and MLflow.

A tracker is shown the state of a run again and again, and brings what it keeps up to it. The state is read from the
files that the run writes anyway (`curves.jsonl`): nothing in the training loop knows of a tracker, workers on other
machines have none, and what a resumed run takes back is taken back here. Start at `state.py`, `follower.py`.
"""
