"""For a CUDA machine. `GPU_REHEARSAL=1` runs the same tests on the processor, before a GPU is there."""

import os

import pytest
import torch

REHEARSAL = bool(os.environ.get("GPU_REHEARSAL"))


@pytest.fixture(scope="session")
def use_gpu() -> bool:
    if not REHEARSAL and not torch.cuda.is_available():
        pytest.fail("torch sees no GPU here; GPU_REHEARSAL=1 runs these tests on the processor")
    return not REHEARSAL


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what failed: the machine may be gone before the session ends."""
    if report.failed:
        print(f"\nFAILED {report.nodeid}\n{str(report.longrepr)[-1500:]}", flush=True)
