import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.states import Failed

from ftlib.errors import BusyError, DataError, StorageError, TransientError
from ftlib.workspace import Workspace
from tasks import assess, data, policy, publish, train

TASKS = [data.ingest, data.preprocess, train.base, train.train, assess.interpolate, assess.evaluate, assess.select]
TASKS += [publish.report, publish.register]

PRINT_KEYS = """
import sys
from flows.run.jobs import ingest_job
from ftlib.recipe.file import load_recipe
from tasks.policy import cache_key
recipe = load_recipe(sys.argv[1])
print(*[cache_key(None, {"job": ingest_job(recipe, name)}) for name in recipe.datasets])
"""


@pytest.mark.parametrize(
    ("error", "again"),
    [(TransientError("x"), True), (DataError("x"), False), (StorageError("x"), False), (TimeoutError(), False)],
)
def test_exactly_transient_errors_are_retried(error, again):
    assert policy.is_transient(data.ingest, None, Failed(data=error)) is again


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_stage_task_has_the_policy(task):
    assert task.retry_condition_fn is policy.is_transient
    assert task.retries == 3
    if task is publish.register:
        assert not task.persist_result  # the registry is asked every time
    else:
        assert task.cache_policy.cache_key_fn is policy.cache_key
        assert (task.persist_result, task.result_serializer) == (True, "json")
    assert (task.timeout_seconds is None) == (task is train.train)


@pytest.mark.slow
def test_the_key_is_the_same_in_every_process(tiny_recipe: Path):
    """Prefect's own keys are not: they differ with the hash seed for sets of strings."""
    keys = {
        subprocess.run(
            [sys.executable, "-c", PRINT_KEYS, str(tiny_recipe)],
            env={"PYTHONHASHSEED": seed, "PATH": "", "DO_NOT_TRACK": "1"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    (printed,) = keys
    assert len(set(printed.split())) == 2


def test_the_key_names_stage_and_job():
    job = SimpleNamespace(stage="train", fingerprint="0123456789abcdef")
    assert policy.cache_key(None, {"job": job}) == "train-0123456789abcdef"


def test_a_task_without_prefect_is_the_stage(tiny_recipe: Path, tmp_path: Path):
    from flows.run.jobs import ingest_job
    from ftlib.recipe.file import load_recipe

    job = ingest_job(load_recipe(tiny_recipe), "home")
    raw = data.ingest.fn(job, Workspace(tmp_path))
    assert raw.ledger.kept == 120
    assert raw.path == Workspace(tmp_path).folder(job)


def test_busy_is_not_transient():
    assert not issubclass(BusyError, TransientError)
