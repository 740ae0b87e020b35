"""Trainings that are stopped at a step, as Ctrl-C stops them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from ftlib.errors import Interrupted
from ftlib.progress import Progress, listen
from ftlib.training.curves import STEPS


@contextmanager
def stopped_at(step: int, late: int = 0) -> Generator[None]:
    """Ask a training to stop when it has told of this step; it must end with that request, at most so many later."""

    def stop(sign: Progress) -> None:
        if sign.unit == STEPS and sign.done >= step:
            raise Interrupted("stopped on request")

    steps = "|".join(str(one) for one in range(step, step + late + 1))
    asked = rf"stopped on request after step ({steps}) of \d+; the next run goes on from there"
    with listen(stop), pytest.raises(Interrupted, match=asked):
        yield
