"""What a GPU is asked for, tried on the processor: torch's settings are the same for both."""

from __future__ import annotations

import logging

import pytest
import torch

from ftlib.training.reproducible import CUBLAS, reproducibly

GPU = torch.device("cuda")


def strict() -> bool:
    return torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()


def scattered() -> bool:
    """put_ has no deterministic kernel on any device; see torch.use_deterministic_algorithms."""
    torch.zeros(3).put_(torch.tensor([1]), torch.tensor([2.0]))
    return strict()


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS, raising=False)


def test_only_deterministic_kernels_run_and_the_callers_settings_come_back() -> None:
    before = torch.utils.deterministic.fill_uninitialized_memory
    assert reproducibly(GPU, strict)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == before
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert reproducibly(GPU, strict)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operation_without_such_a_kernel_is_named_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert reproducibly(GPU, scattered) is False
    assert "not the same to the bit every time on this GPU: put_" in caplog.text


def test_the_processor_and_other_errors_are_left_alone() -> None:
    def broken() -> None:
        raise RuntimeError("out of memory")

    assert not reproducibly(torch.device("cpu"), strict)
    with pytest.raises(RuntimeError, match="out of memory"):
        reproducibly(GPU, broken)
    assert not torch.are_deterministic_algorithms_enabled()
