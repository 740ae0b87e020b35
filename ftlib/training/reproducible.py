"""The same sums every time on a GPU: kernels that add in the order in which threads happen to finish are left out.

A resumed run must end as the run that was not killed would have. Seen on an H200 (torch 2.11): two trainings of a model
of 1 B parameters in bf16 from one seed ended with other bits, also where torch was only asked to warn.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils import deterministic

log = logging.getLogger(__name__)

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""cuBLAS may pick another algorithm where several streams share a workspace; fixed ones of 4 MiB keep it to one."""
CUBLAS_VALUE = ":4096:8"

T = TypeVar("T")


def reproducibly(device: torch.device, work: Callable[[], T]) -> T:
    """Do work with torch's deterministic kernels; the processor's are so already.

    Work that has an operation without such a kernel is done again as it is: it goes on, and is not the same to the bit
    every time, which the log says by the operation's name. Call it before the first product on the GPU: cuBLAS reads
    its setting then.
    """
    if device.type != "cuda":
        return work()
    os.environ.setdefault(CUBLAS, CUBLAS_VALUE)
    try:
        with _only_deterministic_kernels():
            return work()
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        log.warning("not the same to the bit every time on this GPU: %s", str(error).partition(".")[0])
    return work()


@contextmanager
def _only_deterministic_kernels() -> Generator[None]:
    # Strict: where it may only warn, memory-efficient attention keeps the backward pass that adds with atomics.
    settings: Any = deterministic  # its module sets the attribute behind a property
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # a guard against other bugs, at a pass over memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filling
