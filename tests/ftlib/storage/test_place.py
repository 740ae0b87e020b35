from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftlib.data.sources.files import Files
from ftlib.errors import RecipeError, StorageError
from ftlib.registry.places.folder import Folder
from ftlib.registry.places.s3 import S3
from ftlib.storage import Place, open_objects
from ftlib.storage.place import is_remote

ROOT = Path(__file__).parents[3]
SAID_BY_A_PERSON = {
    "ftlib/data/sources/files.py",  # fields of the recipe
    "ftlib/data/sources/image_folder.py",
    "ftlib/data/sources/feedback.py",
    "ftlib/data/sources/stored_files.py",
    "ftlib/models/reference.py",
    "ftlib/registry/places/s3.py",
    "ftlib/registry/places/__init__.py",  # back from a place to what a recipe says
    "ftlib/artifacts.py",  # what an artifact says of its place
    "flows/command_line/options.py",
    "ftlib/published/work_roots.py",
    "flows/command_line/copy_version.py",  # options, and their help
    "flows/command_line/deploy.py",
    "flows/command_line/doctor.py",
    "flows/command_line/forget.py",
    "flows/command_line/interpolate.py",
    "flows/command_line/registry_options.py",
    "flows/promote.py",  # fields of a form
    "flows/evaluate.py",
    "flows/finetune.py",
    "flows/retrain.py",
    "flows/interpolate.py",
    "flows/janitor.py",
    "flows/watch.py",
    "flows/monitor.py",
    "flows/search.py",
    "flows/pages/form_schema.py",  # their titles
    "flows/command_line/monitor.py",
    "flows/command_line/serve.py",
    "flows/retraining/live_look.py",  # a log that is given instead of the recipe's
    "ftlib/answer_log/place.py",
    "ftlib/serving/plan.py",
    "ftlib/serving/server.py",
}


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("registry", ("", "", "registry")),
        ("/a/b/", ("", "", "/a/b/")),
        ("~/x", ("", "", "~/x")),
        ("", ("", "", "")),
        ("s3://b", ("s3", "b", "")),
        ("s3://b/", ("s3", "b", "")),
        ("s3://b/p/q/*.jsonl", ("s3", "b", "p/q/*.jsonl")),
        ("s3://b//p/", ("s3", "b", "/p/")),
        ("gs://b/p", ("gs", "b", "p")),
        ("abfs://c/p", ("abfs", "c", "p")),
        ("abfs://rows@acc.dfs.core.windows.net/p/q", ("abfs", "rows@acc.dfs.core.windows.net", "p/q")),
    ],
)
def test_a_place_is_taken_apart_and_written_the_same(uri: str, parts: tuple[str, str, str]) -> None:
    place = Place.parse(uri, "http://server")
    assert (place.scheme, place.bucket, place.key) == parts
    assert place.uri.rstrip("/") == uri.rstrip("/")
    assert place.remote == is_remote(uri) == ("://" in uri)
    assert place.beside("s3://c/d") == Place("s3", "c", "d", "http://server")


@pytest.mark.parametrize(
    "uri", ["gcs://b/p", "az://b", "S3://b", "s3://", "s3:///p", "http://host/x", "://x", "s3:/b/p"]
)
def test_what_cannot_be_opened_names_what_can(uri: str) -> None:
    with pytest.raises(StorageError, match="allowed are a folder's path, s3://bucket/prefix"):
        Place.parse(uri)
    with pytest.raises(RecipeError, match="allowed are a folder's path, s3://bucket/prefix"):
        Files(path=uri).list()


@pytest.mark.parametrize("uri", ["gcs://b/p", "S3://b", "ftp://host/x", "s3:/b/p", "file:///x"])
def test_another_scheme_is_no_folder(uri: str) -> None:
    with pytest.raises(StorageError, match=f"{uri!r} is no storage this can open; allowed are a folder's path"):
        is_remote(uri)


def test_a_folder_may_be_called_like_a_scheme() -> None:
    assert not is_remote("./s3:/b")
    assert Place.parse("./s3:/b").key == "./s3:/b"


def test_azure_writes_a_scheme_twice() -> None:
    uri = "//rows@acc.dfs.core.windows.net/p"
    assert Place.parse(f"abfss:{uri}") == Place.parse(f"abfs:{uri}")
    assert is_remote(f"abfss:{uri}")


@pytest.mark.parametrize(
    "uri",
    [
        "abfs://rows:wJalr@acc.dfs.core.windows.net/p",
        "abfs://rows@acc.dfs.core.windows.net/p?sig=wJalr",
    ],
)
def test_a_secret_of_azure_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="would stand in records") as caught:
        Place.parse(uri)
    assert "wJalr" not in str(caught.value)


def test_a_secret_is_refused_before_it_is_cut_in_two() -> None:
    with pytest.raises(StorageError, match="would stand in records") as caught:
        Place.parse("s3://AKIA:wJalr/XUtn@bucket/p")
    assert "wJalr" not in str(caught.value)


@pytest.mark.parametrize("uri", ["registry", "s3://b", "s3://b/"])
def test_no_folder_of_a_bucket(uri: str) -> None:
    with pytest.raises(StorageError, match="names no folder of a bucket; write s3://bucket/folder"):
        Place.parse(uri).folder()


def test_a_folder_has_no_objects() -> None:
    with pytest.raises(StorageError, match="is in no bucket"):
        open_objects(Place.parse("rows"))


def test_registries_say_how_they_are_pulled_from() -> None:
    assert Folder(path="r").place().server_option() == ""
    assert S3(bucket="b").place().server_option() == ""
    named = S3(bucket="b", prefix="p/", endpoint_url="http://server").place()
    assert (named.uri, named.server_option()) == ("s3://b/p/", " --endpoint-url http://server")
    assert named == Place.parse("s3://b/p/", "http://server")


def test_schemes_and_servers_are_known_in_one_package() -> None:
    """gs:// and abfs:// are then a file and two lines."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("flows", "ftlib", "tasks")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"s3://|\bendpoint_url\b", path.read_text(encoding="utf-8"))
    }
    assert {path for path in found if not path.startswith("ftlib/storage/")} == SAID_BY_A_PERSON
