"""Settings of the environment, and nothing else: no test may need the network or reach a real Prefect server."""

import os
import sys
from functools import partial

import pytest

for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)
os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture(autouse=True)
def quick_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict a worker's memory between two steps alone: the passes take longer than a tiny model's training.

    A module that is about them has a fixture of this name that does nothing.
    """
    if (worker := sys.modules.get("ftlib.training.worker")) is not None:
        monkeypatch.setattr(worker, "predict", partial(worker.predict, passes=False))
