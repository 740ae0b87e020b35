"""Model folders in a bucket: merged from there to there, as they were listed, and never over another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from ftlib.errors import StorageError
from ftlib.storage import Place, model_folders
from ftlib.storage.model_folders import fetch_folder, put_folder
from ftlib.storage.store import StoredObject
from ftlib.testing import tiny_checkpoint


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Path, Path]:
    start = tiny_checkpoint(tmp_path / "start", phase="probe")
    return start.path / "model", tiny_checkpoint(tmp_path / "end", start=start, seed=1).path / "model"


def test_a_folder_goes_up_and_comes_back(
    bucket: Any, s3_endpoint: str, ends: tuple[Path, Path], tmp_path: Path
) -> None:
    uri = f"s3://{bucket.name}/models/one"
    put_folder(ends[0], Place.parse(uri, s3_endpoint))
    with pytest.raises(StorageError, match=r"holds models/one/config\.json already"):
        put_folder(ends[1], Place.parse(uri, s3_endpoint))
    bucket.put_object(Key="models/one/runs/events.log", Body=b"not of the model")
    fetched = fetch_folder(Place.parse(uri + "/", s3_endpoint), tmp_path / "cache")
    assert digests(fetched) == digests(ends[0])
    times = {path: path.stat().st_mtime_ns for path in fetched.iterdir()}
    assert fetch_folder(Place.parse(uri, s3_endpoint), tmp_path / "cache") == fetched
    assert {path: path.stat().st_mtime_ns for path in fetched.iterdir()} == times
    bucket.put_object(Key="models/one/model.safetensors", Body=(ends[1] / "model.safetensors").read_bytes())
    assert digests(fetch_folder(Place.parse(uri, s3_endpoint), tmp_path / "cache")) == {
        **digests(ends[0]),
        "model.safetensors": digests(ends[1])["model.safetensors"],
    }


def test_two_that_fetch_a_folder_at_once_both_have_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, cache = Place.parse("s3://bucket/models/one"), tmp_path / "cache"
    listed = [StoredObject(f"models/one/{name}", "v1", 10, 0.0) for name in ("a.safetensors", "config.json")]
    others: list[Path] = []

    class Slow:
        """Whose first file takes as long as another process's whole copy."""

        def uri(self, key: str) -> str:
            return f"s3://bucket/{key}"

        def walk(self, prefix: str) -> list[StoredObject]:
            return listed

        def copy(self, stored: StoredObject, target: BinaryIO) -> None:
            target.write(b"x" * 5)
            target.flush()
            if not others:
                others.append(tmp_path)
                others[0] = fetch_folder(place, cache)
            target.write(b"x" * 5)

    monkeypatch.setattr(model_folders, "open_objects", lambda place: Slow())
    folder = fetch_folder(place, cache)
    assert others == [folder]
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {"a.safetensors": 10, "config.json": 10}
    assert list(cache.iterdir()) == [folder]


def test_a_merge_from_a_bucket_to_a_bucket_is_the_local_one(
    bucket: Any, s3_endpoint: str, ends: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put_folder(ends[0], Place.parse(f"s3://{bucket.name}/a", s3_endpoint))
    put_folder(ends[1], Place.parse(f"s3://{bucket.name}/b", s3_endpoint))

    def merged(*words: object) -> Any:
        how = ["--alpha", "0.3", "--max-shard-mb", "1", "--endpoint-url", s3_endpoint, "--json"]
        return CliRunner().invoke(main, ["interpolate", *map(str, words), *how])

    local = merged(*ends, "--out", tmp_path / "out")
    assert local.exit_code == 0, local.output
    there = merged(f"s3://{bucket.name}/a", f"s3://{bucket.name}/b/", "--out", f"s3://{bucket.name}/c")
    assert there.exit_code == 0, there.output
    assert json.loads(there.stdout)["folder"] == f"s3://{bucket.name}/c"
    back = fetch_folder(Place.parse(f"s3://{bucket.name}/c", s3_endpoint), tmp_path / "back")
    records = [json.loads((folder / "merge.json").read_text()) for folder in (back, tmp_path / "out")]
    assert records[0].pop("checkpoints") != records[1].pop("checkpoints")  # other names of the same weights
    assert records[0] == records[1]
    found, expected = ({**digests(folder), "merge.json": ""} for folder in (back, tmp_path / "out"))
    assert found == expected
    again = merged(f"s3://{bucket.name}/a", f"s3://{bucket.name}/b", "--out", f"s3://{bucket.name}/c")
    assert again.exit_code == 6
    assert "holds c/config.json already" in again.output


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "is no storage this can open"),
        ("s3://only-a-bucket", "names no folder of a bucket"),
        ("/a/folder", "names no folder of a bucket"),
        ("s3://BUCKET/nothing/here", "has no config.json"),
    ],
)
def test_what_is_no_model_folder_is_said(bucket: Any, s3_endpoint: str, uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=message):
        fetch_folder(Place.parse(uri.replace("BUCKET", bucket.name), s3_endpoint), tmp_path)
    assert not list(tmp_path.iterdir())
