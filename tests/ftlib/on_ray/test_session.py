"""A Ray that does not start."""

import signal

import pytest
import ray

from ftlib.errors import TransientError
from ftlib.on_ray.session import session
from ftlib.training.compute import Compute


def test_a_ray_that_does_not_start_is_one_line_and_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore words.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    before = signal.getsignal(signal.SIGTERM)
    words = r"^Ray did not start on this machine: The current node timed out .*workers: 0$"
    with pytest.raises(TransientError, match=words), session(Compute(workers=1)):
        raise AssertionError("it was used")
    assert signal.getsignal(signal.SIGTERM) == before
