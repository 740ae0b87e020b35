"""Who works on the rows of a stage: this process, or `compute.data_workers` of Ray."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ftlib.data.passes.executor import Executor, InProcess
from ftlib.training.compute import Compute


@contextmanager
def data_executor(compute: Compute) -> Generator[Executor]:
    """Have those who work on rows while the block runs."""
    if compute.data_workers == 0:
        yield InProcess()
        return
    from ftlib.on_ray.data import RayData
    from ftlib.on_ray.session import session

    with session(compute):
        yield RayData(compute)
