"""Settings of the environment, and nothing else: no test may need the network or reach a real Prefect server."""

import os
import sys
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)  # an example may take a second where others work beside it
settings.load_profile("busy")
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)
os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture(scope="session", autouse=True)
def own_node_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what this node fetches from buckets out of the user's own cache, also in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGLAGE_CACHE", str(tmp_path_factory.mktemp("node")))
        yield


@pytest.fixture(autouse=True)
def quick_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict a worker's memory between two steps alone: the passes take longer than a tiny model's training.

    A module that is about them has a fixture of this name that does nothing.
    """
    if "torch" in sys.modules:  # which a test that trains has, and a first training would load the worker behind us
        from ftlib.training import worker

        monkeypatch.setattr(worker, "predict", partial(worker.predict, passes=False))


@pytest.fixture(autouse=True)
def short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two writers race where a registry probes its store: sixteen are half of the requests of a test on S3.

    The tests of the probe call it themselves, with all of them.
    """
    if (registry := sys.modules.get("ftlib.registry.registry")) is not None:
        monkeypatch.setattr(registry, "probe", partial(registry.probe, writers=2))
