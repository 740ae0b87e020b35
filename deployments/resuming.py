"""Which flows may be run again by themselves; without Prefect, which the supervisor of `reglage up` does not load."""

RESUMING = ("finetune", "retrain", "evaluate")
"""The flows that go on from where they were.

One that moves an alias is for a person to repeat, since it may be too late, and so is `interpolate`: the folder that it
made would be in its own way.
"""
