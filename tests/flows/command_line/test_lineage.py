"""`reglage lineage` on versions that the pipeline published."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flows.command_line.main import main
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import LocalStore

ROW = "0123456789abcdef" * 2


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """demo@1 has an index and was promoted, demo@2 has none."""
    opened, staging = ModelRegistry(LocalStore(tmp_path / "registry")), tmp_path / "staging"
    (staging / "lineage" / "mail").mkdir(parents=True)
    (staging / "lineage/mail/train.rows").write_bytes(bytes.fromhex(ROW))
    lineage: Any = {
        "data": {
            "mail": {
                "files": [{"uri": "s3://b/rows.jsonl", "bytes": 2_000_000, "sha256": "f" * 64, "rows": 3}],
                "rows": {"train": 2, "test": 1},
                "index": {"splits": {"train": 1}, "key": None, "salt": ""},
            }
        },
        "base_model": {"name": "models/tiny", "weights": "w" * 64},
        "recipe_digest": "r" * 64,
        "weights": {"published": "p" * 64, "candidate": "alpha=0.5", "start": "s" * 64, "end": "e" * 64},
        "code": {"reglage": "1", "commit": "c" * 40, "lock_sha256": None},
    }
    files = (file_of(staging, "lineage/mail/train.rows"),)
    for key, facts, held in (("1", lineage, files), ("2", {"recipe": {}}, ())):
        manifest = Manifest(name="demo", description="", files=held, metrics={}, lineage=facts)
        opened.publish(manifest, staging, key, lambda _: None, tmp_path)
    opened.promote("demo", "champion", 1, None, "ann", "")
    return tmp_path / "registry"


def call(registry: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["lineage", *words, "--registry", str(registry)], env={"COLUMNS": "200"})


def test_what_a_version_was_made_from(registry: Path):
    text = call(registry, "demo@champion").stdout
    for part in ("demo@1", "models/tiny", "alpha=0.5", "s3://b/rows.jsonl", "2.00", "ffffffffffff", "no version of"):
        assert part in text
    found = json.loads(call(registry, "demo@1", "--json").stdout)
    assert (found["version"], found["parents"]) == (1, [])
    assert found["lineage"]["data"]["mail"]["rows"] == {"train": 2, "test": 1}
    assert call(registry, "demo@2").exit_code == 0  # published by other means: nothing is known, nothing fails


def test_which_versions_a_row_is_in(registry: Path):
    assert call(registry, "--row", "f" * 32).exit_code == 6
    both = call(registry, "--row", ROW, "--row", "f" * 32)
    assert both.exit_code == 0
    text = both.stdout
    assert "demo@1" in text
    assert "champion" in text
    assert "trained" in text
    assert f"row {'f' * 32}: in no version, of 1 that have an index" in text
    assert "without an index of rows: demo@2" in text
    found = json.loads(call(registry, "--row", ROW, "--key", "7", "--json").stdout)
    assert [holding["version"] for holding in found["found"]] == ["demo@1"]
    assert (found["aliases"], found["without_index"], found["without_keys"]) == (
        {"demo": {"champion": 1}},
        ["demo@2"],
        ["demo@1"],
    )


@pytest.mark.parametrize(
    ("given", "looked_up"),
    [("7.0", ["7.0"]), ('"7"', ['"7"', "7"]), ("007", ["007"]), ("7", ["7"]), ("ann@x.org", ["ann@x.org"])],
)
def test_a_key_is_looked_up_as_rows_may_hold_it(given: str, looked_up: list[str], registry: Path) -> None:
    said = call(registry, "--key", given).stdout.splitlines()
    missed = [line.partition(": in no version")[0] for line in said if "in no version" in line]
    assert missed == [f"key {key}" for key in looked_up]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a version, or rows"),
        (("demo@1", "--row", ROW), "give a version, or rows"),
        (("--row", "7"), "32 hex digits"),
        (("nobody",), "has no model 'nobody'"),
    ],
)
def test_what_cannot_be_answered_is_one_line(registry: Path, words: tuple[str, ...], message: str):
    result = call(registry, *words)
    assert result.exit_code in (2, 6)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
