"""`reglage up`, `deploy` and `watch` with work, rows and registry in a bucket, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.deployed import Up
from ftlib.testing import tiny_recipe, tiny_rows, write_jsonl
from tests.ftlib.conftest import bucket, s3_credentials, s3_endpoint  # noqa: F401

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(3600)]

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Installation:
    """`reglage up` in an empty home, and a recipe elsewhere, of which nothing but the model is on this machine."""

    def __init__(self, folder: Path, bucket: Any, endpoint: str) -> None:  # noqa: F811
        self.bucket, self.home, self.place = bucket, folder / "home", f"s3://{bucket.name}/work"
        self.home.mkdir()
        self.recipe = tiny_recipe(folder)
        self.put(folder / "home.jsonl")
        to = f"{{kind: s3, bucket: {bucket.name}, prefix: registry}}"
        text = self.recipe.read_text().replace(f"{{kind: folder, path: {folder}/registry}}", to)
        text = text.replace(f"path: {folder}/home.jsonl", f'path: "s3://{bucket.name}/rows/"')
        self.recipe.write_text(f"{text}retrain: {{min_fresh_rows: 1}}\n")
        self.up = Up(self.home, {"AWS_ENDPOINT_URL": endpoint, "REGLAGE_CACHE": str(folder / "cache")})

    def put(self, file: Path) -> None:
        self.bucket.upload_file(str(file), f"rows/{file.name}")

    def keys(self, prefix: str) -> list[str]:
        return [one.key for one in self.bucket.objects.filter(Prefix=prefix)]

    def versions(self) -> int:
        return len([key for key in self.keys("registry/models/") if "/versions/" in key])

    def press_run(self, name: str, **parameters: object) -> str:
        """Start a run of a deployment, `flow/name`, as its page's button does; return its id."""
        there = self.up.api.get(f"/deployments/name/{name}").raise_for_status().json()
        body = {"parameters": {**there["parameters"], **parameters}, "state": {"type": "SCHEDULED"}}
        answer = self.up.api.post(f"/deployments/{there['id']}/create_flow_run", json=body)
        assert not answer.is_error, answer.text
        return answer.json()["id"]

    def press_cancel(self, run: str) -> None:
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.up.api.post(f"/flow_runs/{run}/set_state", json={"state": state}).raise_for_status()

    def end(self, run: str) -> dict[str, Any]:
        def state() -> dict[str, Any] | None:
            now = self.up.api.get(f"/flow_runs/{run}").json()["state"]
            return now if now["type"] in ENDED else None

        return waited("its end", state)

    def runs(self, flow: str) -> list[dict[str, Any]]:
        body = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return self.up.api.post("/flow_runs/filter", json=body).json()


def waited(what: str, seen: Callable[[], Any], seconds: float = 1500.0) -> Any:
    ends = time.monotonic() + seconds
    while not (one := seen()):
        assert time.monotonic() < ends, f"{what}: not in {seconds:g} s"
        time.sleep(0.5)
    return one


@pytest.fixture
def there(tmp_path: Path, bucket: Any, s3_endpoint: str) -> Iterator[Installation]:  # noqa: F811
    there = Installation(tmp_path, bucket, s3_endpoint)
    try:
        yield there
    finally:
        there.up.command("down")


def test_runs_of_deployments_have_their_work_in_a_bucket(there: Installation, tmp_path: Path) -> None:
    """A retraining by hand, one by files that come; a form's run that is cancelled, and the next goes on from there."""
    said = there.up.command(
        "deploy", str(there.recipe), "--work", there.place, "--event", "--watch", "* * * * *", "--timezone", "UTC"
    )
    assert there.place in said
    assert there.end(there.press_run("retrain/tiny-router", overrides=[]))["name"] == "Promoted"
    assert there.versions() == 1
    waited("what is there was told", lambda: there.keys("work/watch/"))
    write_jsonl(tmp_path / "more.jsonl", tiny_rows(80, seed=7))
    there.put(tmp_path / "more.jsonl")
    waited("the second version", lambda: there.versions() == 2)
    waited("no retraining goes on", lambda: all(one["state_type"] in ENDED for one in there.runs("retrain")))
    assert {one["state_type"] for one in there.runs("retrain")} == {"COMPLETED"}

    long = ["phases.tune.optimizer.epochs=300", "compute.checkpoint_seconds=1"]
    asked = {"recipe": str(there.recipe), "work": there.place, "overrides": long}
    run = there.press_run("finetune/finetune", **asked)
    waited("a checkpoint", lambda: [key for key in there.keys("work/attempts/") if "/manifests/" in key])
    there.press_cancel(run)
    assert there.end(run)["type"] == "CANCELLED"
    assert there.end(there.press_run("finetune/finetune", **asked))["type"] == "COMPLETED"
    tuned = [record for record in trained(there) if record["phase"] == "tune"]
    assert max(record["facts"].get("resumed_from_step", 0) for record in tuned) > 0
    assert there.keys("work/attempts/") == there.keys("work/claims/") == []
    assert [path.name for path in there.home.iterdir()] == [".reglage"]  # no work folder


def trained(there: Installation) -> list[dict[str, Any]]:
    """The artifacts of all phases in the work place."""
    found = [key for key in there.keys("work/stages/train/") if key.endswith("record.json")]
    return [json.loads(there.bucket.Object(key).get()["Body"].read())["artifact"] for key in found]


def test_a_work_place_that_cannot_be_is_one_line_on_the_page(there: Installation) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        there.up.command("deploy", str(there.recipe), "--work", "ftp://nowhere/work")
    run = there.press_run("finetune/finetune", recipe=str(there.recipe), work="s3://no-such-bucket/work")
    state = there.end(run)
    assert state["type"] == "FAILED"
    assert "no-such-bucket" in state["message"]
    assert "\n" not in state["message"].strip()
