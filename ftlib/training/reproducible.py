"""The same sums every time on a GPU: kernels that add in the order in which threads happen to finish are left out.

Seen on an H200 (torch 2.11): two trainings of a model of 1 B parameters from one seed ended with other bits, by the
backward pass of attention. A resumed run must end as the run that was not killed would have.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""cuBLAS may pick another algorithm where several streams share a workspace; two fixed ones of 4 MiB keep it to one."""
CUBLAS_VALUE = ":4096:8"


@contextmanager
def reproducible(device: torch.device) -> Generator[None]:
    """Have torch take its deterministic kernels while the block runs; the processor's are so already.

    An operation that has none runs as it is, and torch warns once by its name: such a model is not reproducible to the
    bit. Call it before the first product on the GPU: cuBLAS reads its setting then.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault(CUBLAS, CUBLAS_VALUE)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a guard against other bugs, at a pass over memory
    try:
        with warnings.catch_warnings():
            # Attention has both kinds of backward pass, and warns although it now takes the deterministic one.
            warnings.filterwarnings("ignore", message=".*[Aa]ttention defaults to a non-deterministic algorithm")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling
