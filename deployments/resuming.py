"""Which flows may be run again by themselves; without Prefect, which the supervisor of `reglage up` does not load."""

RESUMING = ("finetune", "retrain", "evaluate", "interpolate")
"""The flows that go on from where they were. One that moves an alias is for a person to repeat: it may be too late."""
