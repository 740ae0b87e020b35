"""Which flows may be run again by themselves, and which need not be; without Prefect, whose import takes seconds."""

RESUMING = ("finetune", "retrain", "evaluate")
"""The flows that go on from where they were.

One that moves an alias is for a person to repeat, since it may be too late, and so is `interpolate`: the folder that it
made would be in its own way.
"""

ANEW = ("watch", "monitor", "janitor")
"""The flows that look anew each time: what one of them was stopped in, the next one does."""
