"""A recipe on two machines that share nothing but a bucket: caches, homes and working folders of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftlib.testing import tiny_recipe

REGISTRY = "publish.to={{kind: s3, bucket: {0}, prefix: registry}}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_one_machine_did_the_other_finds_and_goes_on_with(bucket: Any, s3_endpoint: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    place = f"s3://{bucket.name}/work"

    def reglage(machine: str, *words: str) -> Any:
        own = {name: str(tmp_path / machine / name.lower()) for name in ("HOME", "REGLAGE_CACHE")}
        for folder in own.values():
            Path(folder).mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", "-m", "ftlib", *words, "--work", place, "--json"]
        environment = {**os.environ, **own, "AWS_ENDPOINT_URL": s3_endpoint}
        done = subprocess.run(command, cwd=tmp_path / machine, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "ResourceWarning" not in done.stderr
        return json.loads(done.stdout)

    to = ("--set", REGISTRY.format(bucket.name))
    first = reglage("one", "run", str(recipe), *to)
    assert first["report"] == f"{place}/runs/tiny/report.html"
    assert Path(first["report_file"]).is_relative_to(tmp_path / "one")
    again = reglage("two", "run", str(recipe), *to)
    assert again["all_done_before"]
    assert again["results"] == first["results"]
    assert again["version"]["version"] == first["version"]["version"] == 1
    promoted = reglage("one", "retrain", str(recipe), *to)
    assert promoted["outcome"] == "promoted"
    listed = reglage("two", "work", "list")
    assert listed["folder"] == place
    assert any(item["runs"] == ["tiny"] for item in listed["kept"])
